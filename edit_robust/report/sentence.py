"""One plain sentence on what the edits did and what they broke."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edit_robust.report import clauses_images, clauses_language
from edit_robust.report.numbers import finite

Summary = Mapping[str, Any]
Config = Mapping[str, Any]
#: A part of the sentence: "" where the summary has no numbers for it.
Clause = Callable[[Summary, Config], str]


def verdict(summary: Summary, config: Config) -> str:
    """What the edits did, whom else they touched, and how the model stood at the end; only of what was measured."""
    known = told(CLAUSES, summary, config) or told(BEFORE, summary, config)
    if not known:
        return "Nothing has been measured yet."
    text = "; ".join(known)
    return f"{text[0].upper()}{text[1:]}."


def told(clauses: tuple[Clause, ...], summary: Summary, config: Config) -> list[str]:
    """The clauses that have something to say."""
    return [text for clause in clauses if (text := clause(summary, config))]


def condition(summary: Summary, config: Config) -> str:
    """Whether the model as a whole broke, or nothing else did."""
    if clauses_language.collapsed(summary):
        return "the model has collapsed"
    if clauses_language.harmless(summary) and not clauses_images.harmed(summary):
        return "nothing else that was measured broke"
    return ""


def refused(summary: Summary, config: Config) -> str:
    """Edits that were not made, where no other clause counts them."""
    n = finite(summary, "n_refused")
    if not n or clauses_language.tells_refused(summary):
        return ""
    return f"{n:.0f} {'edit was' if n == 1 else 'edits were'} refused"


CLAUSES: tuple[Clause, ...] = (
    *(clauses_language.took, clauses_language.rewordings, clauses_language.neighbours, clauses_language.ending),
    *(clauses_images.gained, clauses_images.cost, clauses_images.corrupted),
    *(condition, refused, clauses_images.leaked),
)
#: Said where the edits have not been measured.
BEFORE: tuple[Clause, ...] = (clauses_images.untouched,)
