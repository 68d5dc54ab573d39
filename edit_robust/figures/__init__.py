"""Figures: pure functions of records. They know pandas and matplotlib, and no model library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from edit_robust.figures import distance, edits, forgetting, interpolation, retention, scaling, style, sweep
from edit_robust.figures.frame import RunData

ALL: tuple[ModuleType, ...] = (scaling, retention, forgetting, distance, edits, interpolation, sweep)
FORMATS = ("png", "pdf", "svg")

__all__ = ["ALL", "FORMATS", "RunData", "by_name", "draw_all"]


def by_name(name: str) -> ModuleType:
    """The figure of that name. Raises UserError, with the nearest name, when there is none."""
    for module in ALL:
        if name == module.NAME:
            return module
    # Imported here because the package around it imports torch, which no figure needs.
    from edit_robust.core.errors import UserError, nearest

    raise UserError(f'there is no figure "{name}": {nearest(name, [m.NAME for m in ALL], "figures")}')


def draw_all(
    runs: Sequence[RunData],
    out_dir: Path,
    names: Sequence[str] | None = None,
    formats: Sequence[str] = ("png", "pdf"),
) -> list[Path]:
    """Draw every figure that applies, or the named ones, to `out_dir/<name>.<format>`; gives back what was written.

    A figure asked for by name is drawn even where the runs hold nothing for it, and then says so.
    Raises UserError for an unknown name or format, before anything is drawn.
    """
    for kind in formats:
        if kind not in FORMATS:
            from edit_robust.core.errors import UserError, nearest

            raise UserError(f'figures cannot be written as "{kind}": {nearest(kind, FORMATS, "formats")}')
    wanted = [module for module in ALL if module.applies(runs)] if names is None else [by_name(n) for n in names]
    out_dir.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for module in wanted:
        figure = module.draw(runs)
        written += style.save(figure, out_dir / module.NAME, formats)
        figure.clear()
    return written
