"""One calm look for all figures: sizes, colours, axes, bands, legends. Never touches pyplot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Okabe and Ito's palette, without its yellow (too pale on white).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
#: For an eighth group and more: other hues, as distinct as so many can be.
MORE = ("#882255", "#999933", "#44AA99", "#AA4499", "#332288", "#661100", "#8c8c8c")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))
GREY = "#6b6b6b"
INK = "#222222"
RC: Any = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.edgecolor": "#9a9a9a",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": "#9a9a9a",
    "ytick.color": "#9a9a9a",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "text.parse_math": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "edit-robust",
}
# Two-sided 95 % quantiles of Student's t for 3 to 30 degrees of freedom.
T95 = (
    *(3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120),
    *(2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean over runs against x; the band is min to max, from four runs on the 95 % interval of the mean."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw under the common look, and leave matplotlib's settings as they were."""

    @wraps(draw)
    def inner(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return inner


def panels(title: str, nrows: int, ncols: int, width: float = 3.7, height: float = 2.75) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of panels (always two-dimensional) and its title at the top left."""
    size = (max(width * ncols, 5.2), height * nrows + 0.9)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.07, wspace=0.02, hspace=0.03)
    figure = Figure(figsize=size, layout=layout, facecolor="white")
    figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
    return figure, figure.subplots(nrows, ncols, squeeze=False)


def combine(values: Iterable[pd.Series], log: bool = False) -> Curve:
    """The curve of several runs; at each x over the runs that have a value there. `log`: geometric means."""
    kept = [one for one in values if len(one)]
    if not kept:
        empty = np.empty(0)
        return Curve(empty, empty, empty, empty, 0)
    table = pd.concat(kept, axis=1).sort_index().replace([np.inf, -np.inf], np.nan)
    if log:
        table = table.where(table > 0).apply(np.log)
    mean, count = table.mean(axis=1), table.count(axis=1)
    low, high = table.min(axis=1), table.max(axis=1)
    if len(kept) >= 4:
        t = np.array([T95[min(int(n), 31) - 4] if n >= 4 else np.nan for n in count])
        half = t * table.std(axis=1, ddof=1) / np.sqrt(count)
        low, high = (mean - half).where(count >= 4, low), (mean + half).where(count >= 4, high)
    mean, low, high = (np.exp(one) if log else one for one in (mean, low, high))
    x = table.index.to_numpy(dtype=float)
    return Curve(x, mean.to_numpy(dtype=float), low.to_numpy(dtype=float), high.to_numpy(dtype=float), len(kept))


def line(ax: Axes, curve: Curve, color: str, percent: bool = False, band: bool = True, **style: Any) -> None:
    """One curve with its band. Few points get markers, so that a single one can be seen."""
    scale = 100.0 if percent else 1.0
    if np.isfinite(curve.mean).sum() == 0:
        return
    style = {"linewidth": 1.8, "linestyle": "-", **style}
    if len(curve.x) <= 12 and "marker" not in style:
        style |= {"marker": "o", "markersize": 4}
    ax.plot(curve.x, curve.mean * scale, color=color, **style)
    if band and curve.n > 1:
        low, high = curve.low * scale, curve.high * scale
        if percent:
            low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
        ax.fill_between(curve.x, low, high, color=color, alpha=0.16, linewidth=0)


def levels(ax: Axes, values: Sequence[float], colors: Sequence[str], percent: bool = True) -> None:
    """Dotted reference levels: one grey line where all agree (to half a percent), else one for each colour."""
    scale = 100.0 if percent else 1.0
    pairs = [(value * scale, color) for value, color in zip(values, colors, strict=True) if np.isfinite(value)]
    if not pairs:
        return
    heights = [value for value, _ in pairs]
    if max(heights) - min(heights) <= 0.005 * max(scale, abs(heights[0])):
        pairs = [(float(np.mean(heights)), GREY)]
    for value, color in pairs:
        ax.axhline(value, color=color, linewidth=1.2, linestyle=":", zorder=1.5)


def color_of(number: int) -> str:
    """The colour of the n-th group."""
    return (PALETTE + MORE)[number % (len(PALETTE) + len(MORE))]


def dash_of(number: int) -> Any:
    """The line style of the n-th group: dashed from the eighth on."""
    return DASHES[(number // len(PALETTE)) % len(DASHES)]


def percent_axis(ax: Axes) -> None:
    """0 to 100 %, always whole."""
    ax.set_ylim(-3, 103)
    ax.set_yticks([0, 20, 40, 60, 80, 100])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))


def count_axis(ax: Axes, text: str) -> None:
    """A horizontal axis that counts: whole numbers only."""
    ax.set_xlabel(text)
    ax.set_xlim(left=min(ax.get_xlim()[0], 0))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def plain(value: float) -> str:
    """A number for an axis: 5, 0.02, 1,000, and 3e-7 where it gets long."""
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:g}"
    return text.replace("e-0", "e-").replace("e+0", "e")


def log_axis(ax: Axes) -> None:
    """A logarithmic vertical axis with plain numbers that never blows up a small change to a large one."""
    values = np.concatenate([np.asarray(one.get_ydata(), dtype=float) for one in ax.lines] or [np.empty(0)])
    for dots in ax.collections:
        values = np.concatenate([values, np.ma.filled(dots.get_offsets(), np.nan)[:, 1].astype(float)])
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) == 0:
        return
    low, high = float(values.min()), float(values.max())
    stretch = max(1.15, np.sqrt(4.0 / (high / low)))
    ax.set_ylim(low / stretch, high * stretch)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(_Decades(numticks=9))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(False, which="minor")


def log_x(ax: Axes) -> None:
    """A logarithmic horizontal axis with few plain numbers."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(_Decades(numticks=4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(False, which="minor")


class _Decades(LogLocator):
    """Ticks at powers of ten, and between them where few are in view: panels that share an axis see what all need."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        span = np.log10(max(vmax, vmin) / min(vmax, vmin))
        self.set_params(subs=(1.0, 2.0, 3.0, 5.0) if span < 1.2 else (1.0, 3.0) if span < 2.5 else (1.0,))
        return super().tick_values(vmin, vmax)


def handle(text: str, color: str = GREY, **style: Any) -> Line2D:
    """A legend entry for a line."""
    return Line2D([], [], color=color, label=text, **({"linewidth": 1.8} | style))


def band_handle(runs: Iterable[int]) -> list[Patch]:
    """A legend entry that says what the band is, when there is one."""
    counts = [n for n in runs if n > 1]
    if not counts:
        return []
    minmax, interval = any(n < 4 for n in counts), any(n >= 4 for n in counts)
    words = {
        (True, False): "lowest to highest run",
        (False, True): "95 % interval of the mean",
        (True, True): "95 % interval of the mean (below 4 runs: lowest to highest)",
    }[minmax, interval]
    return [Patch(color=GREY, alpha=0.25, linewidth=0, label=words)]


def legend(figure: Figure, handles: Sequence[Any], handlelength: float = 2.4) -> None:
    """One legend below all panels, in as many columns as the width allows. handlelength: of its lines, in letters."""
    if not handles:
        return
    lengths = [len(str(one.get_label())) for one in handles]
    fitting = (n for n in range(len(handles), 1, -1) if width_of(lengths, n) <= figure.get_figwidth() - 0.2)
    columns = next(fitting, 1)
    height = -(-len(handles) // columns) * 0.2
    figure.set_figheight(figure.get_figheight() + height)
    figure.legend(handles=list(handles), loc="outside lower left", ncols=columns, handlelength=handlelength)


def width_of(lengths: Sequence[int], columns: int) -> float:
    """About how wide (inches) a legend of labels of these lengths is; columns are filled from top to bottom."""
    full, more = divmod(len(lengths), columns)
    total, start = 0.0, 0
    for column in range(columns):
        stop = start + full + (column < more)
        total += 0.75 + 0.068 * max(lengths[start:stop])
        start = stop
    return total


def empty(ax: Axes, text: str = "nothing was measured here") -> bool:
    """Say so in a panel without data; true when it had none."""
    if ax.lines or ax.collections or ax.patches:
        return False
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GREY)
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    return True


def save(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figure once a format, byte for byte the same for the same figure."""
    written = []
    stamps: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
    }
    with matplotlib.rc_context(RC):
        for kind in formats:
            path = stem.with_name(f"{stem.name}.{kind}")
            figure.savefig(path, format=kind, dpi=150, metadata=stamps[kind])
            written.append(path)
    return written


def svg(figure: Figure) -> str:
    """The figure as an SVG file with its words as text and nothing behind it, for a page that may be light or dark."""
    buffer = BytesIO()
    with matplotlib.rc_context({**RC, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue().decode("utf-8")


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
