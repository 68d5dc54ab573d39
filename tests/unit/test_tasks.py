"""The language tasks: records, orders, questions, documents, downloads, and every error a user can run into."""

from __future__ import annotations

import copy
import csv
import hashlib
import http.server
import inspect
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from beartype.door import is_bearable
from transformers import AutoModelForCausalLM, AutoTokenizer

from edit_robust.core.data import Request
from edit_robust.core.errors import UserError
from edit_robust.tasks.fetch import fetch, file_sha256
from edit_robust.tasks.language import counterfact, zsre
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.fact_world import FactWorldTask
from edit_robust.tasks.language.facts import Facts
from edit_robust.tasks.language.zsre import Zsre
from tests.helpers.tiny import KINDS, tiny_checkpoint, tiny_facts, tiny_texts, tiny_tokenizer, write_json

SHARED = Path(__file__).parents[2].parent / "shared"
TASKS = (Counterfact, Zsre, Facts, FactWorldTask)


def shared(path: str) -> str:
    if not (SHARED / path).is_file():
        pytest.skip(f"{path} is not here")
    return str(SHARED / path)


def fails(words: str, make: Any) -> str:
    """The one-line message of the UserError that `make` raises; it holds every one of `words`, split at " & "."""
    with pytest.raises(UserError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words.split(" & "):
        assert word in message, f"{word!r} is not in {message!r}"
    return message


@pytest.fixture
def cf_path(tmp_path: Path) -> str:
    return str(write_json(tmp_path / "cf.json", tiny_facts(12)))


def zsre_records(n: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "subject": f"Lake {c}",
            "src": f"Where does Lake {c} lie?",
            "pred": "Peru",
            "rephrase": f"In which country is Lake {c}?",
            "alt": "Chile",
            "answers": ["Norway", "Kingdom of Norway"],
            "loc": f"nq question: who wrote book {c}",
            "loc_ans": "Ibsen",
            "cond": "",
        }
        for c in "ABCDEFGHIJ"[:n]
    ]


# --- the contract -----------------------------------------------------------------------------------------------------


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


# --- counterfact ------------------------------------------------------------------------------------------------------


def test_counterfact_request_and_probes(cf_path: str) -> None:
    record = tiny_facts(12)[0]
    rewrite = record["requested_rewrite"]
    task = Counterfact(path=cf_path)
    request = task.requests()[0]
    new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
    assert (request.id, request.x, request.subject) == ("0", rewrite["prompt"], rewrite["subject"])
    assert (request.target, request.old, request.extra["relation"]) == (new, true, "R0")
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


def edited(**changes: Any) -> dict[str, Any]:
    """A record with dotted fields replaced, or removed where the value is `...`."""
    record = copy.deepcopy(tiny_facts(1)[0])
    for field, value in changes.items():
        *path, last = field.split("__")
        place = record
        for key in path:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return record


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


# --- zsre -------------------------------------------------------------------------------------------------------------


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


# --- facts ------------------------------------------------------------------------------------------------------------


def facts_file(folder: Path, text: str, name: str = "my.csv", encoding: str = "utf-8") -> str:
    path = folder / name
    path.write_text(text, encoding=encoding, newline="")
    return str(path)


def test_facts_csv(tmp_path: Path) -> None:
    text = (
        "prompt,subject,target_new,target_true,paraphrases,neighbours\r\n"
        'The capital of {} is,France,Lyon,Paris,"France is ruled from|The seat of {}, they say, is|",'
        "The capital of Italy is => Rome | The Louvre is in\r\n"
        "\r\n"
        '"""Zoë""\nlives in",Zoë,Oslo,Bergen,,\r\n'
    )
    for encoding in ("utf-8", "utf-8-sig"):
        task = Facts(path=facts_file(tmp_path, text, encoding=encoding))
        first, second = task.requests()
        assert (first.id, first.x, first.target, first.old) == ("0", "The capital of {} is", "Lyon", "Paris")
        assert (second.id, second.x, second.prompt) == ("1", '"{}"\nlives in', '"Zoë"\nlives in')
        edit, paraphrase, neighbourhood = task.probes([first, second])
        assert edit.examples[0].choices == (" Lyon", " Paris")
        assert [e.x for e in paraphrase.examples] == ["France is ruled from", "The seat of France, they say, is"]
        assert [(e.x, e.choices, e.target) for e in neighbourhood.examples] == [
            ("The capital of Italy is", (" Lyon", " Rome"), 1),
            ("The Louvre is in", (" Lyon", " Paris"), 1),
        ]
        assert task.protocol == "counterfact"


@pytest.mark.parametrize("name", ["my.jsonl", "my.json", "MY.JSONL"])
def test_facts_json(tmp_path: Path, name: str) -> None:
    records = [
        {
            "id": "lake",
            "prompt": "The lake in {} is",
            "subject": "Geneva",
            "target_new": "Como",
            "neighbours": [{"prompt": "The lake in Como is", "answer": "Lario"}],
            "paraphrases": None,
        },
        {"id": 7, "prompt": "Annabel and Ann like", "subject": "Ann", "target_new": "tea", "target_true": "milk"},
    ]
    text = json.dumps(records) if name.endswith(".json") else "\n\n".join(map(json.dumps, records))
    task = Facts(path=facts_file(tmp_path, text, name))
    lake, ann = task.requests()
    assert (lake.id, lake.old, ann.id, ann.x) == ("lake", None, "7", "Annabel and {} like")
    edit, neighbourhood = task.probes([lake, ann])
    assert [e.choices for e in edit.examples] == [(" Como",), (" tea", " milk")]
    assert (neighbourhood.examples[0].choices, neighbourhood.examples[0].target) == ((" Como", " Lario"), 1)
    assert task.protocol == "zsre"


def test_facts_first_occurrence_and_repeated_subjects(tmp_path: Path) -> None:
    text = "prompt,subject,target_new\nRome is in,Rome,Peru\nRome or New Rome has,Rome,wine\nRomeo is,Rome,sad\n"
    path = facts_file(tmp_path, text)
    assert [r.x for r in Facts(path=path).requests()] == ["{} is in", "{} or New Rome has", "{}o is"]
    assert len(Facts(path=path, unique_subjects=True).requests()) == 1
    task = Facts(path=path)
    assert (task.corpus(), task.held_out()) == ([], [])  # no true statement is known


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no header & prompt, subject, target_new"),
        ("prompt,subject,target_new\n", "holds no records"),
        ("promt,subject,target_new\na,a,b", 'line 1: unknown column "promt" & did you mean "prompt"?'),
        ("prompt;subject;target_new\na;a;b", "unknown column & columns are separated by commas"),
        ("prompt,subject\na,a", 'the column "target_new" is missing; found prompt, subject'),
        ("prompt,subject,target_new,subject\na,a,b,a", 'the column "subject" is there twice'),
        ("prompt,subject,target_new\nA is,A,b\nHi, A is,A,b", "line 3: 4 cells for 3 columns & quotes"),
        ('prompt,subject,target_new\n"A\nis",A,b\nA is,A', "line 4: 2 cells for 3 columns"),
        ('prompt,subject,target_new\n"A is,A,b\n', "not valid CSV"),
        ("prompt,subject,target_new\nA is,A, ", 'line 2: "target_new" is empty'),
        ("prompt,subject,target_new\nA is,,b", 'line 2: "subject" is empty'),
        ("prompt,subject,target_new\nA is,B,b", "line 2 & neither {} nor the subject"),
        ("prompt,subject,target_new\n{} is {},B,b", "line 2 & has 2 places {}"),
        ("prompt,subject,target_new,target_true\nA is,A,b,b", 'line 2: "target_new" is the same as target_true'),
        ("prompt,subject,target_new,neighbours\nA is,A,b,C is", 'line 2: "neighbours[0]" has no right answer'),
        ("prompt,subject,target_new,neighbours\nA is,A,b,C is =>", 'line 2: "neighbours[0].answer" is empty'),
        ("prompt,subject,target_new,neighbours\nA is,A,b,C is => b", "has target_new as its right answer"),
        ("prompt,subject,target_new,neighbours\nA is,A,b,{} is => c", "has {} in it"),
        ("prompt,subject,target_new,id\nA is,A,b,x\nB is,B,b,x", 'two records have the id "x"'),
    ],
)
def test_facts_csv_errors(tmp_path: Path, text: str, words: str) -> None:
    fails(f"my.csv & {words}", Facts(path=facts_file(tmp_path, text)).requests)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"paraphrase": ["x"]}, '"paraphrase" is unknown; did you mean "paraphrases"?'),
        ({"paraphrases": "x"}, '"paraphrases" must be a list of texts, not text'),
        ({"paraphrases": [1]}, '"paraphrases[0]" must be text, not a number'),
        ({"target_new": 1998}, '"target_new" must be text, not a number'),
        ({"target_true": ""}, '"target_true" is empty'),
        ({"neighbours": {"a": "b"}}, '"neighbours" must be a list, not an object'),
        ({"neighbours": [{"promt": "x"}]}, '"neighbours[0].promt" is unknown; did you mean "prompt"?'),
        ({"neighbours": [{"answer": "x"}]}, '"neighbours[0].prompt" is missing'),
        ({"neighbours": ["C is", 5]}, '"neighbours[1]" must be text, not a number'),
        ({"neighbours": [{"prompt": "C is", "answer": 2}]}, '"neighbours[0].answer" must be text'),
        ({"id": [1]}, '"id" must be a number or text, not a list'),
        ({"id": " "}, '"id" is empty'),
    ],
)
def test_facts_jsonl_errors(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    good = {"prompt": "A is", "subject": "A", "target_new": "b", "target_true": "c"}
    text = f"{json.dumps(good)}\n{json.dumps(good | changes)}\n"
    fails(f"my.jsonl, line 2 & {words}", Facts(path=facts_file(tmp_path, text, "my.jsonl")).requests)


def test_facts_files(tmp_path: Path) -> None:
    fails(
        "must end in .csv, .json or .jsonl",
        Facts(path=facts_file(tmp_path, "x", "my.txt")).requests,
    )
    path = facts_file(tmp_path, '{"prompt": "a"}\n{"prompt": \n', "my.jsonl")
    message = fails("my.jsonl, line 2 is not valid JSON & cut off", Facts(path=path).requests)
    assert "line 1" not in message
    fails("line 1: must be an object, not a list", Facts(path=facts_file(tmp_path, "[1]", "my.jsonl")).requests)
    (tmp_path / "latin.csv").write_bytes("prompt,subject,target_new\nZoë is,Zoë,b".encode("latin-1"))
    fails("latin.csv is not UTF-8", Facts(path=str(tmp_path / "latin.csv")).requests)
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "Zoë"}'.encode("latin-1"))
    fails("latin.jsonl is not UTF-8", Facts(path=str(tmp_path / "latin.jsonl")).requests)
    fails('did you mean "latin.csv"?', Facts(path=str(tmp_path / "latn.csv")).requests)


def test_facts_errors_name_the_first_line_of_a_record(tmp_path: Path) -> None:
    rows = [["prompt", "subject", "target_new"], ["A\nand\nB", "A", "x"], ["C", "D", "y"]]
    with (tmp_path / "m.csv").open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    fails("m.csv, line 5", Facts(path=str(tmp_path / "m.csv")).requests)


# --- fact world -------------------------------------------------------------------------------------------------------


def test_fact_world() -> None:
    task = FactWorldTask(n_requests=5, n_corpus=7, n_held_out=3)
    requests = task.requests()
    assert len(requests) == 5
    assert [(p.name, len(p.examples)) for p in task.probes(requests)] == [
        ("edit", 5),
        ("paraphrase", 10),
        ("neighbourhood", 50),
    ]
    assert all(r.extra["single_token_subject"] is False for r in requests)
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
    assert all(r.extra["single_token_subject"] for r in only)
    assert not any(r.extra["single_token_subject"] for r in none)
    assert {r.id for r in FactWorldTask(order=3).requests()} == {r.id for r in every}
    fails(f"has {len(every)} requests", FactWorldTask(n_requests=10**6).requests)


# --- documents --------------------------------------------------------------------------------------------------------


def test_own_prompts_are_the_corpus(cf_path: str) -> None:
    task = Counterfact(path=cf_path, n_requests=2, order=1)
    corpus, held_out = task.corpus(), task.held_out()
    assert (len(corpus), len(held_out)) == (10, 2)
    assert task.corpus_source == "own prompts of counterfact"
    assert task.held_out_source == "last 10 % of own prompts of counterfact"
    rewrite = tiny_facts(12)[0]["requested_rewrite"]
    assert corpus[0].startswith(f"{rewrite['subject']} was born in {rewrite['target_true']['str']}. ")
    assert corpus == Counterfact(path=cf_path).corpus()  # whatever the order and the number of requests
    assert len(Counterfact(path=cf_path, n_held_out=1).corpus()) == 11
    assert len(Counterfact(path=cf_path, n_corpus=5).corpus()) == 4


def test_attribute_prompts_hold_for_the_new_answer(tmp_path: Path) -> None:
    record = edited(
        attribute_prompts=["Elsa was born in"], generation_prompts=["Tell me about Ada", "Tell me about Ada"]
    )
    task = Counterfact(path=str(write_json(tmp_path / "cf.json", [record])))
    text = task.corpus()[0]
    assert f"Elsa was born in {record['requested_rewrite']['target_new']['str']}." in text
    assert text.count("Tell me about Ada") == 1
    assert task.held_out() == []  # one document cannot be split


def test_text_files(tmp_path: Path, cf_path: str) -> None:
    corpus = tmp_path / "wiki.txt"
    corpus.write_text("\n\n" + "\n \n\n".join(f"doc {i}\nline two" for i in range(20)), encoding="utf-8-sig")
    task = Counterfact(path=cf_path, corpus_path=str(corpus))
    assert task.corpus() == [f"doc {i}\nline two" for i in range(18)]
    assert task.held_out() == [f"doc {i}\nline two" for i in (18, 19)]
    assert (task.corpus_source, task.held_out_source) == ("wiki.txt", "last 10 % of wiki.txt")

    lines = tmp_path / "held.jsonl"
    lines.write_text("\n".join(json.dumps({"text": f"t{i}", "id": i}) for i in range(5)))
    task = Counterfact(path=cf_path, corpus_path=str(corpus), held_out_path=str(lines), n_held_out=3, n_corpus=4)
    assert (len(task.corpus()), task.held_out()) == (4, ["t0", "t1", "t2"])
    assert task.held_out_source == "held.jsonl"

    same = Counterfact(path=cf_path, corpus_path=str(corpus), held_out_path=str(corpus))
    assert not set(same.corpus()) & set(same.held_out())
    own = Counterfact(path=cf_path, held_out_path=str(lines))
    assert (len(own.corpus()), len(own.held_out())) == (12, 5)


def test_document_errors(tmp_path: Path, cf_path: str) -> None:
    def corpus(source: str | Path) -> Any:
        return Counterfact(path=cf_path, corpus_path=str(source)).corpus

    (tmp_path / "wiki.txt").write_text(" \n\n")
    fails("task.corpus_path= & holds no documents", corpus(tmp_path / "wiki.txt"))
    fails('task.corpus_path= & did you mean "wiki.txt"?', corpus(tmp_path / "wik.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    fails("latin.txt is not UTF-8", corpus(tmp_path / "latin.txt"))
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"txt": "y"}\n')
    fails('a.jsonl, line 2: "text" is missing & did you mean "text"?', corpus(tmp_path / "a.jsonl"))
    held = Counterfact(path=cf_path, held_out_path=str(tmp_path / "none.txt"))
    fails("task.held_out_path=", held.held_out)
    fails("hf:NAME[:config[:split]]", corpus("hf:"))
    fails("hf:NAME[:config[:split]]", corpus("hf:a:b:c:d"))


def test_hub_documents(monkeypatch: pytest.MonkeyPatch, cf_path: str) -> None:
    import datasets

    calls = []

    def load(*args: Any, **options: Any) -> Iterator[dict[str, Any]]:
        calls.append((args, options))
        return ({"text": f"page {i}"} if i % 2 else {"text": " "} for i in range(100))

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = Counterfact(path=cf_path, corpus_path="hf:org/wiki:en:test", n_corpus=8, n_held_out=1)
    assert task.corpus() + task.held_out() == ["page 1", "page 3", "page 5", "page 7"]
    assert calls == [(("org/wiki", "en"), {"split": "test", "streaming": True})]
    assert Counterfact(path=cf_path, corpus_path="hf:wiki").corpus()
    assert calls[1] == (("wiki", None), {"split": "train", "streaming": True})

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: iter([{"txt": "x", "n": 1}]))
    fails('has no field "text" & did you mean "txt"?', Counterfact(path=cf_path, corpus_path="hf:wiki").corpus)

    def offline(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    fails("hf:wiki & no route & task.corpus_path=FILE", Counterfact(path=cf_path, corpus_path="hf:wiki").corpus)


# --- downloads --------------------------------------------------------------------------------------------------------


class _Server(http.server.BaseHTTPRequestHandler):
    body = b""
    announced: int | None = None
    hits = 0

    def do_GET(self) -> None:
        type(self).hits += 1
        if self.path == "/absent.json":
            self.send_error(404)
            return
        self.send_response(200)
        if self.announced != -1:
            self.send_header("Content-Length", str(len(self.body) if self.announced is None else self.announced))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Server]]]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Handler", (_Server,), {"body": json.dumps(tiny_facts(3)).encode()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", handler
        httpd.shutdown()
        thread.join()


def test_fetch_downloads_once_and_checks(tmp_path: Path, server: tuple[str, type[_Server]]) -> None:
    url, handler = server
    dest = tmp_path / "deep" / "cf.json"
    assert fetch(f"{url}/cf.json", dest) == dest
    assert dest.read_bytes() == handler.body
    digest = hashlib.sha256(handler.body).hexdigest()
    note = dest.with_name("cf.json.sha256")
    assert note.read_text() == f"{digest}  cf.json\n" and file_sha256(dest) == digest
    fetch(f"{url}/cf.json", dest)
    fetch(f"{url}/cf.json", dest, sha256=digest.upper())
    assert handler.hits == 1
    fails("not the file that was downloaded & delete it", lambda: fetch(url, dest, sha256="0" * 64))

    dest.write_bytes(b"changed")
    fails("cf.json is not the file that was downloaded", lambda: fetch(f"{url}/cf.json", dest))
    note.unlink()  # a file put there by hand is trusted from then on
    fetch(f"{url}/cf.json", dest)
    assert note.is_file() and dest.read_bytes() == b"changed"


def test_fetch_keeps_nothing_that_is_wrong(tmp_path: Path, server: tuple[str, type[_Server]]) -> None:
    url, handler = server
    dest = tmp_path / "cf.json"
    fails("SHA-256 & expected 000000000000", lambda: fetch(f"{url}/cf.json", dest, sha256="0" * 64))
    fails("404 & task.path=FILE & absent.json", lambda: fetch(f"{url}/absent.json", dest))
    handler.announced = len(handler.body) + 10
    fails("the connection broke after", lambda: fetch(f"{url}/cf.json", dest, timeout=5))
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []
    handler.announced = -1  # no length announced: nothing to compare with
    assert fetch(f"{url}/cf.json", dest).read_bytes() == handler.body


def test_fetch_without_a_network(tmp_path: Path) -> None:
    fails(
        "http://127.0.0.1:9/x.json & task.corpus_path=FILE",
        lambda: fetch("http://127.0.0.1:9/x.json", tmp_path / "x.json", option="task.corpus_path"),
    )
    fails("cannot download", lambda: fetch("no address", tmp_path / "x.json"))


def test_tasks_download_without_a_path(
    tmp_path: Path, server: tuple[str, type[_Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = server
    monkeypatch.setattr(counterfact, "URL", f"{url}/counterfact.json")
    monkeypatch.setattr(zsre, "URL", f"{url}/zsre_mend_eval.json")
    assert len(Counterfact(cache_dir=str(tmp_path)).requests()) == 3
    handler.body = json.dumps(zsre_records(2)).encode()
    assert len(Zsre(cache_dir=str(tmp_path)).requests()) == 2
    assert len(Counterfact(cache_dir=str(tmp_path)).requests()) == 3
    assert handler.hits == 2


# --- real data, where they are ----------------------------------------------------------------------------------------


def test_real_counterfact() -> None:
    path = shared("data/counterfact/counterfact_120.json")
    task = Counterfact(path=path)
    requests = task.requests()
    probes = task.probes(requests)
    assert [(p.name, len(p.examples)) for p in probes] == [("edit", 120), ("paraphrase", 240), ("neighbourhood", 1200)]
    for example in (e for p in probes for e in p.examples):
        assert example.x == example.x.rstrip() and all(c[0] == " " and c[1] != " " for c in example.choices)
    assert all(r.x.count("{}") == 1 and r.subject in r.prompt for r in requests)
    assert (len(task.corpus()), len(task.held_out())) == (108, 12)


def test_real_zsre() -> None:
    path = shared("data/zsre/zsre_mend_eval_200.json")
    task = Zsre(path=path)
    assert len(task.requests()) == 142 and len(Zsre(path=path, unique_subjects=False).requests()) == 200
    assert all(r.x.count("{}") == 1 for r in task.requests())
    assert all(e.x.startswith("nq question: ") and e.x.endswith("?") for e in task.probes(task.requests())[2].examples)


def test_golden_requests() -> None:
    task = Counterfact(path=shared("golden/requests.json"))
    assert [r.id for r in task.requests()] == [str(i) for i in range(30)]
    assert [len(p.examples) for p in task.probes(task.requests())] == [30, 60, 300]


# --- the helpers the other tests build on -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_checkpoint(tmp_path: Path, kind: Any) -> None:
    state = torch.random.get_rng_state()
    folder = tiny_checkpoint(kind, tmp_path / kind)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (folder / "model.safetensors").is_file()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32 and len(tokenizer) == model.config.vocab_size
    text = "Ada Valdoran was born in Paris, à 漢字  {x}\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.is_fast and tokenizer.decode(ids, skip_special_tokens=True) == text
    assert ids == tiny_tokenizer(kind)(text)["input_ids"]
    assert (ids[0] == tokenizer.bos_token_id) == (kind in ("llama", "mistral"))
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1).mean()
    assert 2 < entropy < np.log(len(tokenizer)) - 0.2  # neither stuck on one token nor flat

    again = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(kind, tmp_path / "again"))
    other = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(kind, tmp_path / "other", seed=1))
    pairs = list(zip(model.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not any(torch.equal(a, c) for a, _, c in pairs)


def test_tiny_checkpoint_of_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gpt_neox"):
        tiny_checkpoint("bert", tmp_path)  # type: ignore[arg-type]


def test_tiny_facts() -> None:
    facts = tiny_facts(128)
    assert len({f["requested_rewrite"]["subject"] for f in facts}) == 128
    assert tiny_facts(5) == tiny_facts(5) != tiny_facts(5, seed=1)
    assert len(tiny_texts()) > 128
    with pytest.raises(ValueError, match="128"):
        tiny_facts(129)


def test_requests_hold_their_own_questions(cf_path: str) -> None:
    task = Counterfact(path=cf_path)
    request = task.requests()[4]
    assert isinstance(request, Request)
    assert Counterfact(path="elsewhere.json").probes([request]) == task.probes([request])
