"""One figure of some runs as files, with a line below its title where something is to be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib

from edit_robust.figures import style
from edit_robust.figures.frame import RunData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edit_robust.figures import Module

#: Letters of a note to an inch of the figure's width, and inches that a line of it takes.
LETTERS, LINE = 12.5, 0.24


def drawn(module: Module, runs: Sequence[RunData], stem: Path, formats: Sequence[str], note: str = "") -> list[Path]:
    """Draw a figure of these runs to `stem.<format>`; gives back what was written. note: see `noted`."""
    figure = module.draw(runs)
    noted(figure, note)
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = style.save(figure, stem, formats)
    figure.clear()
    return written


def noted(figure: Figure, note: str) -> None:
    """Put a note below the figure's title, as wide as the figure; the panels move down for it."""
    if not note:
        return
    with matplotlib.rc_context(style.RC):
        text = fill(note, max(int(figure.get_figwidth() * LETTERS), 30))
        lines = text.count("\n") + 1
        figure.set_figheight(figure.get_figheight() + LINE * lines)
        title = figure.suptitle(
            figure.get_suptitle() + "\n " * lines, x=0.012, ha="left", fontsize=12.5, fontweight="bold"
        )
        figure.draw_without_rendering()  # now it is known where the title stands, with room below it
        bottom = title.get_window_extent().transformed(figure.transFigure.inverted()).y0
        said = figure.text(0.012, bottom, text, va="bottom", fontsize=9.5, color=style.GREY, linespacing=1.25)
        said.set_in_layout(False)
