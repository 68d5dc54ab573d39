"""Documents for second moments and perplexity: own prompts, text files, the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.errors import fails
from helpers.records import edited
from helpers.tiny import tiny_facts, write_json

from edit_robust.tasks.language import questions
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.documents import documents, sampled_documents
from edit_robust.tasks.language.fact_world import FactWorldTask
from edit_robust.tasks.language.zsre import Zsre


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


class Hub:
    """Stands for a data set of 100 records, every other one empty."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.order = list(range(100))

    def load(self, *args: Any, **options: Any) -> Hub:
        self.calls.append((args, options))
        self.order = list(range(100))
        return self

    def shuffle(self, seed: int, buffer_size: int) -> Hub:
        self.order = [int(i) for i in np.random.default_rng(seed).permutation(100)]
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"text": f"page {i}"} if i % 2 else {"text": " "} for i in self.order)


def test_hub_documents(monkeypatch: pytest.MonkeyPatch, cf_path: str) -> None:
    import datasets

    hub = Hub()
    calls = hub.calls
    monkeypatch.setattr(datasets, "load_dataset", hub.load)
    task = Counterfact(path=cf_path, corpus_path="hf:org/wiki:en:test", n_corpus=8, n_held_out=1)
    found = task.corpus() + task.held_out()
    assert len(found) == 8 and len(task.held_out()) == 1, "empty ones do not count"
    assert found != [f"page {i}" for i in range(1, 17, 2)], "the first ones are no sample"
    assert calls == [(("org/wiki", "en"), {"split": "test", "streaming": True})]
    assert Counterfact(path=cf_path, corpus_path="hf:wiki").corpus()
    assert calls[1] == (("wiki", None), {"split": "train", "streaming": True})
    assert Counterfact(path=cf_path, corpus_path="hf:wiki:en@abc").corpus()
    assert calls[2] == (("wiki", "en"), {"split": "train", "streaming": True, "revision": "abc"})
    held = Counterfact(path=cf_path, held_out_path="hf:org/wiki:en:test", n_held_out=8)
    assert held.held_out() == ["page 1", "page 3", "page 5", "page 7"], "text for perplexity is the first"

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: Odd())
    fails('has no field "text" & did you mean "txt"?', Counterfact(path=cf_path, corpus_path="hf:wiki").corpus)

    def offline(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    fails("hf:wiki & no route & task.corpus_path=FILE", Counterfact(path=cf_path, corpus_path="hf:wiki").corpus)


class Odd(Hub):
    """A data set without texts."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([{"txt": "x", "n": 1}])


def test_the_hub_shuffles_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own streams: the same seed gives the same documents."""
    import datasets

    made = datasets.Dataset.from_dict({"text": [f"page {i}" for i in range(300)]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: made.to_iterable_dataset(num_shards=3))
    one, two = (sampled_documents("hf:org/wiki", 20, "editor.mom2_dataset") for _ in range(2))
    assert one == two and len(set(one)) == 20 and one != [f"page {i}" for i in range(20)]


def test_a_sample_of_a_file_comes_from_all_of_it(tmp_path: Path, cf_path: str) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text("\n\n".join(f"doc {i}" for i in range(500)))
    task = Counterfact(path=cf_path, corpus_path=str(path), n_corpus=50)
    found = [int(d.split()[1]) for d in task.corpus() + task.held_out()]
    assert len(found) == 50 and found == sorted(found) and found[-1] > 400
    assert documents(str(path), 3, "task.held_out_path") == ["doc 0", "doc 1", "doc 2"]


def test_what_a_corpus_depends_on(tmp_path: Path, cf_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key changes with the text and not with what the text does not depend on; nothing is parsed for it."""
    wiki = tmp_path / "wiki.txt"
    wiki.write_text("one\n\ntwo")
    monkeypatch.setattr(questions, "sampled_documents", lambda *a: pytest.fail("the corpus was read"))
    monkeypatch.setattr(Counterfact, "_read", lambda self: pytest.fail("the corpus was read"))

    def key(**options: Any) -> Any:
        return Counterfact(path=cf_path, **options).corpus_key()

    assert key() == key(n_requests=3, order=2, unique_subjects=False, name="other")
    moved = tmp_path / "moved.json"
    moved.write_bytes(Path(cf_path).read_bytes())
    assert key() == Counterfact(path=str(moved)).corpus_key()
    moved.write_bytes(moved.read_bytes().replace(b"Paris", b"Lyons"))
    others = [
        Counterfact(path=str(moved)).corpus_key(),
        key(n_corpus=9),
        key(n_held_out=1),
        key(held_out_path=str(wiki)),
        key(corpus_path=str(wiki)),
        key(corpus_path="hf:org/wiki"),
        key(corpus_path="hf:org/wiki@abc"),
        key(corpus_path="hf:org/wiki:en"),
        Zsre(path=cf_path).corpus_key(),
        Zsre(path=cf_path, target="alt").corpus_key(),
    ]
    distinct = {json.dumps(k, sort_keys=True) for k in [key(), *others]}
    assert len(distinct) == 11
    wiki.write_text("one\n\nthree")
    assert key(corpus_path=str(wiki)) != others[4]
    world = FactWorldTask().corpus_key()
    assert world == FactWorldTask(n_requests=3, order=2, single_token="only").corpus_key()
    assert world not in (FactWorldTask(world_seed=1).corpus_key(), FactWorldTask(n_corpus=9).corpus_key())
