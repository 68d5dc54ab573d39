"""The types an experiment flows through. Knows torch and numpy, but no model library."""

from edit_robust.core.data import Example, Probe, Record, Request, Scores
from edit_robust.core.delta import Delta, Dense, LowRank
from edit_robust.core.editable import Editable, Layer
from edit_robust.core.errors import UserError, nearest

__all__ = [
    "Delta",
    "Dense",
    "Editable",
    "Example",
    "Layer",
    "LowRank",
    "Probe",
    "Record",
    "Request",
    "Scores",
    "UserError",
    "nearest",
]
