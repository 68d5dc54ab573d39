"""Documents for second moments and perplexity: own prompts, text files, the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.errors import fails
from helpers.records import edited
from helpers.tiny import tiny_facts, write_json

from edit_robust.tasks.language.counterfact import Counterfact


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
