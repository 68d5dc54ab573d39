"""The fact world: the same facts on every machine, and its requests as a task."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import pytest
from helpers.errors import fails

from edit_robust.tasks.language.fact_world import FactWorldTask
from edit_robust.tasks.worlds.facts import words
from edit_robust.tasks.worlds.facts.world import FactWorld


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("seed", "facts", "names", "requests", "documents"),
    [
        (0, "d4ab1208278b1298", "e7322560f06daa5c", "bac72cb11a8b058e", "9e94ef8ce428c746"),
        (1, "f2f7bbb221d30739", "57cdd2a589e4f858", "a62f55ea043f1c78", "acf9127e376bb7ac"),
    ],
)
def test_a_seed_gives_one_world(seed: int, facts: str, names: str, requests: str, documents: str) -> None:
    """The shipped model knows world 0: facts, names, requests and documents are those that it was trained with."""
    world = FactWorld.generate(seed)
    assert digest([asdict(r) for r in world.relations]) == "db27bb3583540e65"
    assert digest(world.vocabulary_text()) == "436b1da14b7749aa"
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


def test_downstream_questions_are_about_what_no_request_touches() -> None:
    """Reserved subjects have no request, stand in no neighbourhood, and in the training text no claim is about them."""
    world = FactWorld.generate(0)
    asked = [q.prompt for q in world.untouched_facts(0, 200) + world.claims(0, 200)]
    assert all(any(subject in prompt for subject in world.reserved) for prompt in asked)
    assert not any(subject in prompt for subject in world.subjects for prompt in asked)
    assert len(set(asked)) == 400
    touched = json.dumps(world.requests()) + json.dumps(world.training_requests(world.subjects))
    claims = " ".join(d for d in world.training_text(0, 3000) if "Claim: " in d)
    assert claims.count("Claim: ") > 300
    assert not any(subject in touched or subject in claims for subject in world.reserved)
    assert not set(world.reserved) & set(world.subjects)


def test_downstream_questions_have_one_right_answer() -> None:
    world = FactWorld.generate(0)
    facts = {world.prompt(f, t): f for f in world.facts for t in range(8)}
    for prompt, target, options in world.untouched_facts(3, 50, held_out=True):
        assert (target, options) == (facts[prompt].object, world.relation(facts[prompt].relation).objects)
    claims = world.claims(5, 101)
    assert [sum(q.target == v for q in claims) for v in ("True", "False")] == [51, 50]
    types = {f.subject: f.subject_type for f in world.facts}
    for prompt, target, options in claims:
        subject = next(s for s in world.reserved if f" {s} " in prompt)
        said = prompt.removesuffix("?").split()[-1]
        assert options == ("True", "False") and said in words.HEADS
        assert (said == types[subject]) == (target == "True")
    assert world.claims(5, 101) == claims != world.claims(6, 101)


def test_completions_are_held_out_and_determined() -> None:
    """No repeated pair of nouns occurs in training; a set phrase's beginning has one end."""
    world = FactWorld.generate(0)
    text = " ".join(world.training_text(0, 20_000)).lower()
    questions = world.completions(0, 200)
    assert all(target in options for _, target, options in questions)
    repeated = [q for q in questions if "then again of" in q.prompt]
    assert len(repeated) == 100
    for prompt, target, _ in repeated:
        sentence = f"{prompt} {target}".lower()
        assert sentence.count(target) == 2
        assert sentence[sentence.index("they spoke") :] not in text
    assert "then again of" in text
    ends: dict[str, set[str]] = {}
    for prompt, target, _ in questions:
        if "then again of" not in prompt:
            ends.setdefault(" ".join(prompt.split()[-2:]), set()).add(target)
    assert all(len(found) == 1 for found in ends.values())


def test_single_token_subjects_come_late_in_every_order() -> None:
    """At positions 75, 80, ..., in another order each time; a request is the same wherever it stands."""
    world = FactWorld.generate(0)
    orders = [world.requests(order=k) for k in range(4)]
    places = list(range(75, 275, 5))
    for requests in orders:
        assert [i for i, r in enumerate(requests) if r["single_token_subject"]] == places
        assert sorted(requests, key=lambda r: r["case_id"]) == sorted(orders[0], key=lambda r: r["case_id"])
    assert len({json.dumps(requests[75:100:5]) for requests in orders}) == 4
    assert [r for r in orders[0] if r["single_token_subject"]] == world.requests(single_token="only")
    assert world.requests(90, order=2) == orders[2][:90]
