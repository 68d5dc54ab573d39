"""The types an experiment flows through. Knows torch and numpy, but no model library.

Names are imported when they are first used: what reads and draws runs needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edit_robust.core.errors import UserError, nearest

if TYPE_CHECKING:
    from edit_robust.core.data import Column, Example, ImageRequest, Probe, Record, Request, Ripple, Scores, TextRequest
    from edit_robust.core.delta import Delta, Dense, LowRank
    from edit_robust.core.editable import Editable, Layer

_WHERE = {
    **dict.fromkeys(
        ("Column", "Example", "ImageRequest", "Probe", "Record", "Request", "Ripple", "Scores", "TextRequest"), "data"
    ),
    **dict.fromkeys(("Delta", "Dense", "LowRank"), "delta"),
    **dict.fromkeys(("Editable", "Layer"), "editable"),
}
__all__ = [
    "Column",
    "Delta",
    "Dense",
    "Editable",
    "Example",
    "ImageRequest",
    "Layer",
    "LowRank",
    "Probe",
    "Record",
    "Request",
    "Ripple",
    "Scores",
    "TextRequest",
    "UserError",
    "nearest",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _WHERE:
        return getattr(importlib.import_module(f"edit_robust.core.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
