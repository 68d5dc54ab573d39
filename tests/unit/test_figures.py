"""Figures draw what the records say, group repeats, and survive having nothing to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edit_robust.core.errors import UserError
from edit_robust.figures import ALL, RunData, applies, distance, draw_all, edits, style
from edit_robust.figures.frame import COLUMNS, series, trailing_mean
from edit_robust.figures.grouping import groups
from edit_robust.figures.language import forgetting, interpolation, retention, scaling, sweep
from edit_robust.figures.layers import short_names

LAYER = "transformer.h.0.mlp.c_proj.weight"


def table(rows: list[dict]) -> pd.DataFrame:
    """Records from the columns that matter; the others take their defaults."""
    base = {"run": "r", "step": 0, "alpha": 1.0, "n_edits": 0, "scope": "at-edit", "probe": "", "shift": "none"}
    base |= {"severity": 0, "layer": "", "metric": "success", "value": 0.0, "n": 1}
    return pd.DataFrame([base | row for row in rows], columns=list(COLUMNS))


def config(editor: str = "rome", order: int = 0, layer: int = 0, trajectory: str = "sequential", **more) -> dict:
    """A resolved config as a run has it."""
    return {
        "model": {"name": "tiny"},
        "task": {"name": "world", "order": order},
        "editor": {"name": editor, "_target_": f"some.{editor}", "rate": {"rome": 0.5}.get(editor, 0.1)},
        "layer": {"index": layer},
        "trajectory": {"name": trajectory, "batch_size": 1},
        "seed": 0,
        **more,
    }


def sequence(order: int = 0, editor: str = "rome", layer: int = 0, length: int = 60, batch: int = 1) -> RunData:
    """A sequence with every kind of record."""
    rng = np.random.default_rng(100 * order + layer + len(editor))
    rows = []
    for probe, level in (("edit", 0.2), ("paraphrase", 0.25), ("neighbourhood", 0.8)):
        rows.append({"scope": "unedited", "probe": probe, "value": level})
    rows.append({"scope": "model", "probe": "text", "metric": "perplexity", "value": 5.0})
    for step in range(1, length + 1):
        here = {"step": step, "n_edits": step * batch}
        for probe in ("edit", "paraphrase", "neighbourhood"):
            rows.append(here | {"probe": probe, "value": float(rng.random() < 0.7)})
        rows.append(here | {"metric": "delta_norm", "layer": LAYER, "value": 1.0 + rng.random()})
        rows.append(here | {"metric": "division_factor", "value": 0.1 + rng.random()})
        rows.append(here | {"metric": "refused", "value": float(step == 7)})
        if step % 10 == 0:
            for probe in ("edit", "paraphrase", "neighbourhood"):
                rows.append(here | {"scope": "retention", "probe": probe, "value": 0.6 - step / 1000})
            for metric in (*forgetting.metric_names(""), *forgetting.metric_names("_es")):
                rows.append(here | {"scope": "retention", "probe": "edit", "metric": metric, "value": step / 100})
            for metric, scale in (("drift_fro", 1.0), ("drift_per_element", 1e-6)):
                rows.append(here | {"scope": "model", "metric": metric, "layer": LAYER, "value": scale * step})
            rows.append(here | {"scope": "model", "probe": "text", "metric": "perplexity", "value": 5.0 + step / 10})
    for probe in ("edit", "paraphrase", "neighbourhood"):
        rows.append({"step": length, "n_edits": length * batch, "scope": "final", "probe": probe, "value": 0.5})
    summary = {"ES": 90.0 - order, "PS": 80.0, "NS": 70.0, "S": 79.0, "unedited_ES": 20.0}
    return RunData(f"{editor}-{order}-{layer}", table(rows), config(editor, order, layer), summary)


def between() -> RunData:
    """A run from the unedited to the edited model."""
    rows = [{"scope": "unedited", "probe": "edit", "value": 0.1}]
    for step, alpha in enumerate(np.linspace(0, 1, 5)):
        for probe in ("edit", "paraphrase", "neighbourhood"):
            for metric in ("success", "accuracy"):
                row = {"step": step, "alpha": alpha, "scope": "final", "probe": probe, "metric": metric}
                rows.append(row | {"value": alpha * (1.0 if metric == "success" else 0.5)})
    return RunData("between", table(rows), config(trajectory="interpolate"))


def test_trailing_mean_equals_the_sum_by_hand() -> None:
    values = pd.Series([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], index=[1, 2, 3, 4, 5, 6])
    by_hand = [1.0, 1 / 2, 1 / 3, 1 / 3, 2 / 3, 2 / 3]
    assert np.allclose(trailing_mean(values, 3), by_hand)
    assert np.allclose(trailing_mean(values, 50), values.expanding().mean())


def test_trailing_mean_counts_edits_not_steps() -> None:
    batches = pd.Series([1.0, 0.0, 0.5], index=[10, 20, 25])
    assert np.allclose(trailing_mean(batches, 15), [1.0, 10 / 20, 2.5 / 15])
    assert np.allclose(trailing_mean(batches, 5), [1.0, 0.0, 0.5])


def test_trailing_mean_skips_what_is_missing() -> None:
    assert np.allclose(trailing_mean(pd.Series([1.0, np.nan, 0.0], index=[1, 2, 3]), 2), [1.0, 1.0, 0.0])
    assert trailing_mean(pd.Series(dtype=float), 5).empty


def test_scaling_draws_both_means_and_the_unedited_level() -> None:
    run = sequence()
    ax = scaling.draw([run]).axes[0]
    newest = series(run, scope="at-edit", probe="edit", metric="success")
    thin, thick, before = ax.lines
    assert np.allclose(thin.get_ydata(), 100 * newest.rolling(5, min_periods=1).mean())
    assert np.allclose(thick.get_ydata(), 100 * newest.rolling(50, min_periods=1).mean())
    assert np.allclose(thick.get_xdata(), np.arange(1, 61))
    assert np.allclose(before.get_ydata(), 20.0)
    assert ax.get_ylim() == (-3, 103)


def test_scaling_says_when_there_are_fewer_edits_than_the_window() -> None:
    short = scaling.draw([sequence(length=20)])
    texts = [text.get_text() for text in short.legends[0].get_texts()]
    assert "mean of all edits so far (only 20, fewer than 50)" in texts
    texts = [text.get_text() for text in scaling.draw([sequence()]).legends[0].get_texts()]
    assert "mean of the last 50 edits" in texts


def test_many_groups_get_a_row_an_editor() -> None:
    runs = [sequence(editor=editor, layer=layer, length=5) for editor in ("rome", "ft") for layer in range(3)]
    figure = scaling.draw(runs)
    assert len(figure.axes) == 6
    assert [ax.get_title(loc="left").split(":")[0] for ax in figure.axes] == ["ft"] * 3 + ["rome"] * 3
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:3] == ["layer 0", "layer 1", "layer 2"]


def test_band_is_min_to_max_for_few_runs() -> None:
    low, high = pd.Series([0.0, 1.0], index=[1, 2]), pd.Series([1.0, 2.0], index=[1, 2])
    curve = style.combine([low, high, (low + high) / 2])
    assert np.allclose(curve.mean, [0.5, 1.5])
    assert np.allclose(curve.low, [0.0, 1.0])
    assert np.allclose(curve.high, [1.0, 2.0])
    assert curve.n == 3


def test_band_is_the_interval_of_the_mean_from_four_runs() -> None:
    values = [0.1, 0.4, 0.5, 0.9]
    curve = style.combine(pd.Series([value], index=[1]) for value in values)
    half = 3.182 * np.std(values, ddof=1) / 2
    assert np.allclose([curve.low[0], curve.high[0]], [np.mean(values) - half, np.mean(values) + half])


def test_geometric_mean_for_perplexity() -> None:
    curve = style.combine([pd.Series([2.0], index=[0]), pd.Series([8.0], index=[0])], log=True)
    assert np.allclose([curve.low[0], curve.mean[0], curve.high[0]], [2.0, 4.0, 8.0])


def test_band_in_the_figure_covers_lowest_to_highest() -> None:
    runs = [sequence(order=order, length=20) for order in range(2)]
    ax = retention.draw(runs).axes[0]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    kept = [series(run, scope="retention", probe="edit", metric="success") for run in runs]
    assert np.isclose(band.min(), 100 * min(one.min() for one in kept))
    assert np.isclose(band.max(), 100 * max(one.max() for one in kept))


def test_orders_and_seeds_make_one_group_named_by_what_differs() -> None:
    runs = [sequence(order=order, editor=editor, length=2) for editor in ("rome", "ft") for order in range(3)]
    runs.append(RunData("seed", runs[0].records, {**runs[0].config, "seed": 9}))
    found = groups(runs)
    assert [group.label for group in found] == ["ft", "rome"]
    assert [len(group.runs) for group in found] == [3, 4]
    assert found[1].legend == "rome (mean of 4 runs)"


def test_labels_name_only_what_differs() -> None:
    layers = [RunData(str(index), table([]), config(layer=index)) for index in (10, 2)]
    assert [group.label for group in groups(layers)] == ["layer 2", "layer 10"]
    both = [*layers, RunData("ft", table([]), config("ft", layer=2))]
    assert [group.label for group in groups(both)] == ["ft, layer 2", "rome, layer 2", "rome, layer 10"]
    rates = [RunData(str(clamp), table([]), config(extra={"clamp_norm": clamp})) for clamp in (0.5, 0.75)]
    assert [group.label for group in groups(rates)] == ["clamp norm 0.5", "clamp norm 0.75"]
    assert groups([layers[0]])[0].label == "rome"
    apart = [RunData(str(mode), table([]), config(tracker={"mode": mode})) for mode in ("a", "b")]
    assert len(groups(apart)) == 1


def test_forgetting_draws_three_shares_in_two_panels() -> None:
    figure = forgetting.draw([sequence()])
    assert len(figure.axes) == 2
    assert forgetting.metric_names("_es") == ["forgotten_es", "forgotten_es_sticky", "recovered_es"]
    for ax in figure.axes:
        assert len(ax.lines) == 3
        assert np.allclose(ax.lines[0].get_ydata(), [10, 20, 30, 40, 50, 60])


def test_distance_leaves_zero_out_of_the_log_panel() -> None:
    run = sequence()
    extra = [{"scope": "model", "metric": m, "layer": LAYER} for m in ("drift_fro", "drift_per_element")]
    figure = distance.draw([RunData("r", pd.concat([run.records, table(extra)]), run.config)])
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), [0, 10, 20, 30, 40, 50, 60])
    assert np.allclose(figure.axes[1].lines[0].get_ydata(), 1e-6 * np.arange(10, 70, 10))
    assert figure.axes[1].get_yscale() == "log"


def test_edits_adds_layers_as_squares_and_marks_refused_ones() -> None:
    rows = [
        {"step": 1, "n_edits": 1, "metric": "delta_norm", "layer": name, "value": v} for name, v in (("a", 3), ("b", 4))
    ]
    run = RunData("r", table(rows), config(trajectory="single"))
    assert edits.per_edit(run, "delta_norm").to_dict() == {1: 5.0}
    full = edits.draw([sequence()])
    crosses = full.axes[0].collections[-1].get_offsets()
    assert np.allclose(crosses, [[7, 0.02]])


def test_perplexity_panel_marks_infinity() -> None:
    run = sequence()
    beyond = {"step": 60, "n_edits": 60, "scope": "model", "probe": "text", "metric": "perplexity", "value": np.inf}
    ax = retention.draw([RunData("r", pd.concat([run.records, table([beyond])]), run.config)]).axes[3]
    assert ax.get_yscale() == "log"
    assert np.allclose(ax.collections[-1].get_offsets()[0][0], 60)
    assert not np.isfinite(ax.lines[0].get_ydata()[-1])


def test_interpolation_runs_along_alpha() -> None:
    figure = interpolation.draw([between()])
    assert len(figure.axes) == 3
    solid, dashed = figure.axes[0].lines[:2]
    assert np.allclose(solid.get_xdata(), np.linspace(0, 1, 5))
    assert np.allclose(solid.get_ydata(), 100 * np.linspace(0, 1, 5))
    assert np.allclose(dashed.get_ydata(), 50 * np.linspace(0, 1, 5))


def test_sweep_runs_along_the_layer_with_a_line_an_editor() -> None:
    runs = [
        sequence(order=order, editor=editor, layer=layer, length=2)
        for editor in ("rome", "ft")
        for layer in (0, 3)
        for order in (0, 2)
    ]
    assert sweep.swept(runs) == "layer.index"
    figure = sweep.draw(runs)
    took = figure.axes[1]
    assert np.allclose(took.lines[0].get_xdata(), [0, 3])
    assert np.allclose(took.lines[0].get_ydata(), [89, 89])
    band = took.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (88.0, 90.0)


def test_sweep_draws_bars_where_nothing_is_swept() -> None:
    runs = [sequence(editor=editor, length=2) for editor in ("rome", "ft")]
    assert sweep.swept(runs) is None
    ax = sweep.draw(runs).axes[0]
    assert sorted({round(bar.get_height()) for bar in ax.patches}) == [70, 79, 80, 90]
    assert not applies(sweep, runs[:1])


def test_sweep_follows_any_number_that_alone_tells_runs_apart() -> None:
    runs = [RunData(str(v), table([]), config(extra={"clamp": v}), {"ES": 90.0}) for v in (0.5, 0.75, 1.0)]
    assert sweep.swept(runs) == "extra.clamp"
    assert np.allclose(sweep.draw(runs).axes[0].lines[0].get_xdata(), [0.5, 0.75, 1.0])


@pytest.mark.slow
def test_draw_all_writes_what_applies(tmp_path: Path) -> None:
    written = draw_all([sequence(order=order, length=10) for order in range(2)], tmp_path / "a", formats=("png",))
    names = {"scaling", "retention", "forgetting", "distance", "edits", "samples"}
    assert {path.name for path in written} == {f"{name}.png" for name in names}


@pytest.mark.slow
def test_draw_all_writes_the_same_bytes_again(tmp_path: Path) -> None:
    first, again = (draw_all([between()], tmp_path / one, names=["interpolation"]) for one in "ab")
    assert [path.suffix for path in first] == [".png", ".pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


@pytest.mark.slow
@pytest.mark.parametrize("module", ALL, ids=lambda module: module.NAME)
@pytest.mark.parametrize("kind", ["nothing", "bare", "empty", "nan", "single"])
def test_every_figure_survives_having_little_to_draw(module, kind: str, tmp_path: Path) -> None:
    run = sequence(length=20)
    runs = {
        "nothing": [],
        "bare": [RunData("r", pd.DataFrame())],
        "empty": [RunData("r", table([]), config())],
        "nan": [RunData("r", run.records.assign(value=float("nan")), config(), {"ES": float("nan")})],
        "single": [sequence(length=1)],
    }[kind]
    if kind != "single":
        assert kind == "nan" or not applies(module, runs)
    assert style.save(module.draw(runs), tmp_path / "f", ["png"])[0].stat().st_size > 1000


def test_unknown_names_and_formats_are_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='did you mean "scaling"'):
        draw_all([], tmp_path, names=["scalng"])
    with pytest.raises(UserError, match='"jpg"'):
        draw_all([], tmp_path, formats=["jpg"])


def test_short_names_stay_distinct() -> None:
    assert short_names([LAYER]) == {LAYER: "layer 0"}
    two = [LAYER, "transformer.h.0.mlp.c_fc.weight"]
    assert list(short_names(two).values()) == ["layer 0 (mlp.c_proj)", "layer 0 (mlp.c_fc)"]
