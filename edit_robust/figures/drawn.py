"""One figure of some runs as files, with a line below its title where something is to be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from edit_robust.figures import style
from edit_robust.figures.frame import RunData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edit_robust.figures import Module


def drawn(module: Module, runs: Sequence[RunData], stem: Path, formats: Sequence[str], note: str = "") -> list[Path]:
    """Draw a figure of these runs to `stem.<format>`; gives back what was written. note: see `noted`."""
    figure = module.draw(runs)
    noted(figure, note)
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = style.save(figure, stem, formats)
    figure.clear()
    return written


def noted(figure: Figure, note: str) -> None:
    """Put a line below the figure's title, as wide as the figure; the panels move down for it."""
    title = figure.get_suptitle()
    if not note:
        return
    width = max(int(figure.get_figwidth() * 9.5), 40)
    text = fill(note, width)
    figure.set_figheight(figure.get_figheight() + 0.2 * (text.count("\n") + 1))
    figure.suptitle(f"{title}\n{text}", x=0.012, ha="left", fontsize=11, fontweight="bold", linespacing=1.35)
