"""What holds of every language task: its constructor is its schema, and files are read once, when asked for."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_type_hints

import pytest
from beartype.door import is_bearable
from helpers.errors import fails

from edit_robust.core.data import Request
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.fact_world import FactWorldTask
from edit_robust.tasks.language.facts import Facts
from edit_robust.tasks.language.zsre import Zsre

TASKS = (Counterfact, Zsre, Facts, FactWorldTask)


@pytest.mark.parametrize("task", TASKS)
def test_constructor_is_a_typed_schema(task: type) -> None:
    signature, hints = inspect.signature(task.__init__), get_type_hints(task.__init__)
    for name, parameter in signature.parameters.items():
        if name == "self":
            continue
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert name in hints
        if parameter.default is not parameter.empty:
            assert is_bearable(parameter.default, hints[name])
            assert not is_bearable(object(), hints[name])
    assert isinstance(task.needs, str) and "\n" not in task.needs


def test_init_reads_nothing() -> None:
    for task in (Counterfact(path="absent.json"), Zsre(path="absent.json"), Facts(path="absent.csv")):
        fails("absent", task.requests)


def test_data_are_read_once(cf_path: str) -> None:
    task = Counterfact(path=cf_path)
    first = task.requests()
    Path(cf_path).unlink()
    assert task.requests() == first
    assert task.requests() is not first
    assert task.corpus() and task.held_out()


def test_requests_hold_their_own_questions(cf_path: str) -> None:
    task = Counterfact(path=cf_path)
    request = task.requests()[4]
    assert isinstance(request, Request)
    assert Counterfact(path="elsewhere.json").probes([request]) == task.probes([request])
