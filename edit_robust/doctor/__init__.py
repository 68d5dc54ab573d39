"""Is everything here that runs need? Versions, devices, memory, disk, caches, models and data, each with a mend."""

from __future__ import annotations

from pathlib import Path

from edit_robust.doctor.caches import cache_findings
from edit_robust.doctor.finding import Finding
from edit_robust.doctor.libraries import of_libraries
from edit_robust.doctor.machine import of_machine
from edit_robust.doctor.parts import data, models, tracking

__all__ = ["Finding", "examined"]


def examined(outputs: Path) -> list[Finding]:
    """Everything that can be found out without the network. outputs: the folder that runs are written to."""
    return [*of_libraries(), *of_machine(outputs), *tracking(), *cache_findings(outputs), *models(), *data()]
