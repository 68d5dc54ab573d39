"""Figures: pure functions of records. They know pandas and matplotlib, and no model library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.language import distance, edits, forgetting, interpolation, retention, scaling, sweep
from edit_robust.figures.vision import (
    corruptions,
    edit_accuracy,
    editing_penalty,
    effective,
    layer_map,
    original_penalty,
    tradeoff,
    triple,
)

LANGUAGE: tuple[ModuleType, ...] = (scaling, retention, forgetting, distance, edits, interpolation, sweep)
IMAGES: tuple[ModuleType, ...] = (
    *(triple, edit_accuracy, tradeoff, original_penalty, editing_penalty, corruptions, layer_map, effective),
)
ALL: tuple[ModuleType, ...] = (*LANGUAGE, *IMAGES)
FORMATS = ("png", "pdf", "svg")

__all__ = ["ALL", "FORMATS", "IMAGES", "LANGUAGE", "RunData", "by_name", "draw_all", "suited"]


def suited(module: ModuleType, runs: Sequence[RunData]) -> list[RunData]:
    """The runs that a figure is about: those on images, or those on language."""
    return [run for run in runs if run.is_image == (module in IMAGES)]


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
    wanted = [module for module in ALL if module.applies(suited(module, runs))]
    wanted = wanted if names is None else [by_name(name) for name in names]
    out_dir.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for module in wanted:
        figure = module.draw(suited(module, runs))
        written += style.save(figure, out_dir / module.NAME, formats)
        figure.clear()
    return written
