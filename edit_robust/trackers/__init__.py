"""Trackers mirror a run's records somewhere else. They only ever write; a run never depends on one."""

from edit_robust.trackers.base import Tracker
from edit_robust.trackers.none import NoTracker
from edit_robust.trackers.wandb import WandbTracker

__all__ = ["NoTracker", "Tracker", "WandbTracker"]
