"""Figures of patched models show what the records say: a curve a layer and one of the tower, in a panel a task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.patching_runs import patched
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from test_image_metrics import image_run

from edit_robust.figures import ALL, RunData, applies, draw_all
from edit_robust.figures.vision import (
    patching,
    patching_alpha,
    patching_corruptions,
    patching_corruptions_task,
    patching_layers,
    patching_shifts,
)
from edit_robust.figures.vision.patching_points import CLEAN, CORRUPTED, WHOLE, is_whole, points

FIGURES = (patching_shifts, patching, patching_alpha, patching_corruptions, patching_corruptions_task, patching_layers)
TWO = ("fog", "gaussian_noise")


def rise(much: float):
    return lambda a: much * a


@pytest.fixture(scope="module")
def runs() -> list[RunData]:
    """Two tasks, two seeds, two layers and the tower; layer 2 learns half of what layer 5 does, the tower most."""
    found = []
    for task in ("digits", "mnist"):
        for seed in (0, 1):
            for layer, learnt, lost in ((2, 0.2, -0.02), (5, 0.4, -0.04 - 0.02 * seed), (None, 0.6, -0.2)):
                more = {"task": task, "seed": seed, "layer": layer, "corruptions": TWO}
                found.append(patched(rise(learnt), rise(lost), **more))
    return found


def drawn(ax: Axes, color: str) -> tuple[np.ndarray, np.ndarray]:
    line = next(one for one in ax.lines if one.get_color() == color and len(one.get_xdata()) > 1)
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_points_know_what_was_trained(runs: list[RunData]) -> None:
    table = points(runs)
    assert set(table.place) == {"layer 2", "layer 5", WHOLE} and set(table[table.whole].place) == {WHOLE}
    assert set(table.kind) == {CLEAN, CORRUPTED, "fog/3", "gaussian_noise/3", "rendition"}
    assert table.unit.nunique() == 4 and set(table.pair) == {"digits", "mnist"}
    one = table[(table.run == 0) & (table.kind == CORRUPTED)].set_index("alpha")
    assert one.accuracy[0.0] == pytest.approx(0.7) and one.accuracy[1.0] == pytest.approx(0.68)
    assert one.task[1.0] == pytest.approx(0.5) and one.original[1.0] == pytest.approx(0.88)
    assert [is_whole(run) for run in runs[:3]] == [False, False, True]


def test_without_alpha_zero_curves_begin_at_the_unedited_model() -> None:
    run = patched(rise(0.2), rise(-0.1), alphas=(0.5, 1.0))
    table = points([run])
    assert set(table.alpha) == {0.0, 0.5, 1.0}
    start = table[table.alpha == 0]
    assert np.allclose(start[start.kind == CORRUPTED].accuracy.astype(float), 0.7) and np.allclose(start.task, 0.3)


def test_methods_and_parts_are_told_apart() -> None:
    runs = [patched(rise(0.2), rise(0.0)) for _ in range(2)]
    runs[1].config["editor"]["part"] = "block"
    assert set(points(runs).place) == {"layer 5", "layer 5, block"}
    towers = [patched(rise(0.2), rise(0.0), layer=None) for _ in range(2)]
    towers[1].config["editor"]["name"] = "wise-ft"
    assert set(points(towers).place) == {f"{WHOLE} (paint)", f"{WHOLE} (wise-ft)"}


def test_task_against_original(runs: list[RunData]) -> None:
    figure = patching.draw(runs)
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()] == ["digits: 2 seeds", "mnist: 2 seeds"]
    x, y = drawn(figure.axes[0], "#222222")
    assert np.allclose([x[0], x[-1]], [90, 70]) and np.allclose([y[0], y[-1]], [30, 90])
    assert labels(figure)[:3] == ["layer 2", "layer 5", WHOLE] and "unedited (alpha 0)" in labels(figure)
    stars = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert stars and all(np.allclose(star.get_xydata(), [[90, 30]]) for star in stars)
    colored = next(line.get_color() for line in figure.axes[0].lines if line.get_color() not in ("#222222",))
    assert len(drawn(figure.axes[0], colored)[0]) == 6


def test_shifts_against_both_tasks(runs: list[RunData]) -> None:
    axes = np.array(patching_shifts.draw(runs).axes).reshape(4, 2)
    assert "rendition" in axes[0, 0].get_ylabel() and "corrupted" in axes[2, 0].get_ylabel()
    assert "original task" in axes[0, 0].get_xlabel() and "taught task" in axes[1, 0].get_xlabel()
    assert np.allclose(drawn(axes[0, 0], "#222222")[0][[0, -1]], [90, 70])
    assert np.allclose(drawn(axes[1, 0], "#222222")[0][[0, -1]], [30, 90])
    assert np.allclose(drawn(axes[1, 0], "#222222")[1][[0, -1]], [70, 50])


def test_shifts_along_alpha(runs: list[RunData]) -> None:
    axes = np.array(patching_alpha.draw(runs).axes).reshape(2, 2)
    assert "corrupted" in axes[0, 0].get_ylabel() and "rendition" in axes[1, 0].get_ylabel()
    x, y = drawn(axes[0, 0], "#222222")
    assert np.allclose(x, np.linspace(0, 1, 6)) and np.allclose(y, 70 - 20 * x)
    assert len(axes[0, 0].collections) == 3  # a band a place


def test_every_corruption_has_its_panel(runs: list[RunData]) -> None:
    for module, ends in ((patching_corruptions, (0, 1)), (patching_corruptions_task, (30, 90))):
        axes = np.array(module.draw(runs).axes).reshape(2, 2)
        assert [ax.get_title(loc="left") for ax in axes[0]] == ["gaussian noise", "fog"]
        assert np.allclose(drawn(axes[0, 1], "#222222")[0][[0, -1]], ends)
        assert "severity 3" in axes[1, 0].get_ylabel() and "mnist" in axes[1, 0].get_ylabel()


def test_other_severities_stand_aside() -> None:
    run = patched(rise(0.2), rise(-0.1), severities=(1, 5, 4))
    table, severity = patching_corruptions.single_corruptions(points([run]))
    assert severity == 4 and set(table.severity) == {4}


def test_which_layer(runs: list[RunData]) -> None:
    found = patching_layers.bargains(points(runs))
    one = found[(found.kind == CLEAN) & (found.pair == "digits") & (found.seed == 0)].set_index("place")
    gain = (one.score - one.start).astype(float)
    assert gain["layer 5"] == pytest.approx((0.4 - 0.04) / 2) and (one.alpha == 1).all()
    figure = patching_layers.draw(runs)
    assert len(figure.axes) == 3
    boxes = [patch.get_xy() for patch in figure.axes[0].patches]
    assert np.allclose(boxes, [(-0.46, 1 - 0.44), (1 - 0.46, 1 - 0.44)])  # layer 5 for both tasks, not the tower
    assert not patching_layers.enough(runs[:1])


def test_who_is_drawn(runs: list[RunData], tmp_path: Path) -> None:
    other = image_run(corruptions=("fog",))
    for module in FIGURES:
        assert module in ALL and "vision paper" in module.CAPTION and applies(module, runs)
        assert not module.wants(other) and module.draw([]) is not None
    bare = patched(rise(0.2), rise(-0.1), corruptions=(), natural=())
    assert patching.wants(bare) and not patching_shifts.wants(bare) and not patching_corruptions.wants(bare)
    assert not patching.wants(patched(rise(0.2), rise(-0.1), alphas=()))
    written = draw_all(runs, tmp_path, [patching.NAME], ["png"])
    assert [path.name for path in written] == ["patching.png"]
