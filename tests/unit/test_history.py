"""What a walk remembers of each edit."""

from __future__ import annotations

import numpy as np
import pytest

from edit_robust.core import Scores
from edit_robust.evaluate.answers import Answered
from edit_robust.evaluate.forgetting import History


def seen(requests: list[int], right: list[int]) -> Answered:
    """Edit questions of some requests: the model says the new answer by itself, or the old one."""
    hits = np.array([[float(r), 1.0 - r] for r in right])
    scores = Scores(np.log(hits * 0.8 + 0.1), hits, np.ones_like(hits, dtype=int), np.zeros(len(right), dtype=int))
    rows = np.arange(len(right))
    return Answered(scores, {"edit": rows}, [str(r) for r in requests], np.array(requests))


def numbers(history: History) -> dict[str, tuple[float, int]]:
    return {metric: (value, n) for metric, value, n in history.forgetting()}


def test_forgotten_recovered_and_sticky_by_hand() -> None:
    history = History(4)
    for request, right in enumerate([1, 1, 0, 1]):
        history.add("at-edit", seen([request], [right]))
        if request == 1:
            history.add("retention", seen([0, 1], [0, 1]))
            assert numbers(history)["forgotten"] == (0.5, 2)
    history.add("retention", seen([0, 1, 2, 3], [1, 0, 1, 1]))
    found = numbers(history)
    # of the three that were right at their edit (0, 1, 3): 1 is wrong now; 0 was wrong before and is right now
    assert found["forgotten"] == (pytest.approx(1 / 3), 3)
    assert found["forgotten_sticky"] == (pytest.approx(2 / 3), 3)
    assert found["recovered"] == (pytest.approx(1 / 3), 3)
    assert {k.replace("_es", "") for k in found} == {"forgotten", "forgotten_sticky", "recovered"}
    assert found["forgotten_es"] == found["forgotten"]


def test_a_request_is_right_when_all_its_questions_are() -> None:
    history = History(2)
    history.add("at-edit", seen([0, 0, 1], [1, 0, 1]))
    assert history.at_edit[""].tolist() == [False, True]


def test_nothing_is_said_of_facts_that_were_never_right() -> None:
    history = History(1)
    assert numbers(history) == {}
    history.add("at-edit", seen([0], [0]))
    history.add("retention", seen([0], [1]))
    assert numbers(history) == {}
