"""The field's numbers, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from edit_robust.core import Scores
from edit_robust.evaluate.statistics.success import (
    accuracy,
    forgetting,
    harmonic_mean,
    magnitude,
    over_groups,
    overall,
    perplexity,
    probe_metrics,
    success,
    token_accuracy,
)
from edit_robust.evaluate.statistics.weights import drift

NAN = float("nan")


def scores(logp: Any, target: Any, hits: Any = None, tokens: Any = None) -> Scores:
    logp = np.array(logp, dtype=float)
    hits = np.zeros_like(logp) if hits is None else np.array(hits, dtype=float)
    tokens = np.ones(logp.shape, dtype=np.int64) if tokens is None else np.array(tokens)
    return Scores(logp, hits, tokens, np.array(target))


def test_success_is_strict() -> None:
    s = scores([[-1, -2], [-2, -1], [-1, -1], [NAN, -1], [-1, NAN], [-1, -2]], [0, 0, 0, 0, 0, 1])
    assert success(s).tolist() == [True, False, False, False, False, False]


def test_success_against_the_best_of_the_others() -> None:
    s = scores([[-3, -2, -1], [-3, -1, -2], [-1, -3, NAN], [-1, -2, -np.inf]], [2, 2, 0, 0])
    assert success(s).tolist() == [True, False, False, True], "an answer that is not a number is not a lesser one"
    absent = scores([[-1, -3, NAN], [-1, NAN, NAN]], [0, 0], tokens=[[1, 1, 0], [1, 0, 0]])
    assert success(absent).tolist() == [True, False]
    assert np.isnan(magnitude(absent)[1])


def test_magnitude() -> None:
    s = scores([[math.log(0.7), math.log(0.2), math.log(0.1)], [math.log(0.7), math.log(0.2), math.log(0.1)]], [0, 2])
    assert magnitude(s) == pytest.approx([0.5, -0.6])


def test_accuracies_are_of_the_right_choice() -> None:
    s = scores([[-1, -2]] * 4, [0, 1, 0, 0], hits=[[1, 0], [1, 0.5], [0.5, 1], [NAN, 1]])
    assert accuracy(s).tolist() == [True, False, False, False]
    assert token_accuracy(s)[:3] == pytest.approx([1, 0.5, 0.5]) and np.isnan(token_accuracy(s)[3])


def test_means_within_and_over_groups() -> None:
    assert over_groups(np.array([1, 0, 0, 0, 1]), ["a", "b", "b", "a", "a"]) == (pytest.approx((2 / 3 + 0) / 2), 2)
    assert over_groups(np.array([True, False]), ["x", "x"]) == (0.5, 1)


def test_harmonic_mean() -> None:
    assert harmonic_mean([1.0, 0.5, 0.25]) == pytest.approx(3 / 7)
    assert harmonic_mean([1.0, 0.0, 1.0]) == 0.0
    # ROME's own table: GPT2-XL unedited and edited, S of ES, PS and NS
    assert harmonic_mean([22.2, 24.7, 78.1]) == pytest.approx(30.5, abs=0.05)
    assert harmonic_mean([100.0, 96.4, 75.4]) == pytest.approx(89.2, abs=0.05)


def test_probe_metrics() -> None:
    s = scores(
        [[-1, -2], [-2, -1], [-1, NAN]], [0, 0, 0], hits=[[1, 0], [0, 1], [1, NAN]], tokens=[[2, 1], [2, 1], [1, 0]]
    )
    found = probe_metrics(s, ["a", "a", "b"])
    assert found["success"] == (0.5, 1), "the question without a choice to make has no say"
    assert found["magnitude"] == (pytest.approx(0.0), 1)
    assert found["accuracy"] == (0.75, 2) and found["token_accuracy"] == (0.75, 2)
    alone = scores([[-1], [-2]], [0, 0], hits=[[1], [0.5]])
    assert set(probe_metrics(alone, ["a", "b"])) == {"accuracy", "token_accuracy"}


def test_overall_score() -> None:
    def m(value: float, **more: float) -> dict[str, tuple[float, int]]:
        return {"success": (value, 7), "token_accuracy": (0.1, 7), **{k: (v, 7) for k, v in more.items()}}

    three = {"edit": m(1.0), "paraphrase": m(0.5), "neighbourhood": m(0.25)}
    assert overall(three) == (pytest.approx(3 / 7), 7)
    assert overall({"edit": m(1.0), "paraphrase": m(1.0)}) is None
    without = {k: {"token_accuracy": (v, 4)} for k, v in (("edit", 1.0), ("paraphrase", 0.5), ("neighbourhood", 0.25))}
    assert overall(without) == (pytest.approx(3 / 7), 4)


def test_perplexity() -> None:
    s = scores([[-1.0], [-4.0]], [0, 0], tokens=[[3], [1]])
    assert perplexity(s) == (pytest.approx(math.exp(7 / 4)), 4)
    absent = scores([[-1.0], [NAN]], [0, 0], tokens=[[3], [0]])
    assert perplexity(absent) == (pytest.approx(math.e), 3), "a text without anything to predict has no say"
    assert math.isnan(perplexity(scores([[-1.0], [NAN]], [0, 0]))[0]), "a broken model has"
    assert math.isfinite(perplexity(scores([[-1e9]], [0]))[0])


def test_forgetting() -> None:
    """Five edits, the fourth never right; rows are checks after 2, 4 and 5 edits.

    0 stays. 1 is forgotten, then recovered. 2 is forgotten for good. 3 does not count. 4 is wrong at the last check.
    """
    at_edit = np.array([True, True, True, False, True])
    checks = [
        np.array([True, False]),
        np.array([True, True, False, False]),
        np.array([True, True, False, True, False]),
    ]
    f = forgetting(at_edit, checks)
    assert (f.momentary, f.sticky, f.recovered, f.n) == (2 / 4, 3 / 4, 1 / 4, 4)
    first = forgetting(at_edit[:2], checks[:1])
    assert (first.momentary, first.sticky, first.recovered, first.n) == (1 / 2, 1 / 2, 0.0, 2)
    second = forgetting(at_edit[:4], checks[:2])
    assert (second.momentary, second.sticky, second.recovered, second.n) == (1 / 3, 2 / 3, 1 / 3, 3)


def test_nothing_to_forget() -> None:
    f = forgetting(np.array([False, False]), [np.array([True, False])])
    assert f.n == 0 and math.isnan(f.momentary) and math.isnan(f.sticky) and math.isnan(f.recovered)


def test_drift() -> None:
    was, now = torch.zeros(2, 4), torch.zeros(2, 4)
    now[0, 0], now[1, 3] = 3.0, 4.0
    assert drift(now, was) == {"drift_fro": 5.0, "drift_per_element": 5 / 8, "drift_per_neuron": 5 / 4}
    half = drift(now.bfloat16(), was.bfloat16())
    assert half["drift_fro"] == 5.0
