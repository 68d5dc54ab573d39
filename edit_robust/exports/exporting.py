"""A run's edited model as a folder: whole or not there at all."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edit_robust.core import UserError
from edit_robust.exports.card import write_card
from edit_robust.exports.edited import Edited, check_kept, edited, step_after
from edit_robust.exports.formats import format_for, format_named
from edit_robust.runs.reader import Run


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, the name of its format, and the code that loads it."""

    folder: Path
    to: str
    loading: str

    @property
    def remarks(self) -> list[str]:
        """What was lost on the way: the comments on a change that was cut."""
        return [line.removeprefix("# ") for line in self.loading.splitlines() if "relative error" in line]


def export(
    run: Run,
    folder: Path,
    to: str | None = None,
    alpha: float = 1.0,
    upto: int | None = None,
    rank: int | None = None,
) -> Exported:
    """Write a run's edited model to a new folder.

    to:    hf, open_clip, timm, weights (the whole model), peft or safetensors (the change alone); None: the first that
           suits the model.
    alpha: how much of the change.   upto: after so many of the run's edits; None: all.
    rank:  of an adapter, down to which changes are cut; None: they are kept as they are.
    Raises UserError, and writes nothing, for a folder that is not empty, for what the run has not kept, for another
    model than the one it edited, and for a format that does not suit.
    """
    check_empty(folder)
    check_options(to, alpha, rank)
    check_kept(run)
    if upto is not None:
        step_after(run, upto)
    return write(edited(run, alpha, upto), folder, to, rank)


def check_options(to: str | None, alpha: float, rank: int | None) -> None:
    """What can be said before a model is loaded."""
    if to is not None:
        format_named(to)
    if not math.isfinite(alpha):
        raise UserError(f"--alpha {alpha} must be a finite number")
    if rank is not None and to != "peft":
        raise UserError("--rank goes with --to peft: the other formats keep the change as it is")
    if rank is not None and rank < 1:
        raise UserError(f"--rank {rank} must be at least 1")


def check_empty(folder: Path) -> None:
    """UserError for a place where something stands already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: give a new folder")


def write(found: Edited, folder: Path, to: str | None = None, rank: int | None = None) -> Exported:
    """Write a model that stands at edited weights, with its card."""
    name, chosen = format_for(found.model, to)
    with _new(folder) as made:
        loading = chosen.write(found, made, rank)
        write_card(found, made, chosen.library, loading.replace("FOLDER", folder.name))
    return Exported(folder, name, loading.replace("FOLDER", str(folder)))


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its name when the block ends well, and vanishes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield made
        made.chmod(0o755)
        if folder.exists():
            folder.rmdir()  # empty, as was seen before
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
