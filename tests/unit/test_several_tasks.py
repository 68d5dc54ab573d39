"""Several tasks of labelled images as one: an edit each, one original task, options refused with one line."""

from __future__ import annotations

from typing import Any

import pytest

from edit_robust.core import UserError
from edit_robust.evaluate.leaks import leaks
from edit_robust.tasks.vision.several import TASK, Several

SMALL: dict[str, Any] = {"n_train": 20, "n_test": 12, "n_held_out": 8, "n_original": 16, "natural": []}


def test_an_edit_a_task_and_one_original() -> None:
    cards = {"digits": None, "cards": {"task": "scene-digits", "kind": "cards", "n_train": 30}}
    task = Several(tasks=cards, **SMALL)
    requests = task.requests()
    assert [(r.id, len(r.x)) for r in requests] == [("digits", 20), ("cards", 30)]
    assert all(r.words is not None and r.words.class_names == tuple("0123456789") for r in requests)
    sets = task.image_sets(requests)
    names = [(x.probe, x.request, x.corrupted, len(x)) for x in sets]
    assert names == [
        ("original", "", True, 16),
        ("edit", "digits", True, 12),
        ("edit", "cards", True, 12),
        ("edit-held-out", "digits", False, 8),
        ("edit-held-out", "cards", False, 8),
        ("original-held-out", "", True, 8),
        (TASK, "digits", False, 12),
        (TASK, "cards", False, 12),
    ]
    assert sets[1].ids == sets[6].ids and task.training_requests() == []
    assert {n for _, n in leaks(requests, sets[:3]).values()} == {n for _, n in leaks(requests, sets).values()}, (
        "images that are asked about once more do not count twice"
    )
    assert task.reference_accuracies() and len(task.moment_images())
    assert [r.id for r in Several(**SMALL).requests()] == ["digits", "scene-digits"]
    other = Several(**SMALL, seed=1).requests()
    assert other[0].x.ids != Several(**SMALL).requests()[0].x.ids


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"tasks": []}, r"task\.tasks is empty"),
        ({"tasks": ["digits", "digits"]}, "names a task twice"),
        ({"tasks": ["digitts"]}, "no task 'digitts'; did you mean \"digits\""),
        ({"tasks": {"digits": {"n_tran": 3}}}, "no option 'n_tran'; did you mean \"n_train\""),
        ({"tasks": {"digits": {"n_original": 3}}}, r"n_original is said once for all tasks: task\.n_original="),
        ({"tasks": ["mnist"]}, r"task\.path must be given"),
        ({"seed": -1}, r"task\.seed=-1"),
        ({"n_train": 0}, "n_train"),
        ({"n_held_out": -1}, "n_held_out"),
    ],
)
def test_each_mistake_is_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        Several(**options)
    assert "\n" not in str(error.value)
