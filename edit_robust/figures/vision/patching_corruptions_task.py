"""Every single corruption of the original task against the taught task, along alpha."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.patching_corruptions import draw_blocks, wants

__all__ = ["CAPTION", "NAME", "TITLE", "draw", "wants"]

NAME = "patching-corruptions-task"
TITLE = "Patching: every corruption against the taught task"
CAPTION = (
    "Up: accuracy on the original task under each corruption at severity 3 (or the measured one nearest to it). "
    "Right: accuracy on the taught task at the same alpha. Curves go from the unedited model (star) to the fine-tuned "
    "one (large dot): coloured where a single layer was trained, black where the whole image tower was. Where a "
    "coloured curve is above the black one, training that layer alone costs less under this corruption for the same "
    "success. Means over seeds, a block of panels a task. (Figure 8 of the vision paper.)"
)


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Accuracy under each corruption against the taught task's."""
    return draw_blocks(runs, TITLE, "task", "the taught task, %")
