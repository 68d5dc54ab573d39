"""Accuracies, penalties and statistics of edited classifiers, by hand; and the flat summary of an image run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from edit_robust.evaluate.edits import Edits
from edit_robust.evaluate.image_answers import ImageAnswers
from edit_robust.evaluate.image_numbers import IMAGENET, level_of
from edit_robust.evaluate.statistics import effective, paired
from edit_robust.evaluate.statistics import penalties as images
from edit_robust.evaluate.summary import RecordsAlone, columns_of, flat
from edit_robust.figures.frame import COLUMNS, RunData
from edit_robust.figures.vision.common import curve, scores

CORRUPTIONS = ("gaussian_noise", "glass_blur", "fog", "pixelate")


def summarise_images(records: pd.DataFrame, seconds: dict[str, float] | None = None) -> dict[str, Any]:
    """The flat summary that the measures of an image run make of its records."""
    known = records if "request" in records else records.assign(request="")
    return flat(columns_of((ImageAnswers, Edits), RecordsAlone(known), seconds))


def image_run(
    editor: str = "rewriting",
    layer: int | None = 9,
    seed: int = 0,
    gain: float = 0.3,
    cost: float = 0.05,
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
    requests: tuple[str, ...] = ("road-snow", "grass-snow"),
    corruptions: tuple[str, ...] = CORRUPTIONS,
    severities: tuple[int, ...] = (1, 3, 5),
    model: str = "scene-vgg",
    path: Path | None = None,
    joint: bool = False,
    summarised: bool = False,
) -> RunData:
    """A run on images as the runner stores it: `gain` on the edit, `cost` on the original task at alpha 1.

    Gains are concave in alpha, costs convex; corruptions cost twice as much. `joint`: one model for all requests.
    """
    rng = np.random.default_rng(1000 * seed + 10 * (layer or 0) + len(editor))
    base = {"run": "r", "step": 0, "alpha": 1.0, "n_edits": 0, "scope": "unedited", "probe": "original"}
    base |= {"shift": "none", "severity": 0, "layer": "", "metric": "accuracy", "value": 0.0, "n": 400, "request": ""}
    rows = []
    variants = [("none", 0), *((name, severity) for name in corruptions for severity in severities)]
    start = {request: 0.40 + 0.1 * place / max(1, len(requests) - 1) for place, request in enumerate(requests)}
    own = {name: 0.5 + place / len(corruptions) for place, name in enumerate(corruptions)}

    def original(shift: str, severity: int, share: float) -> float:
        level = 0.4 if shift == "rendition" else 0.96 - 0.09 * severity * own.get(shift, 0.0)
        return level - cost * share**2 * (1.0 if shift == "none" else 2.0)

    def edit(request: str, shift: str, severity: int, share: float) -> float:
        clean = start[request] + gain * (1 - (1 - share) ** 2)
        return clean - 0.03 * severity * own.get(shift, 0.0) * (1 + share)

    def add(value: float, **more: object) -> None:
        rows.append(base | more | {"value": value})

    for shift, severity in [*variants, ("rendition", 0)]:
        add(original(shift, severity, 0.0), shift=shift, severity=severity)
    for request in requests:
        for shift, severity in variants:
            add(
                edit(request, shift, severity, 0.0),
                shift=shift,
                severity=severity,
                probe="edit",
                request=request,
                n=100,
            )
    step = 0
    for place, request in enumerate(requests):
        step = 0 if joint else step
        for alpha in alphas:
            step += 1
            here = {"scope": "at-edit", "step": step, "alpha": alpha, "n_edits": len(requests) if joint else 1}
            here["request"] = request
            noise = 0.004 * rng.standard_normal() if 0 < alpha < 1 else 0.0
            if not joint or place == 0:
                whom = here | {"request": "" if joint else request}
                for shift, severity in [*variants, ("rendition", 0)]:
                    add(original(shift, severity, alpha) + noise, shift=shift, severity=severity, **whom)
                add(4.0 * alpha, metric="gained", **whom)
                add(round(4 + 400 * cost) * alpha, metric="lost", **whom)
            for shift, severity in variants:
                add(edit(request, shift, severity, alpha), shift=shift, severity=severity, probe="edit", n=100, **here)
            for metric, value in (("refused", 0.0), ("delta_norm", 1.0 + alpha), ("edit_loss", 0.1)):
                add(value, metric=metric, probe="", n=1, **here)
            add(
                alpha,
                **here | {"scope": "model", "request": ""},
                metric="drift_fro",
                probe="",
                layer="features.9.weight",
            )
    config = {
        "model": {"name": model},
        "task": {"name": "scene-world"},
        "editor": {"name": editor, "lr": 0.1 * (layer or 1)},
        "layer": {"index": layer},
        "trajectory": {"name": "interpolate"},
        "seed": seed,
    }
    records = pd.DataFrame(rows, columns=list(COLUMNS))
    name = f"{editor}-{layer}-{seed}"
    summary = summarise_images(records, {"edit": 12.5}) if summarised else {}
    return RunData(name, records, config, summary, path)


def test_scores_put_the_unedited_model_beside() -> None:
    run = image_run()
    table = scores(run).set_index(["request", "alpha", "probe", "shift", "severity"])
    assert np.isclose(table.loc[("road-snow", 1.0, "edit", "none", 0)].unedited, 0.4)
    assert np.isclose(table.loc[("grass-snow", 1.0, "edit", "none", 0)].unedited, 0.5)
    assert np.isclose(table.loc[("grass-snow", 0.5, "original", "none", 0)].unedited, 0.96)
    assert table.loc[("grass-snow", 1.0, "original", "none", 0)].lost == 24
    assert not table.index.duplicated().any()


def test_penalties_by_hand() -> None:
    run = image_run(alphas=(1.0,))
    eq1 = images.original_ood_penalty(scores(run))
    assert set(eq1["shift"]) == {*CORRUPTIONS, "rendition"}
    assert np.allclose(eq1.penalty, -0.1)
    eq2 = images.editing_ood_penalty(scores(run)).set_index(["request", "shift", "severity"])
    assert np.isclose(eq2.loc[("road-snow", "gaussian_noise", 5)].penalty, -0.03 * 5 * 0.5 * 2)
    assert np.isclose(eq2.loc[("road-snow", "gaussian_noise", 5)].unedited_penalty, -0.03 * 5 * 0.5)


def test_curve_of_single_and_joint_edits() -> None:
    single = curve(image_run())
    assert list(single.request.unique()) == ["grass-snow", "road-snow"] and len(single) == 10
    joint = curve(image_run(joint=True))
    assert len(joint) == 10 and joint.notna().all(axis=None)
    ends = images.last(joint)
    assert np.allclose(ends.original_accuracy, 0.91) and np.allclose(ends.edit_accuracy, [0.8, 0.7])
    assert np.allclose(ends.original_ood_penalty, -0.1)


def test_a_curve_of_the_original_task_alone() -> None:
    run = image_run(alphas=(1.0,))
    found = images.curve(scores(run)[scores(run).probe == "original"])
    assert found.edit_accuracy.isna().all() and np.allclose(found.original_accuracy, 0.91)


def test_mce_is_one_for_the_baseline_itself() -> None:
    assert images.mce(images.ALEXNET) == pytest.approx(1.0)
    assert images.mce({name: value / 2 for name, value in images.ALEXNET.items()}) == pytest.approx(0.5)
    assert images.mce({"fog": 0.3}, {"fog": 0.2}) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="fog"):
        images.mce({name: 0.1 for name in images.ALEXNET if name != "fog"})
    assert len(images.ALEXNET) == 15 and len(images.ALEXNET_EXTRA) == 4


def test_matched_edit_accuracy_interpolates() -> None:
    along = pd.DataFrame({"alpha": [0.0, 0.5, 1.0], "edit_accuracy": [0.4, 0.6, 0.7], "original": [0.9, 0.8, 0.6]})
    found = images.at_edit_accuracy(along, 0.65)
    assert found is not None and np.isclose(found["alpha"], 0.75) and np.isclose(found["original"], 0.7)
    assert images.at_edit_accuracy(along, 0.71) is None
    assert images.at_edit_accuracy(along, 0.3) == {"alpha": 0.0, "edit_accuracy": 0.4, "original": 0.9}


def test_alpha_is_chosen_by_the_constraint() -> None:
    along = curve(image_run(requests=("road-snow",), cost=0.05))
    found = images.choose_alpha(along, 0.018)
    assert found is not None and found["alpha"] == 0.5
    assert images.choose_alpha(along, 1.0)["alpha"] == 1.0  # type: ignore[index]
    assert images.choose_alpha(along[along.alpha == 1], 0.01) is None


def test_pareto_front() -> None:
    points = np.array([[0, 1], [1, 0], [0.5, 0.5], [0.4, 0.4], [1, 0], [np.nan, 9]])
    assert images.pareto_front(points).tolist() == [True, True, True, False, True, False]


def test_flips_and_paired_statistics() -> None:
    before = np.array([1] * 80 + [0] * 20, dtype=bool)
    after = before.copy()
    after[:10], after[-2:] = False, True
    found = paired.flips(before, after)
    assert found == paired.Flips(2, 10, 70, 18)
    assert paired.mcnemar(2, 10) == pytest.approx(0.03857421875)
    assert paired.mcnemar(0, 0) == 1.0
    difference, low, high = paired.paired_bootstrap(before, after)
    assert difference == pytest.approx(-0.08) and low < -0.12 and -0.04 < high < 0
    assert paired.paired_bootstrap(before, after) == paired.paired_bootstrap(before, after)
    assert images.accuracy(before) == (0.8, 100) and np.isnan(images.accuracy([])[0])


def test_clopper_pearson_against_known_values() -> None:
    assert np.allclose(paired.clopper_pearson(8, 10), (0.44390, 0.97479), atol=1e-5)
    assert paired.clopper_pearson(0, 10)[0] == 0.0 and paired.clopper_pearson(10, 10)[1] == 1.0


def test_bootstrap_of_units() -> None:
    mean, low, high = paired.bootstrap_mean([0.1, 0.2, 0.3, np.nan])
    assert mean == pytest.approx(0.2) and 0.1 <= low < mean < high <= 0.3
    assert np.isnan(paired.bootstrap_mean([0.1])[1]) and np.isnan(paired.bootstrap_mean([])[0])


def test_grouped_bootstrap_draws_within_groups() -> None:
    mean, low, high = paired.grouped_bootstrap([np.zeros(50), np.ones(50)])
    assert (mean, low, high) == (0.5, 0.5, 0.5)  # groups differ, images do not
    values = np.random.default_rng(1).normal(0.1, 1.0, 9000)
    mean, low, high = paired.grouped_bootstrap([values], n=1000)
    error = 1.96 * values.std() / 9000**0.5
    assert mean == pytest.approx(values.mean()) and low == pytest.approx(mean - error, abs=0.2 * error)
    assert high == pytest.approx(mean + error, abs=0.2 * error)
    assert all(np.isnan(paired.grouped_bootstrap([[], []])))


def test_monotone_violation_and_its_noise() -> None:
    alphas = [0.0, 0.5, 1.0]
    assert paired.monotone(alphas, [0.1, 0.2, 0.2], rising=True).size == 0.0
    found = paired.monotone(alphas, [0.4, 0.9, 0.5], rising=True, n=400)
    assert (round(found.size, 9), found.start, found.stop) == (0.4, 0.5, 1.0) and found.significant
    assert not paired.monotone(alphas, [0.90, 0.89, 0.90], rising=False, n=400).significant
    correct = np.ones((3, 100), dtype=bool)
    correct[1, :9] = False  # nine images lost and won back: far from chance on the same images
    rates = correct.mean(axis=1)
    same = paired.monotone(alphas, rates, rising=False, correct=correct)
    assert same.significant and same.p == pytest.approx(3 * 2 / 2**9)


def test_effective_robustness() -> None:
    clean = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    shifted = effective.expit(-1.0 + 0.8 * effective.logit(clean))
    fit = effective.fit_reference(clean, shifted)
    assert (fit.slope, fit.intercept, fit.n) == (pytest.approx(0.8), pytest.approx(-1.0), 5)
    assert effective.effective_robustness(0.7, shifted[2] + 0.05, fit) == pytest.approx(0.05)
    noisy = np.clip(shifted + np.array([0.01, -0.02, 0.02, -0.01, 0.0]), 0, 1)
    low, high = effective.fit_band(clean, noisy, [0.55, 0.85])
    assert (low < high).all() and (low < effective.fit_reference(clean, noisy)(np.array([0.55, 0.85]))).all()
    with pytest.raises(ValueError, match="two different"):
        effective.fit_reference([0.5, 0.5], [0.1, 0.2])


def test_summary_by_hand() -> None:
    s = image_run(summarised=True).summary
    assert (s["edit_accuracy"], s["unedited_edit_accuracy"]) == (pytest.approx(0.75), pytest.approx(0.45))
    assert (s["original_accuracy"], s["unedited_original_accuracy"]) == (pytest.approx(0.91), pytest.approx(0.96))
    assert s["original_ood_penalty"] == pytest.approx(-0.1) == pytest.approx(s["original_ood_penalty_3"])
    assert s["editing_ood_penalty"] == pytest.approx(2 * s["unedited_editing_ood_penalty"])
    assert "original_ood_penalty_2" not in s
    assert (s["rendition_accuracy"], s["unedited_rendition_accuracy"]) == (pytest.approx(0.3), pytest.approx(0.4))
    assert (s["n_edit_images"], s["n_original_images"], s["n_variants"]) == (200, 400, 12)
    assert (s["n_requests"], s["n_edits"], s["n_refused"], s["seconds_edit"]) == (2, 2, 0, 12.5)
    assert s["relative_mce"] > 1 and "mce" not in s
    assert s["matched_n_requests"] == 2 and 0 < s["matched_alpha"] < 0.5
    assert s["matched_edit_accuracy"] == pytest.approx(0.45 + 0.25 * 0.55)
    assert s["constrained_original_accuracy"] >= 0.95 - 1e-9
    json.loads(json.dumps(s), parse_constant=lambda word: pytest.fail(word))


@pytest.mark.filterwarnings("error")
def test_summary_without_the_unedited_model() -> None:
    """Where it was not asked, nothing is told that is measured against it."""
    records = image_run(summarised=True).records
    s = summarise_images(records[records.scope != "unedited"])
    assert s["original_accuracy"] == pytest.approx(0.91) and "relative_mce" not in s


def test_summary_with_all_fifteen_corruptions() -> None:
    """AlexNet's errors are known on ImageNet: what divides by them is told of nothing else."""
    run = image_run(corruptions=tuple(images.ALEXNET), severities=(1, 2, 3, 4, 5), alphas=(1.0,), summarised=True)
    s = run.summary
    assert "mce" not in s and "unedited_mce" not in s and s["relative_mce"] > 1
    marker = run.records.iloc[[0]].assign(scope="unedited", probe="original", metric=IMAGENET, value=1.0)
    imagenet = summarise_images(pd.concat([marker, run.records]))
    assert {k: v for k, v in imagenet.items() if not k.endswith("mce")} == {
        k: v for k, v in summarise_images(run.records).items() if not k.endswith("mce")
    }
    s = imagenet
    assert s["unedited_mce"] < s["mce"] and s["n_variants"] == 75
    assert "matched_alpha" not in s and "constrained_alpha" not in s


def test_summary_of_a_run_that_only_began() -> None:
    run = image_run()
    s = summarise_images(run.records[run.records.scope == "unedited"])
    assert s["unedited_edit_accuracy"] == pytest.approx(0.45) and "edit_accuracy" not in s
    assert (s["n_edits"], s["n_requests"]) == (0, 2)
    assert summarise_images(run.records[:0])["n_edits"] == 0
    assert summarise_images(run.records[:0].drop(columns="request"))["n_edits"] == 0


def test_summary_survives_what_is_not_a_number_and_edits_out_of_reach() -> None:
    run = image_run(gain=0.02, summarised=True)
    assert run.summary["matched_n_requests"] == 0 and run.summary["matched_alpha"] is None
    s = summarise_images(run.records.assign(value=np.nan))
    assert not any(isinstance(value, float) and not np.isfinite(value) for value in s.values())


def test_level_is_the_same_for_every_method() -> None:
    few: dict = {"corruptions": ("fog",), "severities": (3,)}
    assert level_of(curve(image_run(gain=0.1, **few))) == level_of(curve(image_run("local_collision", gain=0.4, **few)))
