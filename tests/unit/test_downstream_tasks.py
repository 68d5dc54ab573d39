"""SST-2, MRPC, CoLA and RTE as question sets: the paper's form to the letter, balance, shots, and bad files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edit_robust.core import UserError
from edit_robust.core.question_sets import Asked, QuestionSet
from edit_robust.tasks.language.downstream.formats import FORMATS
from edit_robust.tasks.language.downstream.glue import Glue
from edit_robust.tasks.worlds.facts.world import FactWorld

GLUE = Path(__file__).parents[3] / "shared" / "data" / "glue"
with_glue = pytest.mark.skipif(not GLUE.is_dir(), reason="the GLUE subsets are not here")


def reviews(path: Path, n: int, first: int = 0, **more: Any) -> str:
    """A file of n reviews, good and bad in turn; gives its path."""
    lines = [{"sentence": f"film {first + i} was watched", "label": i % 2, **more} for i in range(n)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return str(path)


def shots_file(name: str) -> str:
    return str(GLUE / ("rte_train_fewshot40.jsonl" if name == "rte" else f"{name}_fewshot40.jsonl"))


@with_glue
@pytest.mark.parametrize("task", list(FORMATS))
def test_the_papers_prompts_to_the_letter(task: str, tmp_path: Path) -> None:
    """With the paper's own shots as they stand, the prompts are those of its code."""
    paper = json.loads((GLUE / "paper_prompts.json").read_text())[task]
    (tmp_path / "shots.jsonl").write_text("\n".join(json.dumps(shot) for shot in paper["shots"]))
    path = str(GLUE / f"{task}_small200.jsonl")
    found = Glue(task, path, str(tmp_path / "shots.jsonl"), shot_seed=None).question_set()

    def filled(example: dict[str, Any]) -> str:
        text = str(paper["template"])
        for field in ("sentence1", "sentence2", "sentence"):
            text = text.replace(f"{{{field}}}", str(example.get(field)))
        return text

    ends = [filled(s) + paper["answer_prefix"] + s["answer"] + paper["separator"] for s in paper["shots"]]
    assert found.prefix == "".join(ends)
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    words = {label: word for word, label in paper["labels"].items()}
    assert [q.prompt for q in found.questions] == [filled(line) for line in lines]
    assert [q.right for q in found.questions] == [words[line["label"]] for line in lines]
    assert found.labels == tuple(paper["search_order"]) and found.marker == paper["split_on"]
    how = {"rte": "gcf-paper-3", "sst2": "gcf-4"}.get(task, "gcf-6")
    assert found.protocol == how and len(found.questions) == 200


@with_glue
def test_rte_both_ways() -> None:
    path, shots = str(GLUE / "rte_small200.jsonl"), shots_file("rte")
    paper, correct = (Glue("rte", path, shots, rte_labels=r).question_set() for r in ("paper", "correct"))  # type: ignore[arg-type]
    assert [q.right for q in paper.questions] == [
        {"True": "False", "False": "True"}[q.right] for q in correct.questions
    ]
    assert (paper.protocol, correct.protocol) == ("gcf-paper-3", "gcf-correct-3")
    assert paper.shots != correct.shots and [s.rpartition(":")[0] for s in paper.shots] == [
        s.rpartition(":")[0] for s in correct.shots
    ]


def test_shots_are_balanced_and_none_is_asked(tmp_path: Path) -> None:
    path, shots = reviews(tmp_path / "asked.jsonl", 40), reviews(tmp_path / "shots.jsonl", 60, first=20)
    sets = [Glue("sst2", path, shots, shot_seed=seed).question_set() for seed in (0, 1, 0)]
    assert sets[0] == sets[2] != sets[1]
    for one in sets:
        assert Counter("positive" in s for s in one.shots) == {True: 2, False: 2}
        assert not {s.rpartition(" ")[0] for s in one.shots} & {q.prompt for q in one.questions}
        assert all(s.endswith("\n\n") for s in one.shots)
    odd = Glue("sst2", path, shots, n_shots=3).question_set()
    assert len(odd.shots) == 3 and odd.protocol == "gcf-3"
    assert Glue("sst2", path, n_shots=0).question_set().prefix == ""


def test_questions_are_balanced_and_drawn_by_a_seed(tmp_path: Path) -> None:
    path = reviews(tmp_path / "asked.jsonl", 90)
    some = Glue("sst2", path, n_shots=0, n=20).question_set()
    assert Counter(q.right for q in some.questions) == {"positive": 10, "negative": 10}
    other = Glue("sst2", path, n_shots=0, n=20, sample_seed=1).question_set()
    assert other.questions != some.questions
    place = {f"Review : film {i} was watched\nSentiment :": i for i in range(90)}
    numbers = [place[q.prompt] for q in some.questions]
    assert numbers == sorted(numbers), "the order is the file's"
    assert len(Glue("sst2", path, n_shots=0, n=None).question_set().questions) == 90


def test_ume_shows_the_first_of_the_file_and_asks_the_rest(tmp_path: Path) -> None:
    path = reviews(tmp_path / "asked.jsonl", 30)
    plain, shown = (Glue("sst2", path, protocol="ume", n_shots=n).question_set() for n in (None, 3))
    assert plain.shots == () and len(shown.shots) == 3 and plain.protocol == "ume-0"
    assert shown.shots[0].startswith("Review : film 0 was") and shown.questions == plain.questions
    assert all("film 0 " not in q.prompt and "film 9 " not in q.prompt for q in plain.questions)
    assert len(plain.questions) == 20
    assert plain.answer(0, " POSITIVE") == "positive"
    with pytest.raises(UserError, match="n_shots=11: protocol ume keeps 10"):
        Glue("sst2", path, protocol="ume", n_shots=11).question_set()


def test_what_counts_as_an_answer() -> None:
    asked = (Asked("...Sentiment :", "positive", ("positive", "negative")),)
    one = QuestionSet("sst2", "gcf", asked, marker="Sentiment :")
    said = {" positive": "positive", " negative, positive": "positive", " Positive": None, "": None, " posit": None}
    said |= {" positive\nSentiment : negative": "negative", " very negatively": "negative"}
    assert {text: one.answer(0, text) for text in said} == said
    yes = QuestionSet("cola", "gcf", (Asked("", "No", ("Yes", "No")),))
    assert yes.answer(0, " None of it") == "No"  # as the paper's code has it
    word = QuestionSet("own", "world", (Asked("", "art", ("art", "arthur")),), find="begins")
    assert [word.answer(0, t) for t in (" art.", " arthur", " artful", " an art")] == ["art", "arthur", None, None]


def test_texts_with_braces_stay_as_they_are() -> None:
    found = FORMATS["mrpc"].prompt({"sentence1": "a {sentence2} b", "sentence2": "c {} d"})
    assert "Sentence 1: a {sentence2} b\nSentence 2: c {} d\n" in found


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    good, empty, one = reviews(tmp_path / "good.jsonl", 20), tmp_path / "empty.jsonl", tmp_path / "one.jsonl"
    empty.write_text("\n")
    one.write_text("\n".join(json.dumps({"sentence": f"s {i}", "label": 1}) for i in range(8)))
    odd, answer = tmp_path / "odd.jsonl", tmp_path / "answer.jsonl"
    odd.write_text('{"sentence": "a", "label": 2}')
    answer.write_text('{"sentence": "a", "answer": "positiv"}')
    few = reviews(tmp_path / "few.jsonl", 3, first=90)
    for options, problem in (
        ({"path": str(one)}, r'one.jsonl has no example of label 0 \("negative"\); every class is needed'),
        ({"path": str(empty)}, "measure.sst2.path=.*empty.jsonl holds no examples"),
        ({"path": str(odd)}, r'line 1: "label" is 2; labels are 1 \(positive\), 0 \(negative\)'),
        ({"path": good, "shots": str(answer)}, 'line 1: "answer" is "positiv"; did you mean "positive"'),
        ({"path": good, "shots": few}, "few.jsonl has 3 examples that are not asked about, too few for 4 shots"),
        ({"path": good, "shots": str(one)}, 'one.jsonl has no example of label 0 \\("negative"\\)'),
        ({"path": good + "l"}, "there is no such file; did you mean"),
        ({"path": "hf:a:b:c:d", "n_shots": 0}, "must have the form hf:NAME"),
    ):
        with pytest.raises(UserError, match=problem) as raised:
            Glue("sst2", option="measure.sst2", **options).question_set()  # type: ignore[arg-type]
        assert "\n" not in str(raised.value)


def test_the_hub_out_of_reach_is_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot read measure.path=hf:nobody/nothing:x:test \(.*name a local file"):
        Glue("sst2", "hf:nobody/nothing:x:test", n_shots=0).question_set()


def test_the_fact_worlds_own_tasks() -> None:
    from edit_robust.tasks.language.fact_world import FactWorldTask

    task = FactWorldTask(n_requests=100)
    sets = {one.name: one for one in task.downstream()}
    assert {n: (s.protocol, len(s.questions)) for n, s in sets.items()} == {
        "untouched-facts": ("world-0", 200),
        "completions": ("world-0", 200),
        "claims": ("world-2", 200),
    }
    edited = set(FactWorld.generate(0).subjects)
    for one in sets.values():
        for q in one.questions:
            assert q.right in q.options and q.prompt == q.prompt.strip()
            assert not any(s in q.prompt for s in edited), f"{q.prompt} is about a subject that requests edit"
    assert Counter(q.right for q in sets["claims"].questions)["True"] in range(98, 103)
