"""What the edits were made from: an image, its counterpart with the new concept, and where the two differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.grouping import natural

NAME = "triples"
TITLE = "What the edits were made from"
CAPTION = (
    "One row a request, training images only. x is answered right by the unedited model; x' shows the new concept in "
    "the place that is white in the mask, and the edit makes the model treat x' as it treats x."
)
PARTS = (("clean", "x: the image"), ("edited", "x': with the new concept"), ("mask", "where they differ"))
#: Rows and triples a row at most.
ROWS, SETS = 8, 3


def triples(runs: Sequence[RunData]) -> dict[str, list[dict[str, np.ndarray]]]:
    """The kept triples of every request, in natural order of the names; of equal requests those of the first run."""
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    for run in runs:
        file = run.path / "triples.npz" if run.path is not None else None
        if file is None or not file.is_file():
            continue
        task = str(setting(run.config, "task.name", ""))
        with np.load(file, allow_pickle=False) as arrays:
            for name in sorted({key.rsplit("|", 2)[0] for key in arrays.files}):
                label = name if len({setting(one.config, "task.name", "") for one in runs}) < 2 else f"{task}: {name}"
                if label in found:
                    continue
                sets = ({part: f"{name}|{part}|{k}" for part, _ in PARTS} for k in range(SETS))
                found[label] = [{p: arrays[k] for p, k in one.items()} for one in sets if one["clean"] in arrays.files]
    return {name: found[name] for name in sorted(found, key=natural) if found[name]}


def wants(run: RunData) -> bool:
    """Whether the run kept triples."""
    return run.path is not None and (run.path / "triples.npz").is_file()


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Rows of three pictures; a single request, or two, show up to three triples side by side."""
    found = triples(runs)
    names = list(found)[:ROWS]
    sets = max((len(found[name]) for name in names), default=1) if len(names) <= 2 else 1
    more = f" ({len(found) - ROWS} more requests are not shown)" if len(found) > ROWS else ""
    title = TITLE + more
    figure, axes = style.panels(title, max(len(names), 1), 3 * sets if names else 1, width=1.75, height=1.6)
    if not names:
        style.empty(axes[0][0], "no training images were kept")
        return figure
    for number, name in enumerate(names):
        for place, ax in enumerate(axes[number]):
            k, part = divmod(place, 3)
            blank(ax)
            if k < len(found[name]):
                show(ax, found[name][k][PARTS[part][0]])
            if number == 0:
                ax.set_title(PARTS[part][1], fontsize=9)
        axes[number][0].set_ylabel(name, fontsize=9)
    return figure


def blank(ax: Axes) -> None:
    """No ticks, and a thin frame, without which a white mask could not be seen on white paper."""
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set(visible=True, linewidth=0.6, color="#b5b5b5")


def show(ax: Axes, pixels: np.ndarray) -> None:
    """A colour image, or a mask of zeros and anything else."""
    look: dict[str, Any] = {"interpolation": "nearest"}
    if pixels.ndim == 2 or pixels.shape[-1] == 1:
        ax.imshow(np.squeeze(pixels) > 0, cmap="gray", vmin=0, vmax=1, **look)
    else:
        ax.imshow(pixels, **look)
