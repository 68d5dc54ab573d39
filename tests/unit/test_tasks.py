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


def test_fact_world() -> None:
    task = FactWorldTask(n_requests=5, n_corpus=7, n_held_out=3)
    requests = task.requests()
    assert len(requests) == 5
    assert [(p.name, len(p.examples)) for p in task.probes(requests)] == [
        ("edit", 5),
        ("paraphrase", 10),
        ("neighbourhood", 50),
    ]
    assert all(r.single_token_subject is False for r in requests)
    assert (len(task.corpus()), len(task.held_out())) == (7, 3)
    assert not set(task.corpus()) & set(task.held_out())
    assert requests == FactWorldTask(n_requests=5).requests()
    assert requests != FactWorldTask(n_requests=5, order=1).requests()
    assert requests != FactWorldTask(n_requests=5, world_seed=1).requests()


def test_fact_world_single_token_subjects() -> None:
    every = FactWorldTask().requests()
    only = FactWorldTask(single_token="only").requests()
    none = FactWorldTask(single_token="none").requests()
    assert len(only) + len(none) == len(every) == len({r.subject for r in every})
    assert all(r.single_token_subject for r in only)
    assert not any(r.single_token_subject for r in none)
    assert {r.id for r in FactWorldTask(order=3).requests()} == {r.id for r in every}
    fails(f"has {len(every)} requests", FactWorldTask(n_requests=10**6).requests)
