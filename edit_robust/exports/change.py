"""The change alone, in edit-robust's own form: what `edit-robust apply` adds to another copy of the same model."""

from __future__ import annotations

from pathlib import Path

from edit_robust.exports.edited import Edited
from edit_robust.models.base import Model

FILE = "delta.safetensors"


def lacks(model: Model) -> str:
    """Every model's change can be kept."""
    return ""


def write(edited: Edited, folder: Path, rank: int | None) -> str:
    """Write the change: `PARAMETER|u` [d_out, r] and `PARAMETER|v` [d_in, r] of factors, `PARAMETER|m` of matrices,
    and in the header the hash of the model that it is a change of. -> how it is loaded"""
    edited.change.save(folder / FILE)
    return f"""# on the command line: edit-robust apply FOLDER --to MODEL --out NEW_FOLDER
from edit_robust.core import Delta

delta = Delta.load("FOLDER/{FILE}")  # delta.base is the hash of the unedited model"""
