"""How much of the edit is lost when its images are corrupted (eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.common import (
    best_layers,
    corrupt_variants,
    curve,
    gather,
    interval,
    numbered,
    points_axis,
    signed,
    whisker,
)
from edit_robust.figures.vision.edit_accuracy import layers_text, size

NAME = "editing-penalty"
TITLE = "What corruptions take from the edit (eq. 2)"
CAPTION = (
    "Accuracy on corrupted images of the new concept less accuracy on the clean ones, of the same edited model: the "
    "mean over all corruptions and severities, then over pairs, at the layer that edits best. Grey beside each bar: "
    "the drop that the unedited model has on the same images. Only what goes beyond the grey bar is the edit's own "
    "brittleness; a model that got few of the clean images right has little to lose. Whiskers: 95 % t "
    "interval over pairs. (Figure 2b of the vision paper.)"
)


def wants(run: RunData) -> bool:
    """Whether the run asked about corrupted images of its edit."""
    return bool(curve(run).editing_ood_penalty.notna().any())


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A cluster a model, a bar a method, and the unedited model's own drop beside each."""
    table = best_layers(gather(runs)).dropna(subset="editing_ood_penalty")
    models, colors = numbered(table.model), numbered(table.method)
    width = max(7.0, 1.6 + len(models) * (0.6 + 0.95 * len(colors)))
    figure, axes = style.panels(TITLE, 1, 1, width=min(width, 13.0), height=3.3)
    ax = axes[0][0]
    step = 0.86 / max(len(colors), 1)
    lowest = 0.0
    for (model, method), rows in table.groupby(["model", "method"]):
        left = models[str(model)] - 0.43 + step * colors[str(method)]
        both = (
            (
                interval(rows.editing_ood_penalty, rows.pair),
                left + step * 0.31,
                0.54,
                style.color_of(colors[str(method)]),
            ),
            (interval(rows.unedited_editing_ood_penalty, rows.pair), left + step * 0.74, 0.26, "#b5b5b5"),
        )
        for found, x, wide, color in both:
            ax.bar(x, 100 * found[0], step * wide, color=color, edgecolor="white")
            whisker(ax, x, found)
            end = min([100 * value for value in (found[0], found[1]) if value == value] or [0.0])
            ax.text(x, min(end, 0) - 0.6, signed(100 * found[0]), ha="center", va="top", fontsize=8)
            lowest = min(lowest, end)
        ax.text(left + step * 0.31, 0.4, layers_text(rows), ha="center", va="bottom", fontsize=7.5, color=style.GREY)
    if not style.empty(ax):
        points_axis(ax, "accuracy lost, percentage points")
        ax.set_ylim(bottom=1.14 * lowest - 1, top=max(ax.get_ylim()[1], -0.08 * lowest))
        ax.grid(False, axis="x")
        variants = corrupt_variants(runs, "edit")
        texts = [f"{model}\n{size(table[table.model == model])}, {variants}" for model in models]
        ax.set_xticks(list(models.values()), texts)
        ax.set_xlim(-0.5, len(models) - 0.5)
    entries: list[Any] = [style.Patch(color=style.color_of(number), label=name) for name, number in colors.items()]
    grey = [style.Patch(color="#b5b5b5", label="unedited model's own drop, same images")] if len(table) else []
    style.legend(figure, [*entries, *grey])
    return figure
