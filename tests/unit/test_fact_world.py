"""The fact world: the same facts on every machine, and its requests as a task."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import pytest
from helpers.errors import fails

from edit_robust.tasks.language.fact_world import FactWorldTask
from edit_robust.tasks.worlds.facts.world import FactWorld


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("seed", "facts", "names", "requests", "documents"),
    [
        (0, "315a152a7fea1529", "e7322560f06daa5c", "c5926285c8504a77", "374b4d23871392a3"),
        (1, "9bb5001409fbe653", "57cdd2a589e4f858", "b88f6e623a9d21a3", "c2ef6bcc2cd698ed"),
    ],
)
def test_a_seed_gives_one_world(seed: int, facts: str, names: str, requests: str, documents: str) -> None:
    """The shipped model knows world 0: facts, names, requests and documents are those that it was trained with."""
    world = FactWorld.generate(seed)
    assert digest([asdict(r) for r in world.relations]) == "32a459bf2382c183"
    assert digest(world.vocabulary_text()) == "bcaa9266db3cf0a4"
    assert digest([asdict(f) for f in world.facts]) == facts
    assert digest([world.subjects, world.name_parts]) == names
    assert digest(world.requests()) == requests
    assert digest(world.training_text(0, 300) + world.held_out_text(100)) == documents


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
