"""The fact world's questions about what follows from an edit: made of the request alone, and true of the world."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from edit_robust.core import TextRequest
from edit_robust.tasks.language.fact_world import FactWorldTask
from edit_robust.tasks.worlds.facts import words
from edit_robust.tasks.worlds.facts.ripple import DESCRIBED, NEGATED, PREFIX_WORDS, REVERSED, Extras
from edit_robust.tasks.worlds.facts.world import FactWorld


@pytest.fixture(scope="module")
def world() -> FactWorld:
    return FactWorld.generate()


@pytest.fixture(scope="module")
def requests() -> list[TextRequest]:
    return FactWorldTask(n_requests=60).requests()


def test_every_relation_can_be_asked_in_every_way() -> None:
    assert set(NEGATED) == set(REVERSED) == set(DESCRIBED) == {*words.TEMPLATES, *words.OF_OBJECTS}
    assert all(t.count("{}") == 1 for some in (NEGATED, REVERSED, DESCRIBED) for t in some.values())


def test_what_is_asked(world: FactWorld, requests: list[TextRequest]) -> None:
    facts = {(f.subject, f.relation): f for f in world.facts}
    for request in requests:
        subject, asked = str(request.subject), {}
        for q in request.ripple:
            asked.setdefault(q.kind, []).append(q)
            assert q.right != q.other and not q.prompt.endswith(" ")
        assert {"alias", "prefix", "negation", "reversal"} <= set(asked)
        (alias,), (prefix,) = asked["alias"], asked["prefix"]
        assert alias.prompt == str(request.x).replace("{}", subject.split()[-1]) != request.prompt
        assert prefix.prompt.endswith(f". {request.prompt}")
        assert len(prefix.prompt.split()) == PREFIX_WORDS + len(request.prompt.split())
        assert (alias.right, alias.other) == (prefix.right, prefix.other) == (request.target, request.old)
        (negation,), (back,) = asked["negation"], asked["reversal"]
        assert (negation.right, negation.other) == (request.old, request.target) and " not " in negation.prompt
        assert back.right == subject and str(request.target) in back.prompt
        assert facts[str(back.other), str(request.relation)].object == request.old
        for q in asked.get("same-subject", []):
            same = [f for f in world.facts if f.subject == subject and f.relation != request.relation]
            assert any(q.prompt in [world.prompt(f, t) for t in f.trained] and q.right == f.object for f in same)
    assert Counter(q.kind for r in requests for q in r.ripple)["same-subject"] > len(requests) / 2


def test_what_to_write_about(world: FactWorld, requests: list[TextRequest]) -> None:
    for request in requests:
        assert len(request.generation) == 3 and all(str(request.subject) in p for p in request.generation)
        assert request.references and all(t.endswith(f" {request.target}.") for t in request.references)
        assert not any(str(request.subject) in t for t in request.references)
        assert not any(name in t for t in request.references for name in world.reserved)


def test_the_request_alone_decides(requests: list[TextRequest]) -> None:
    other_order = {r.subject: r for r in FactWorldTask(n_requests=None, order=3).requests()}
    assert all((other_order[r.subject].ripple, other_order[r.subject].references) == (r.ripple, r.references)
               for r in requests)  # fmt: skip


def test_the_same_in_another_process(requests: list[TextRequest]) -> None:
    """Python's own hash of a text is salted: it must not have a say."""
    code = (
        "from edit_robust.tasks.language.fact_world import FactWorldTask\n"
        "for r in FactWorldTask(n_requests=5).requests(): print(r.ripple, r.references, r.generation)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [f"{r.ripple} {r.references} {r.generation}" for r in requests[:5]]


def test_one_hop_further_where_the_world_knows_the_object(world: FactWorld) -> None:
    """Cities lie in countries: who was born in another city now was born where another country is around."""
    born = next(f for f in world.facts if f.relation == "born_in")
    lies = {f.subject: f.object for f in world.facts if f.relation == "city_country"}
    cities = world.relation("born_in").objects
    assert {*cities, *world.relation("headquarters").objects} == set(lies)
    edit = {"subject": born.subject, "relation_id": "born_in", "prompt": "{} was born in"}
    asked = 0
    for city in cities:
        if city != born.object:
            record = {**edit, "target_new": {"str": city}, "target_true": {"str": born.object}}
            found = [q for q in Extras(world).of({"requested_rewrite": record})["ripple"] if q["kind"] == "reasoning"]
            assert len(found) == (lies[city] != lies[born.object])
            for q in found:
                asked += 1
                assert (q["target"], q["target_true"]) == (lies[city], lies[born.object])
                assert f"he city where {born.subject} was born" in q["prompt"]
    assert asked > 15
    plays = next(f for f in world.facts if f.relation == "instrument")
    edit = {"subject": plays.subject, "relation_id": "instrument", "prompt": "{} plays the"}
    edit |= {"target_new": {"str": "lute"}, "target_true": {"str": plays.object}}
    assert not [q for q in Extras(world).of({"requested_rewrite": edit})["ripple"] if q["kind"] == "reasoning"]
