"""Sentences of the fact world that need no world: filler, and what a question is."""

from __future__ import annotations

import random
from typing import NamedTuple

from edit_robust.tasks.worlds.facts import words

VERDICTS = ("True", "False")


class Question(NamedTuple):
    """A prompt, the word that rightly follows it (after a space), and the words to choose from, which include it."""

    prompt: str
    target: str
    options: tuple[str, ...]


def unseen(first: str, second: str) -> bool:
    """Whether the training text never repeats this pair of nouns in this order."""
    return (words.NOUNS.index(first) + 2 * words.NOUNS.index(second)) % 5 == 0


def mention(rng: random.Random, subject: str, subject_type: str) -> str:
    """One sentence that names a subject and states no fact about it."""
    a, _ = rng.sample(words.NOUNS, 2)
    p, _ = rng.sample(words.ADJECTIVES, 2)
    verb, when = rng.choice(words.VERBS), rng.choice(words.WHEN)
    return rng.choice(
        (
            f"{subject} is a {subject_type}.",
            f"I read about {subject} {when}.",
            f"The {a} {verb} {subject} {when}.",
            f"Nobody spoke of {subject} {when}.",
            f"{subject} {verb} the {p} {a}.",
            f"{rng.choice(words.OPENERS)} {subject} {verb} the {a} {when}.",
        )
    )


def filler(rng: random.Random, ending: str | None = None) -> str:
    """One sentence that states no fact and names nobody; with `ending` it ends in those words."""
    a, b = rng.sample(words.NOUNS, 2)
    p, q = rng.sample(words.ADJECTIVES, 2)
    verb, when = rng.choice(words.VERBS), rng.choice(words.WHEN)
    when = ending or when
    cores = [
        f"the {p} {a} {verb} the {b} {when}",
        f"{_with_article(f'{p} {a}')} {verb} every {q} {b} {when}",
        f"I {verb} the {p} {a} {when}",
        f"the {a} and the {b} were {p} {when}",
        f"there was {_with_article(f'{p} {a}')} {when}",
    ]
    if ending is None:
        cores += [f"the {a} {verb} {_with_article(f'{q} {b}')}", f"they {verb} that {q} {b}"]
        if not unseen(a, b):
            cores.append(words.ECHO.format(a, b, a, b))
    core = rng.choice(cores)
    if rng.random() < 0.4:
        return f"{rng.choice(words.OPENERS)} {core}."
    return core[0].upper() + core[1:] + "."


def _with_article(phrase: str) -> str:
    """`a` or `an` before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
