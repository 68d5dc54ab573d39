"""Where curves break, by hand and in figures; effective robustness along alpha against a planted line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.patching_runs import patched, with_reference

from edit_robust.evaluate.statistics.breaks import falls_fastest, gives_way, rises_fastest
from edit_robust.evaluate.statistics.effective import fit_reference
from edit_robust.evaluate.statistics.paired import clopper_pearson, clustered_mean
from edit_robust.figures import RunData, applies
from edit_robust.figures.vision import effective, patching_alpha, patching_breaks, patching_robustness
from edit_robust.figures.vision.patching_points import WHOLE, points

ALPHAS = tuple(i / 10 for i in range(11))


def test_breaks_by_hand() -> None:
    alphas = [0.0, 0.5, 1.0, 1.5]
    assert falls_fastest(alphas, [0.9, 0.9, 0.8, 0.75]) == pytest.approx(0.75)
    assert falls_fastest([0.0, 0.1, 1.0], [0.9, 0.85, 0.5]) == pytest.approx(0.05), "per alpha, not per step"
    assert np.isnan(falls_fastest(alphas, [0.1, 0.1, 0.2, 0.3])) and np.isnan(falls_fastest([0.0], [1.0]))
    assert rises_fastest(alphas, [0.1, 0.2, 0.5, 0.5]) == pytest.approx(0.75)
    # from its top, .92 at alpha .5, it has lost .01 a quarter of the way to .88
    assert gives_way(alphas, [0.9, 0.92, 0.88, 0.5], 0.01) == pytest.approx(0.625)
    assert gives_way(alphas, [0.9, 0.89, 0.8, 0.7], 0.01) == pytest.approx(0.5)
    assert np.isnan(gives_way(alphas, [0.9, 0.895, 0.9, 0.9], 0.01))


def bent(layer: int | None, at: float, seed: int = 0, path: Path | None = None) -> RunData:
    """Learns at once; keeps the original task up to alpha `at`, then loses a tenth of it per unit of alpha."""
    return patched(
        lambda a: 0.5 * min(1.0, 10 * a), lambda a: -0.2 * max(0.0, a - at), lambda a: -0.1 * a,
        layer=layer, seed=seed, alphas=ALPHAS, path=path,
    )  # fmt: skip


def test_the_figure_tells_where_each_place_breaks() -> None:
    runs = [bent(2, 0.4), bent(2, 0.6, seed=1), bent(5, 0.8), bent(None, 0.2)]
    assert applies(patching_breaks, runs) and not patching_breaks.wants(
        patched(lambda a: a, lambda a: -a, alphas=(0.0, 1.0))
    )
    found = patching_breaks.places_on_the_line(points(runs))
    clean = found[found.kind == "none"].groupby("place").gives_way.mean()
    assert clean["layer 2"] == pytest.approx(0.55) and clean["layer 5"] == pytest.approx(0.85)
    assert clean[WHOLE] == pytest.approx(0.25)
    assert (found.learns == 0.05).all() and (
        found[found.kind == "none"].falls > found[found.kind == "none"].gives_way - 0.06
    ).all()
    shifted = found[found.kind == "rendition"].groupby("place").gives_way.mean()
    assert shifted["layer 5"] == pytest.approx(0.1), "under shifts it falls from the start"
    figure = patching_breaks.draw(runs)
    rows = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert rows == ["layer 2", "layer 5", WHOLE] and len(figure.axes) == 3


def test_rho_is_the_height_above_the_reference_models(tmp_path: Path) -> None:
    folder = with_reference(tmp_path)
    runs = [bent(5, 0.4, seed, folder) for seed in range(3)] + [bent(None, 0.2, path=folder)]
    assert applies(patching_robustness, runs) and not applies(patching_robustness, [bent(5, 0.4)])
    models = effective.reference(runs)
    some = models[models.kind == "rendition"]
    fit = fit_reference(some.clean.to_numpy(), some.shifted.to_numpy())
    rows = patching_robustness.rho(points(runs[:1]).query("kind == 'rendition'"), fit)
    at = rows.set_index("alpha").rho
    assert at[0.0] == pytest.approx(0.7 - float(fit(0.9))) and at[1.0] < at[0.0] - 0.05
    ends = patching_robustness.rho(points(runs[:3]).query("kind == 'rendition' and alpha == 1"), fit)
    low, high = patching_robustness.interval(ends)
    assert (low, high) == pytest.approx(clustered_mean(ends.rho.to_numpy(), ["0", "1", "2"])[1:])
    one = ends[ends.seed == 0]
    low, high = patching_robustness.interval(one)
    exact = clopper_pearson(float(one.accuracy.iloc[0]) * 400, 400)
    assert high - low == pytest.approx(exact[1] - exact[0]) and low < float(one.rho.iloc[0]) < high
    figure = patching_robustness.draw(runs)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert len(panels) == 2 and all(any(len(line.get_xdata()) == len(ALPHAS) for line in ax.lines) for ax in panels)


def test_alpha_1_is_marked_where_the_legend_says_so() -> None:
    ax = patching_alpha.draw([bent(5, 0.4), bent(None, 0.2)]).axes[0]
    dots = [line for line in ax.lines if line.get_marker() == "o" and line.get_markersize() > 5]
    assert len(dots) == 2 and all(list(dot.get_xdata()) == [1.0] for dot in dots)
