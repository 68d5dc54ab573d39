"""Prompts under shifts: what each shift does, that names stay, that severities nest, that only the prompt decides."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise

import pytest

from edit_robust.core import TextRequest, UserError
from edit_robust.evaluate.text_shifts import TextShifts, statements_of
from edit_robust.shifts.images.variants import read_corruptions
from edit_robust.shifts.text import names
from edit_robust.shifts.text.shifted import (
    ORDINARY,
    PREFIX_WORDS,
    ROWS,
    STATEMENTS,
    TYPOS,
    Material,
    Prompt,
    TextShifter,
    sentences,
)

PROMPT = Prompt("The well known birthplace of Ada Valdoran is generally said to be", "Ada Valdoran")
EDIT = ("Ada Valdoran was born in Rome.", "The birthplace of Ada Valdoran is Rome.")
NEIGHBOUR = Prompt("Boris Kestrin was born in", None, EDIT)
OTHERS = Material(
    ordinary=tuple(f"Sentence number {i} is about nothing at all." for i in range(40)),
    statements=(("Ada Valdoran", "Ada Valdoran was born in Paris."), ("Clara", "Clara plays the lute.")),
)
shifted = TextShifter(OTHERS)


def edits_between(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@pytest.mark.parametrize("shift", names.ALL)
@pytest.mark.parametrize("severity", range(1, 6))
def test_every_shift_changes_the_prompt_and_leaves_the_name(shift: str, severity: int) -> None:
    prompt = NEIGHBOUR if shift == names.NEIGHBOUR_EDIT else PROMPT
    found = shifted(prompt, shift, severity)
    assert found != prompt.text and found == shifted(prompt, shift, severity)
    assert (prompt.subject or "Boris Kestrin") in found
    if shift not in (names.TYPOS, names.CASING):
        assert found.endswith(f". {prompt.text}")


def test_typing_errors() -> None:
    letters = sum(c.isalpha() for c in PROMPT.text) - len("AdaValdoran")
    distances = []
    for severity, share in TYPOS.items():
        found = shifted(PROMPT, "typos", severity)
        distances.append(edits_between(PROMPT.text, found))
        assert 1 <= distances[-1] <= 2 * max(1, round(share * letters)), "a swap is two edits"
    assert distances == sorted(distances) and distances[0] < distances[-1]
    several = {shifted(Prompt(f"{word} is the birthplace of", "x"), "typos", 1) for word in ("paris", "rome")}
    assert len(several) == 2


def test_each_kind_of_typing_error() -> None:
    """One letter alone: dropped, doubled or missed on the keyboard; of two, swapped, too."""
    one = {shifted(Prompt("s", "x"), "typos", s) for s in (1,)} | {
        TextShifter(OTHERS, seed=i)(Prompt("s", "x"), "typos", 1) for i in range(60)
    }
    row = next(r for r in ROWS if "s" in r)
    near = row[row.index("s") - 1] + row[row.index("s") + 1]
    assert one == {"", "ss", *near}
    two = {TextShifter(OTHERS, seed=i)(Prompt("to", "x"), "typos", 1) for i in range(200)}
    assert {"ot", "o", "t", "tto", "too"} <= two
    assert TextShifter(OTHERS)(Prompt("Ada", "Ada"), "typos", 5) == "Ada", "nothing but the name: nothing is hit"


def test_capitals_nest() -> None:
    before: set[int] = set()
    for severity in range(1, 6):
        found = shifted(PROMPT, "casing", severity)
        assert found.lower() == PROMPT.text.lower()
        here = {m.start() for m in re.finditer(r"\b[A-Z]{2,}\b", found)}
        assert before <= here and here
        before = here
    assert shifted(PROMPT, "casing", 5) == PROMPT.text.upper().replace("ADA VALDORAN", "Ada Valdoran")


def test_names_are_hit_where_they_are_not_protected() -> None:
    bare = TextShifter(OTHERS, protect_subject=False)
    assert bare(PROMPT, "casing", 5) == PROMPT.text.upper()
    assert any("Ada Valdoran" not in TextShifter(OTHERS, False, i)(PROMPT, "typos", 5) for i in range(5))
    unknown = Prompt("Boris Kestrin was born in")
    assert shifted(unknown, "casing", 5) == "Boris Kestrin WAS BORN IN"
    assert all("Boris Kestrin" in TextShifter(OTHERS, seed=i)(unknown, "typos", 5) for i in range(20))


@pytest.mark.parametrize("shift", ["context", "distractor", "prefix", "neighbour-edit"])
def test_what_stands_before_grows_at_its_beginning(shift: str) -> None:
    found = [shifted(NEIGHBOUR, shift, s) for s in range(1, 6)]
    assert all(longer.endswith(shorter) and len(longer) > len(shorter) for shorter, longer in pairwise(found))


def test_what_stands_before() -> None:
    for severity in range(1, 6):
        before = shifted(PROMPT, "context", severity).removesuffix(PROMPT.text).strip()
        assert len(set(sentences([before]))) == severity and set(sentences([before])) <= set(OTHERS.ordinary)
        words = shifted(PROMPT, "prefix", severity).removesuffix(PROMPT.text).split()
        assert len(words) == PREFIX_WORDS[severity]
    assert "Clara plays the lute." in shifted(PROMPT, "distractor", 1)
    assert "Ada Valdoran was" not in shifted(PROMPT, "distractor", 5), "its own fact is no distractor"
    alone = TextShifter(Material(statements=OTHERS.statements[:1]))(PROMPT, "distractor", 2)
    assert set(sentences([alone.removesuffix(PROMPT.text)])) <= set(STATEMENTS), "nobody else: well-known truths"
    bare = TextShifter()(PROMPT, "context", 2).removesuffix(PROMPT.text)
    assert set(sentences([bare])) <= set(ORDINARY)


def test_the_edit_before_its_neighbours() -> None:
    request = TextRequest("a", "{} was born in", "Rome", "Paris", "Ada Valdoran", paraphrases=(EDIT[1][:-6],))
    assert statements_of(request) == EDIT
    assert shifted(NEIGHBOUR, "neighbour-edit", 1) == f"{EDIT[0]} {NEIGHBOUR.text}", "neighbourhood+"
    assert shifted(NEIGHBOUR, "neighbour-edit", 3) == f"{EDIT[0]} {EDIT[1]} {EDIT[0]} {NEIGHBOUR.text}"


def test_sentences_that_name_nobody() -> None:
    text = "Ada Valdoran sings well. The river is wide. Too short. The river is wide. It never ends"
    assert list(sentences([text], ["Ada Valdoran"])) == ["The river is wide."]


def test_the_same_in_another_process() -> None:
    """Python's own hash of a text is salted: it must not have a say."""
    code = (
        "from edit_robust.shifts.text.shifted import *\n"
        f"s = TextShifter(Material({OTHERS.ordinary!r}, {OTHERS.statements!r}))\n"
        f"for n in {names.ALL!r}: print(s(Prompt({PROMPT.text!r}, {PROMPT.subject!r}, {EDIT!r}), n, 3))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    asked = Prompt(PROMPT.text, PROMPT.subject, EDIT)
    assert run.stdout.splitlines() == [shifted(asked, n, 3) for n in names.ALL]
    assert TextShifter(OTHERS, seed=1)(PROMPT, "typos", 3) != shifted(PROMPT, "typos", 3)


def test_shifts_of_the_other_kind_are_told_apart() -> None:
    with pytest.raises(UserError, match=r"corruption=typos shifts text, and this model is shown images; .*fog"):
        read_corruptions({"typos": [1]})
    with pytest.raises(UserError, match=r"corruption=fog shifts images, and this model reads text; .*typos"):
        TextShifts(corruption={"fog": [1]})
    with pytest.raises(UserError, match="there is no corruption 'typo'; did you mean \"typos\""):
        TextShifts(corruption={"typo": [1]})
    with pytest.raises(UserError, match="severity 6 does not exist"):
        TextShifts(corruption={"typos": 6})
    with pytest.raises(UserError, match="must name each severity once"):
        TextShifts(corruption={"typos": []})
    with pytest.raises(UserError, match="is about neighbours"):
        TextShifts(corruption={"neighbour-edit": [1]}, probes=["edit"])
    with pytest.raises(UserError, match='did you mean "edit"'):
        TextShifts(probes=["edits"])
    assert TextShifts(corruption={"none": None}).shifts == {}
    with pytest.raises(UserError, match='did you mean "casing"'):
        shifted(PROMPT, "casings", 1)
