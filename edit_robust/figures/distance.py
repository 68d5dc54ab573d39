"""How far the edited layers have moved away from where they began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.figures import endings, style
from edit_robust.figures.frame import RunData, is_sequence, rows, sequences, series
from edit_robust.figures.grouping import groups
from edit_robust.figures.layers import short_names

NAME = "distance"
TITLE = "How far the edited layers have moved"
CAPTION = (
    "Distance of the edited weights from the original ones. Left: Frobenius norm, on a logarithmic axis where editors "
    "end far apart. Right: the same divided by the number of weights, on a logarithmic axis, which is how the scaling "
    "paper's code reports it. A sudden jump marks an edit that disables the model."
)
#: For layers beyond those that dashes tell apart.
MARKERS = ("o", "s", "^", "D")
#: Lines that end so many times as high as others need a logarithmic axis.
WIDE = 100.0
PANELS = (("drift_fro", "Frobenius norm ‖W - W₀‖"), ("drift_per_element", "‖W - W₀‖ per weight (log axis)"))


def wants(run: RunData) -> bool:
    """Whether a sequence recorded how far its layers moved."""
    return is_sequence(run) and len(rows(run, scope="model", metric=("drift_fro", "drift_per_element"))) > 0


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Layer distance against the number of edits; a colour a group, a dash a layer (a colour a layer for one group)."""
    runs = sequences(runs)
    all_groups = groups(runs)
    figure, axes = style.panels(TITLE, 1, len(PANELS), width=4.7, height=3.1)
    names = sorted({layer for run in runs for layer in rows(run, scope="model", metric="drift_fro")["layer"]})
    short = short_names(names)
    order = sorted(names, key=lambda name: (len(short[name]), short[name]))
    for ax, (metric, title) in zip(axes[0], PANELS, strict=True):
        for group in all_groups:
            for place, layer in enumerate(order):
                found = [series(run, scope="model", metric=metric, layer=layer) for run in group.runs]
                if metric == "drift_per_element":
                    found = [one[one > 0] for one in found]
                color, dash = look(len(all_groups), group.number, place)
                style.line(ax, curve := style.combine(found), color, linestyle=dash, **marks(len(order), place))
                if place == 0:
                    endings.mark(ax, group.runs, curve, color, beside=endings.longest(runs))
        ax.set_title(title)
        if not style.empty(ax):
            style.count_axis(ax, "number of edits in the model")
            if wide(ax):
                for one in ax.lines:  # the unedited model has not moved: no place on a logarithmic axis
                    moved = np.asarray(one.get_ydata(), dtype=float)
                    one.set_ydata(np.where(moved > 0, moved, np.nan))
                ax.set_title(f"{title} (log axis)" if "log" not in title else title)
                style.log_axis(ax)
            elif metric == "drift_fro":
                ax.set_ylim(bottom=0)
                ax.yaxis.set_major_formatter(style.FuncFormatter(lambda value, _: style.plain(value)))
            else:
                style.log_axis(ax)
    alone = len(all_groups) == 1
    colors = [] if alone and len(order) > 1 else [style.handle(g.legend, style.color_of(g.number)) for g in all_groups]
    layers = []
    if len(order) > 1:
        for place, layer in enumerate(order):
            color, dash = look(len(all_groups), 0, place)
            shape = marks(len(order), place)
            layers.append(style.handle(short[layer], color if alone else style.GREY, linestyle=dash, **shape))
    length = 3.8 if marks(len(order), 0) else 2.4  # a marker must not hide what dash it stands on
    style.legend(figure, [*colors, *layers, *style.band_handle(len(group.runs) for group in all_groups)], length)
    return figure


def look(n_groups: int, group: int, place: int) -> tuple[str, object]:
    """Colour and dash of a layer: colours tell groups apart where there are several, else layers."""
    if n_groups == 1:
        return style.color_of(place), style.dash_of(place)
    return style.color_of(group), style.DASHES[place % len(style.DASHES)]


def marks(n: int, place: int) -> dict[str, Any]:
    """Markers that tell layers apart where there are more of them than dashes."""
    if n <= len(style.DASHES):
        return {}
    return {"marker": MARKERS[place // len(style.DASHES) % len(MARKERS)], "markersize": 4.5}


def wide(ax: Axes) -> bool:
    """Whether one line of a panel is so far above another's end that a linear axis would hide that one."""
    ends = [float(np.nanmax(values)) for one in ax.lines if len(values := np.asarray(one.get_ydata(), dtype=float))]
    ends = [end for end in ends if np.isfinite(end) and end > 0]
    return bool(ends) and max(ends) > WIDE * min(ends)
