"""What the figures of edited image classifiers share: all runs in one table, methods, layers, units, intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from edit_robust.evaluate.statistics import penalties
from edit_robust.evaluate.statistics.paired import clopper_pearson, clustered_mean
from edit_robust.evaluate.statistics.penalties import MODEL, corrupted, last
from edit_robust.figures import style
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.grouping import flatten, groups, identity, natural

CONTEXT = ["run", "model", "method", "layer", "seed", "pair", "unit"]
#: Dark to light, for layers: deeper ones are lighter. Ends before the yellow that white paper swallows.
DEPTH = ("#30123b", "#3b4cc0", "#2a788e", "#22a884", "#7ad151", "#d9a400", "#e8601c", "#a50026")


def of_images(tidy: pd.DataFrame) -> pd.DataFrame:
    """The records of edited image classifiers: there the edit's images belong to a request. Empty without any."""
    own = (tidy["probe"] == "edit") & (tidy["request"] != "")
    return tidy[own | (tidy["probe"] != "edit")] if own.any() else tidy[:0]


def _tables(tidy: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    found = penalties.scores(of_images(tidy))
    return found, penalties.curve(found)


def scores(run: RunData) -> pd.DataFrame:
    """Accuracies on each set of images beside the unedited model's, see `penalties.scores`."""
    return run.derive(_tables)[0]


def curve(run: RunData) -> pd.DataFrame:
    """A row an edited model, see `penalties.curve`."""
    return run.derive(_tables)[1]


def image_runs(runs: Sequence[RunData]) -> list[RunData]:
    """The runs that measured at least one edited image classifier."""
    return [run for run in runs if len(scores(run))]


def methods(runs: Sequence[RunData]) -> list[str]:
    """What to call each run's method: its editor, with the settings that differ where one place was edited twice.

    Settings that go with the model or the layer, such as learning rates, do not make another method.
    """
    names = [str(setting(run.config, "editor.name") or run.run_id[:12]) for run in runs]
    places: dict[str, set[str]] = {}
    for run, name in zip(runs, names, strict=True):
        place = [name, setting(run.config, "seed"), identity(run.config, ("editor", "trajectory"))]
        own = json.dumps(flatten({"editor": setting(run.config, "editor", {})}), sort_keys=True, default=str)
        places.setdefault(json.dumps(place, sort_keys=True, default=str), set()).add(own)
    twice = {json.loads(place)[0] for place, own in places.items() if len(own) > 1}
    out = dict(enumerate(names))
    for name in twice:
        those = [i for i, one in enumerate(names) if one == name]
        alone = [RunData(str(i), pd.DataFrame(), {"editor": setting(runs[i].config, "editor", {})}) for i in those]
        for group in groups(alone):
            for one in group.runs:
                out[int(one.run_id)] = group.label if group.label.startswith(name) else f"{name}, {group.label}"
    return [out[i] for i in range(len(runs))]


def layer_label(config: Mapping[str, Any]) -> str:
    """`layer 9`, `layers 1, 2`, else the strategy's name."""
    index = setting(config, "layer.index")
    if isinstance(index, list | tuple):
        return f"layers {', '.join(map(str, index))}"
    if index is None:
        return str(setting(config, "layer.name") or "all layers")
    return f"layer {index}"


def gather(runs: Sequence[RunData], shifts: bool = False) -> pd.DataFrame:
    """Every edited model of every run with where it comes from (CONTEXT): `curve`s, or `scores` for each shift.

    A unit is one pair under one seed: what intervals are taken over. `layer` is a category in order of depth.
    """
    kept = image_runs(runs)
    tables = []
    for number, (run, method) in enumerate(zip(kept, methods(kept), strict=True)):
        table = scores(run) if shifts else curve(run)
        seed, task = setting(run.config, "seed", 0), setting(run.config, "task.name", "")
        pair = table.request.where(table.request != "", "all requests")
        context = {
            "run": number,
            "model": str(setting(run.config, "model.name") or "model"),
            "method": method,
            "layer": layer_label(run.config),
            "seed": seed,
            "pair": f"{task}: " + pair if task else pair,
        }
        found = table.assign(**context)
        tables.append(found.assign(unit=found.pair + f" | {seed}"))
    if not tables:
        columns = [
            *penalties.curve(pd.DataFrame(columns=[*MODEL, "probe", "shift", "severity", *VALUE_COLUMNS])).columns,
            *CONTEXT,
        ]
        return pd.DataFrame(columns=list(dict.fromkeys([*columns, "probe", "shift", "severity", *VALUE_COLUMNS])))
    out = pd.concat(tables, ignore_index=True)
    order = sorted(out.layer.unique(), key=natural)
    return out.assign(layer=pd.Categorical(out.layer, order, ordered=True))


def pairs_and_seeds(rows: pd.DataFrame) -> str:
    """`6 pairs, 3 seeds`."""
    seeds = rows.seed.nunique()
    return counted(rows.pair.nunique(), "pair") + (f", {counted(seeds, 'seed')}" if seeds > 1 else "")


VALUE_COLUMNS = ("accuracy", "loss", "gained", "lost", "n", "unedited", "unedited_loss")


def whole(table: pd.DataFrame) -> pd.DataFrame:
    """Only each request's whole edit (alpha 1)."""
    if table.empty:
        return table
    ends = last(table[["run", *MODEL]].drop_duplicates(), by=("run", "request"))
    return table.merge(ends, on=["run", *MODEL], how="inner")


def best_layers(table: pd.DataFrame) -> pd.DataFrame:
    """For each model, method and unit the layer whose whole edit has the largest edit accuracy."""
    ordered = whole(table).sort_values("edit_accuracy", kind="stable").dropna(subset="edit_accuracy")
    return ordered.drop_duplicates(["model", "method", "unit"], keep="last").reset_index(drop=True)


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Each name's number in natural order: the same method has the same colour in every figure."""
    return {name: number for number, name in enumerate(sorted(dict.fromkeys(names), key=natural))}


def interval(values: pd.Series, pairs: pd.Series, counts: pd.Series | None = None) -> tuple[float, float, float]:
    """Mean over pairs, each with its seeds averaged, and a t interval over the pairs, as the table of claims has them;
    for a single unit over its images, where their count is known."""
    mean, low, high = clustered_mean(values.to_numpy(dtype=float), list(pairs))
    if len(values) == 1 and counts is not None and np.isfinite(mean) and counts.iloc[0] > 0:
        n = float(counts.iloc[0])
        low, high = clopper_pearson(mean * n, int(n))
    return mean, low, high


def whisker(ax: Axes, x: float, found: tuple[float, float, float]) -> None:
    """The interval of a bar or dot, in percent, where there is one."""
    mean, low, high = (100 * value for value in found)
    if np.isfinite(low) and np.isfinite(high):
        error = [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
        look: dict[str, Any] = {"fmt": "none", "ecolor": style.INK, "elinewidth": 1.1, "capsize": 2.5}
        ax.errorbar([x], [mean], error, **look)


def signed(value: float) -> str:
    """Percentage points with their sign: +3, -1.5, 0."""
    text = f"{value:+.1f}" if 0.05 <= abs(value) < 10 else f"{value:+.0f}"
    return "0" if text.strip("+-0.") == "" else text.replace("-", "−")


def points_axis(ax: Axes, text: str = "percentage points") -> None:
    """A vertical axis of differences between accuracies, with a line at nothing changed."""
    ax.axhline(0, color=style.GREY, linewidth=1.0, zorder=1.5)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
    ax.set_ylabel(text)


def depth_colors(layers: Sequence[str]) -> dict[str, str]:
    """A colour a layer along its depth."""
    places = np.linspace(0, len(DEPTH) - 1, len(layers)).round().astype(int) if len(layers) != 1 else [1]
    if len(layers) > len(DEPTH):
        return {name: DEPTH[i % len(DEPTH)] for i, name in enumerate(layers)}
    return {name: DEPTH[place] for name, place in zip(layers, places, strict=True)}


def layers_of(table: pd.DataFrame) -> list[str]:
    """The layers of a table, in order of depth."""
    return sorted(dict.fromkeys(str(name) for name in table.layer), key=natural)


def counted(n: int, word: str) -> str:
    """`1 pair`, `12 pairs`."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def words(name: str) -> str:
    """A corruption's or shift's name in words."""
    return name.replace("_", " ")


def corrupt_variants(runs: Sequence[RunData], probe: str) -> str:
    """How many corrupted variants of a probe's images were asked about: `95 corruptions`."""
    tables = [scores(run) for run in image_runs(runs)]
    found = {
        pair
        for one in tables
        for pair in corrupted(one, probe)[["shift", "severity"]].itertuples(index=False, name=None)
    }
    return counted(len(found), "corruption")
