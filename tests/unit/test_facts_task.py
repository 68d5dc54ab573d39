"""The task of one's own facts, from .csv, .json and .jsonl files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.errors import fails
from helpers.records import facts_file

from edit_robust.tasks.language.facts import Facts


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
