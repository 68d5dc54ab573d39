"""Files of CounterFact and zsRE: their records as requests and questions, their order, and every error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.errors import fails
from helpers.real import real
from helpers.records import edited, zsre_records
from helpers.tiny import tiny_facts, write_json

from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.fact_world import FactWorldTask
from edit_robust.tasks.language.facts import Facts
from edit_robust.tasks.language.zsre import Zsre


def test_counterfact_request_and_probes(cf_path: str) -> None:
    record = tiny_facts(12)[0]
    rewrite = record["requested_rewrite"]
    task = Counterfact(path=cf_path)
    request = task.requests()[0]
    new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
    assert (request.id, request.x, request.subject) == ("0", rewrite["prompt"], rewrite["subject"])
    assert (request.target, request.old, request.relation) == (new, true, "R0")
    assert request.prompt == rewrite["prompt"].replace("{}", rewrite["subject"])

    edit, paraphrase, neighbourhood = task.probes([request])
    assert [p.name for p in (edit, paraphrase, neighbourhood)] == ["edit", "paraphrase", "neighbourhood"]
    assert [len(p.examples) for p in (edit, paraphrase, neighbourhood)] == [1, 2, 3]
    assert edit.examples[0].x == request.prompt
    assert [e.x for e in paraphrase.examples] == record["paraphrase_prompts"]
    assert [e.x for e in neighbourhood.examples] == record["neighborhood_prompts"]
    assert neighbourhood.examples[2].id == "0/neighbourhood/2"
    for probe, target in ((edit, 0), (paraphrase, 0), (neighbourhood, 1)):
        for e in probe.examples:
            assert (e.choices, e.target, e.group) == ((f" {new}", f" {true}"), target, "0")


def test_spaces_are_dropped_at_the_edges(tmp_path: Path) -> None:
    record = tiny_facts(1)[0]
    record["requested_rewrite"] |= {"prompt": "{} lives in ", "target_new": {"str": " Oslo "}, "subject": "Ada Moreth "}
    record["paraphrase_prompts"] = ["Home of Ada Moreth: \n"]
    task = Counterfact(path=str(write_json(tmp_path / "cf.json", [record])))
    edit, paraphrase, _ = task.probes(task.requests())
    assert edit.examples[0].x == "Ada Moreth lives in"
    assert edit.examples[0].choices[0] == " Oslo"
    assert paraphrase.examples[0].x == "Home of Ada Moreth:"


def test_empty_probes_are_left_out(tmp_path: Path) -> None:
    record = tiny_facts(1)[0] | {"paraphrase_prompts": [], "neighborhood_prompts": []}
    task = Counterfact(path=str(write_json(tmp_path / "cf.json", [record])))
    assert [p.name for p in task.probes(task.requests())] == ["edit"]
    assert task.probes([]) == []


def test_order_is_a_seeded_permutation_of_the_same_requests(tmp_path: Path) -> None:
    records = tiny_facts(12)
    for i in (3, 7):
        records[i]["requested_rewrite"]["subject"] = records[0]["requested_rewrite"]["subject"]
    path = str(write_json(tmp_path / "cf.json", records))
    ids = [r.id for r in Counterfact(path=path).requests()]
    assert ids == [str(i) for i in range(12) if i not in (3, 7)]
    shuffled = [r.id for r in Counterfact(path=path, order=2).requests()]
    assert shuffled == [ids[i] for i in np.random.default_rng(2).permutation(10)]
    assert [r.id for r in Counterfact(path=path, order=2, n_requests=4).requests()] == shuffled[:4]
    assert shuffled != [r.id for r in Counterfact(path=path, order=1).requests()]
    assert len(Counterfact(path=path, unique_subjects=False, n_requests=12).requests()) == 12
    fails("n_requests=11 & 10 requests with distinct subjects", Counterfact(path=path, n_requests=11).requests)
    fails("13 & has 12 requests", Counterfact(path=path, unique_subjects=False, n_requests=13).requests)


def test_counts_are_checked() -> None:
    fails("task.n_requests=0 & at least 1", lambda: Counterfact(n_requests=0))
    fails("task.order=-1", lambda: Zsre(order=-1))
    fails("task.n_corpus=0", lambda: FactWorldTask(n_corpus=0))
    fails("task.n_held_out=-2", lambda: Facts("x.csv", n_held_out=-2))


SAME = tiny_facts(1)[0]["requested_rewrite"]["target_true"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"requested_rewrite": ...}, '"requested_rewrite" is missing'),
        ({"requested_rewrite": ["a"]}, '"requested_rewrite" must be an object, not a list'),
        (
            {"requested_rewrite__prompt": ..., "requested_rewrite__promt": "{} is"},
            '"requested_rewrite.prompt" is missing & did you mean "prompt"?',
        ),
        ({"requested_rewrite__prompt": "   "}, '"requested_rewrite.prompt" is empty'),
        ({"requested_rewrite__prompt": 3}, "must be text, not a number"),
        ({"requested_rewrite__prompt": "{} and {}"}, "has 2 places {}"),
        ({"requested_rewrite__prompt": "Bob is"}, "neither {} nor the subject"),
        ({"requested_rewrite__subject": ""}, '"requested_rewrite.subject" is empty'),
        ({"requested_rewrite__target_new": "Rome"}, '"requested_rewrite.target_new" must be an object, not text'),
        ({"requested_rewrite__target_new__str": "  "}, '"requested_rewrite.target_new.str" is empty'),
        ({"requested_rewrite__target_new__str": None}, "must be text, not null"),
        ({"requested_rewrite__target_true": ...}, '"requested_rewrite.target_true" is missing'),
        ({"requested_rewrite__target_new": SAME}, "is the same as target_true"),
        ({"paraphrase_prompts": ...}, '"paraphrase_prompts" is missing'),
        ({"paraphrase_prompts": "one"}, '"paraphrase_prompts" must be a list of texts, not text'),
        ({"neighborhood_prompts": ["a", {}]}, '"neighborhood_prompts[1]" must be text, not an object'),
        ({"neighborhood_prompts": ["a", ""]}, '"neighborhood_prompts[1]" is empty'),
        (
            {"neighborhood_prompts": ..., "neighbourhood_prompts": []},
            '"neighborhood_prompts" is missing & did you mean "neighborhood_prompts"?',
        ),
        ({"case_id": True}, '"case_id" must be a number or text, not a truth value'),
        ({"case_id": ...}, '"case_id" is missing'),
    ],
)
def test_counterfact_record_errors(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    records = [tiny_facts(2)[1], edited(**changes)]
    path = write_json(tmp_path / "cf.json", records)
    fails(f"{path}, record 2 & {words}", Counterfact(path=str(path)).requests)


def test_a_known_field_is_never_called_misspelt(tmp_path: Path) -> None:
    path = write_json(tmp_path / "cf.json", [edited(requested_rewrite__target_true=...)])
    assert "did you mean" not in fails("is missing", Counterfact(path=str(path)).requests)


def test_duplicate_ids(tmp_path: Path) -> None:
    records = tiny_facts(2)
    records[1]["case_id"] = 0
    fails('two records have the id "0"', Counterfact(path=str(write_json(tmp_path / "cf.json", records))).requests)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "holds no records"),
        (b"{}", "must hold a list of records, not an object"),
        (b"[1]", "record 1: must be an object, not a number"),
        (b"", "is not valid JSON"),
        (b'[{"case_id": 1,\n "x": ', "is not valid JSON (line 2, & cut off"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["\xff\xfe"]', "is not UTF-8 text (byte 2)"),
    ],
)
def test_file_errors(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    for task in (Counterfact(path=str(path)), Zsre(path=str(path)), Facts(path=str(path))):
        fails(f"bad.json & {words}", task.requests)


def test_missing_file_names_the_nearest(tmp_path: Path, cf_path: str) -> None:
    fails('no such file & did you mean "cf.json"?', Counterfact(path=str(tmp_path / "cff.json")).requests)
    fails("is a folder", Counterfact(path=str(tmp_path)).requests)
    fails("no folder", Counterfact(path=str(tmp_path / "sub" / "cf.json")).requests)


def test_zsre_answers_and_alt(tmp_path: Path) -> None:
    path = str(write_json(tmp_path / "z.json", zsre_records()))
    task = Zsre(path=path)
    request = task.requests()[1]
    assert (request.id, request.x, request.subject) == ("1", "Where does {} lie?", "Lake B")
    assert (request.target, request.old) == ("Norway", None)
    edit, paraphrase, neighbourhood = task.probes([request])
    assert (edit.examples[0].x, edit.examples[0].choices) == ("Where does Lake B lie?", (" Norway",))
    assert (paraphrase.examples[0].x, paraphrase.examples[0].choices) == ("In which country is Lake B?", (" Norway",))
    example = neighbourhood.examples[0]
    assert (example.x, example.choices, example.target) == ("nq question: who wrote book B?", (" Ibsen",), 0)

    alt = Zsre(path=path, target="alt").requests()[1]
    assert (alt.target, alt.old) == ("Chile", "Norway")
    assert Zsre(path=path, target="alt").probes([alt])[0].examples[0].choices == (" Chile",)
    assert "Chile" not in " ".join(task.corpus() + task.held_out())


def test_zsre_without_alt(tmp_path: Path) -> None:
    records = zsre_records()
    records[0]["alt"] = ""
    path = str(write_json(tmp_path / "z.json", records))
    assert [r.id for r in Zsre(path=path, target="alt").requests()] == ["1", "2", "3"]
    assert len(Zsre(path=path).requests()) == 4
    fails("has 3 requests", Zsre(path=path, target="alt", n_requests=4).requests)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("subject", "Lake Z", '"src" has neither {} nor the subject "Lake Z"'),
        ("answers", [], '"answers" is empty'),
        ("answers", "Norway", '"answers" must be a list'),
        ("answers", [" "], '"answers[0]" is empty'),
        ("rephrase", None, '"rephrase" must be text, not null'),
        ("loc", "", '"loc" is empty'),
        ("loc_ans", ["x"], '"loc_ans" must be text, not a list'),
    ],
)
def test_zsre_record_errors(tmp_path: Path, field: str, value: Any, words: str) -> None:
    records = zsre_records()
    records[2][field] = value
    fails(f"record 3 & {words}", Zsre(path=str(write_json(tmp_path / "z.json", records))).requests)


def test_zsre_misspelt_field(tmp_path: Path) -> None:
    records = zsre_records()
    records[0]["repharse"] = records[0].pop("rephrase")
    task = Zsre(path=str(write_json(tmp_path / "z.json", records)))
    fails('"rephrase" is missing & "repharse" & did you mean "rephrase"?', task.requests)


def test_real_counterfact() -> None:
    path = str(real("counterfact/counterfact_120.json"))
    task = Counterfact(path=path)
    requests = task.requests()
    probes = task.probes(requests)
    assert [(p.name, len(p.examples)) for p in probes] == [("edit", 120), ("paraphrase", 240), ("neighbourhood", 1200)]
    for example in (e for p in probes for e in p.examples):
        assert example.x == example.x.rstrip() and all(c[0] == " " and c[1] != " " for c in example.choices)
    assert all(r.x.count("{}") == 1 and r.subject in r.prompt for r in requests)
    assert (len(task.corpus()), len(task.held_out())) == (108, 12)


def test_real_zsre() -> None:
    path = str(real("zsre/zsre_mend_eval_200.json"))
    task = Zsre(path=path)
    assert len(task.requests()) == 142 and len(Zsre(path=path, unique_subjects=False).requests()) == 200
    assert all(r.x.count("{}") == 1 for r in task.requests())
    assert all(e.x.startswith("nq question: ") and e.x.endswith("?") for e in task.probes(task.requests())[2].examples)
