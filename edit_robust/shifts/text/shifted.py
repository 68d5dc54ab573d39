"""A prompt under a shift: typing errors, capitals, and text before it; at severities 1 to 5.

What is drawn depends on the seed, the shift and the prompt, and on nothing that stands beside it. A severity holds what
the one below holds, and more: the same errors and others, the same sentences and others before them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edit_robust.core.errors import UserError, nearest
from edit_robust.shifts.text import names

#: Severity -> share of the letters that a typing error hits.
TYPOS = {1: 0.03, 2: 0.06, 3: 0.1, 4: 0.15, 5: 0.2}
#: Severity -> words of a longer prefix.
PREFIX_WORDS = {1: 10, 2: 20, 3: 30, 4: 40, 5: 50}
#: Letters beside each other on a keyboard (QWERTY).
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
MOST = 5
#: Said before a prompt where a task brings no text of its own.
ORDINARY = (
    "The weather had been dry for more than a week.",
    "Two chairs stood in the middle of the room.",
    "Somebody had left the window open during the night.",
    "The bus arrived a few minutes later than usual.",
    "They talked for a while and then went home.",
    "A small boat was tied to the end of the pier.",
    "The letter was short and easy to understand.",
    "He put the keys on the table and sat down.",
    "The garden was quiet in the early afternoon.",
    "She counted the boxes once more before lunch.",
)
STATEMENTS = (
    "Water is made of hydrogen and oxygen.",
    "A triangle has three sides.",
    "The heart pumps blood through the body.",
    "Spiders have eight legs.",
    "Iron is heavier than wood.",
    "The Pacific is the largest ocean.",
)


@dataclass(frozen=True)
class Prompt:
    """A question's text.

    subject: whom it is about; None: not known (then words with a capital are taken for names).
    edit:    statements of the edit whose neighbour is asked about, its own prompt first; () for other prompts.
    """

    text: str
    subject: str | None = None
    edit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Material:
    """What may stand before a prompt. ordinary: sentences.   statements: (subject, sentence) of other facts."""

    ordinary: tuple[str, ...] = ORDINARY
    statements: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TextShifter:
    """Puts prompts under shifts.

    protect_subject: whether names stay as they are under typing errors and capitals.
    """

    material: Material = Material()
    protect_subject: bool = True
    seed: int = 0

    def __call__(self, prompt: Prompt, shift: str, severity: int) -> str:
        """The prompt under a shift. Raises UserError for one that there is not."""
        if shift not in _SHIFTS:
            raise UserError(f"there is no shift of text {shift!r}; {nearest(shift, _SHIFTS, 'shifts of text')}")
        # a text as a seed is hashed without salt: the same on every machine
        rng = random.Random(f"{self.seed}|{shift}|{prompt.text}")
        return _SHIFTS[shift](self, prompt, severity, rng)

    def typos(self, prompt: Prompt, severity: int, rng: random.Random) -> str:
        """Letters swapped, left out, doubled or missed on the keyboard: a share of them, one at least."""
        text, kept = prompt.text, self._kept(prompt)
        open_ = [i for i, c in enumerate(text) if c.isascii() and c.isalpha() and i not in kept]
        order = rng.sample(open_, len(open_))
        kinds = [(rng.choice(("swap", "drop", "double", "miss")), rng.random()) for _ in order]
        out, touched = list(text), set[int]()
        n = max(1, round(TYPOS[severity] * len(open_)))
        for i, (kind, draw) in list(zip(order, kinds, strict=True))[:n]:
            if i in touched:
                continue
            if kind == "swap" and i + 1 in open_ and i + 1 not in touched and text[i] != text[i + 1]:
                out[i], out[i + 1] = text[i + 1], text[i]
                touched |= {i, i + 1}
                continue
            touched.add(i)
            out[i] = {"drop": "", "miss": _beside(text[i], draw)}.get(kind, 2 * text[i])
        return "".join(out)

    def casing(self, prompt: Prompt, severity: int, rng: random.Random) -> str:
        """A fifth of the words in capitals, two fifths, and so on; one at least."""
        kept = self._kept(prompt)
        words = [m.span() for m in re.finditer(r"\S+", prompt.text) if m.start() not in kept]
        some = rng.sample(words, len(words))[: max(1, round(severity * len(words) / MOST))]
        text = prompt.text
        for start, end in some:  # an uppercase letter may be longer than its lowercase one: those stay
            word = text[start:end]
            text = text[:start] + (word.upper() if len(word.upper()) == len(word) else word) + text[end:]
        return text

    def context(self, prompt: Prompt, severity: int, rng: random.Random) -> str:
        """1 to 5 sentences of ordinary text."""
        return _before(_drawn(rng, self.material.ordinary, prompt, MOST)[:severity], prompt)

    def distractor(self, prompt: Prompt, severity: int, rng: random.Random) -> str:
        """1 to 5 statements about others, true before any edit."""
        own = prompt.text if prompt.subject is None else f"{prompt.text} {prompt.subject}"
        others = [sentence for subject, sentence in self.material.statements if subject not in own]
        return _before(_drawn(rng, others or STATEMENTS, prompt, MOST)[:severity], prompt)

    def prefix(self, prompt: Prompt, severity: int, rng: random.Random) -> str:
        """The last 10, 20, 30, 40 or 50 words of ordinary text."""
        words: list[str] = []
        while len(words) < PREFIX_WORDS[MOST]:
            words = [*_drawn(rng, self.material.ordinary, prompt, 1)[0].split(), *words]
        return _before([" ".join(words[-PREFIX_WORDS[severity] :])], prompt)

    def neighbour_edit(self, prompt: Prompt, severity: int, rng: random.Random) -> str:
        """1 to 5 statements of the edit, its own prompt's nearest to the question. At 1 this is neighbourhood+
        (Hoelscher-Obermaier et al. 2023, arXiv 2305.17553)."""
        if not prompt.edit:
            return prompt.text
        return _before([prompt.edit[i % len(prompt.edit)] for i in range(severity)], prompt)

    def _kept(self, prompt: Prompt) -> set[int]:
        """Places of letters that belong to names."""
        if not self.protect_subject:
            return set()
        found = r"\b[A-Z]\S*" if prompt.subject is None else re.escape(prompt.subject)
        return {i for m in re.finditer(found, prompt.text) for i in range(*m.span())}


#: Name -> what it makes of a prompt.
_SHIFTS: Mapping[str, Callable[[TextShifter, Prompt, int, random.Random], str]] = {
    names.TYPOS: TextShifter.typos,
    names.CASING: TextShifter.casing,
    names.CONTEXT: TextShifter.context,
    names.DISTRACTOR: TextShifter.distractor,
    names.PREFIX: TextShifter.prefix,
    names.NEIGHBOUR_EDIT: TextShifter.neighbour_edit,
}


def sentences(documents: Sequence[str], without: Sequence[str] = ()) -> Iterator[str]:
    """The sentences of some documents that have 3 to 40 words and name none of `without`, each once."""
    seen: set[str] = set()
    named = re.compile("|".join(map(re.escape, sorted(without)))) if without else None
    for document in documents:
        for sentence in re.split(r"(?<=[.!?])\s+", document):
            ends = sentence.endswith((".", "!", "?"))
            if (
                sentence in seen
                or not ends
                or not 3 <= len(sentence.split()) <= 40
                or (named and named.search(sentence))
            ):
                continue
            seen.add(sentence)
            yield sentence


def _before(found: Sequence[str], prompt: Prompt) -> str:
    """Sentences before a prompt, the first of them nearest to it."""
    return " ".join([*reversed(found), prompt.text])


def _drawn(rng: random.Random, pool: Sequence[str], prompt: Prompt, n: int) -> list[str]:
    """`n` sentences that do not name the prompt's subject; different ones as far as there are so many."""
    found: list[str] = []
    for _ in range(20 * n):
        sentence = pool[rng.randrange(len(pool))]
        again = sentence in found and len(pool) > len(found)
        if not again and (prompt.subject is None or prompt.subject not in sentence):
            found.append(sentence)
            if len(found) == n:
                return found
    spare = [s for s in ORDINARY if s not in found]
    return [*found, *spare][:n]


def _beside(letter: str, draw: float) -> str:
    """A letter's neighbour on the keyboard, in its case."""
    row = next(r for r in ROWS if letter.lower() in r)
    place = row.index(letter.lower())
    near = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
    found = near[int(draw * len(near))]
    return found.upper() if letter.isupper() else found
