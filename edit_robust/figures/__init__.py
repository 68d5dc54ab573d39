"""Figures: pure functions of records. They know pandas and matplotlib, and no model library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure

from edit_robust.core.errors import UserError, nearest
from edit_robust.figures import distance, edits, leaderboard, style
from edit_robust.figures.frame import RunData
from edit_robust.figures.language import (
    downstream,
    editors,
    forgetting,
    generation,
    interpolation,
    retention,
    retention_matrix,
    ripple,
    samples,
    scaling,
    survival,
    sweep,
    text_shifts,
    warning_signs,
)
from edit_robust.figures.vision import (
    corruptions,
    edit_accuracy,
    editing_penalty,
    effective,
    layer_map,
    original_penalty,
    patching,
    patching_alpha,
    patching_breaks,
    patching_corruptions,
    patching_corruptions_task,
    patching_layers,
    patching_robustness,
    patching_row,
    patching_shifts,
    tradeoff,
    triple,
)


class Module(Protocol):
    """What a module must have to be a figure.

    One that says something only about several runs also has `enough(runs) -> bool`: whether these, all of which it
    wants, tell enough to be drawn.
    """

    NAME: str
    TITLE: str
    CAPTION: str

    def wants(self, run: RunData) -> bool:
        """Whether the run holds the records that this figure draws."""

    def draw(self, runs: Sequence[RunData]) -> Figure:
        """The figure of these runs; of none it says that nothing was measured."""


#: Every figure, in the order in which pages show them. A new one is a module and its name here.
ALL: tuple[Module, ...] = (
    *(leaderboard, editors, scaling, retention, forgetting, retention_matrix, survival, distance, edits, warning_signs),
    *(samples, interpolation, sweep),
    *(downstream, generation, ripple, text_shifts),
    *(triple, edit_accuracy, tradeoff, original_penalty, editing_penalty, corruptions, layer_map, effective),
    *(patching_shifts, patching, patching_alpha, patching_corruptions, patching_corruptions_task, patching_layers),
    *(patching_breaks, patching_robustness, patching_row),
)
FORMATS = ("png", "pdf", "svg")

__all__ = ["ALL", "FORMATS", "Module", "RunData", "applies", "by_name", "draw_all", "suited"]


def suited(module: Module, runs: Sequence[RunData]) -> list[RunData]:
    """The runs that hold what a figure draws."""
    return [run for run in runs if module.wants(run)]


def applies(module: Module, runs: Sequence[RunData]) -> bool:
    """Whether these runs hold enough for a figure."""
    found = suited(module, runs)
    enough = getattr(module, "enough", bool)
    return bool(found) and bool(enough(found))


def by_name(name: str) -> Module:
    """The figure of that name. Raises UserError, with the nearest name, when there is none."""
    for module in ALL:
        if name == module.NAME:
            return module
    raise UserError(f'there is no figure "{name}": {nearest(name, [m.NAME for m in ALL], "figures")}')


def draw_all(
    runs: Sequence[RunData],
    out_dir: Path,
    names: Sequence[str] | None = None,
    formats: Sequence[str] = ("png", "pdf"),
    also: Callable[[Module, Figure], None] | None = None,
) -> list[Path]:
    """Draw every figure that applies, or the named ones, to `out_dir/<name>.<format>`; gives back what was written.

    A figure asked for by name is drawn even where the runs hold nothing for it, and then says so.
    also: called with each figure once it is written.
    Raises UserError for an unknown name or format, before anything is drawn.
    """
    for kind in formats:
        if kind not in FORMATS:
            raise UserError(f'figures cannot be written as "{kind}": {nearest(kind, FORMATS, "formats")}')
    wanted = [module for module in ALL if applies(module, runs)]
    wanted = wanted if names is None else [by_name(name) for name in names]
    out_dir.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for module in wanted:
        figure = module.draw(suited(module, runs))
        written += style.save(figure, out_dir / module.NAME, formats)
        if also is not None:
            also(module, figure)
        figure.clear()
    return written
