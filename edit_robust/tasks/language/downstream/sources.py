"""Examples of a classification: from a .jsonl file or a data set of the hub, balanced over the labels."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edit_robust.core.errors import UserError, nearest
from edit_robust.tasks.language.documents import hub_name
from edit_robust.tasks.reading import Row, existing_file, jsonl_rows

_SHOWN = 60


@dataclass(frozen=True)
class Labelled:
    """An example: its texts by field, and its label."""

    texts: Mapping[str, str]
    label: int

    @property
    def key(self) -> tuple[str, ...]:
        """Two examples with the same texts are the same one."""
        return tuple(text.strip() for text in self.texts.values())


def read_examples(source: str, option: str, fields: Sequence[str], words: Mapping[int, str]) -> list[Labelled]:
    """All examples of a source, in its order.

    `source` is a .jsonl file or `hf:NAME[:config[:split]][@REVISION]`. Every record has the `fields`, and "label" (a
    key of `words`) or "answer" (one of the words). `option` is the config key that named it. Raises UserError for what
    cannot be read, an empty source, and other labels.
    """
    rows = _hub_rows(source, option, fields) if source.startswith("hf:") else _file_rows(source, option, fields)
    found = [Labelled({name: _text(row, name) for name in fields}, _label(row, words)) for row in rows]
    if not found:
        raise UserError(f"{option}={source} holds no examples")
    return found


def _text(row: Row, field: str) -> str:
    return row.as_text(field, row.get(field))


def _label(row: Row, words: Mapping[int, str]) -> int:
    known = ", ".join(f"{label} ({word})" for label, word in words.items())
    if "label" not in row.data and "answer" in row.data:
        labels = {word: label for label, word in words.items()}
        answer = row.text("answer")
        if answer not in labels:
            raise row.error("answer", f'is "{answer[:_SHOWN]}"; {nearest(answer, labels, "answers")}')
        return labels[answer]
    label = row.get("label")
    if isinstance(label, bool) or not isinstance(label, int) or label not in words:
        raise row.error("label", f"is {str(label)[:_SHOWN]}; labels are {known}")
    return label


def _file_rows(source: str, option: str, fields: Sequence[str]) -> Iterator[Row]:
    path = existing_file(source, option)
    try:
        yield from jsonl_rows(path, (*fields, "label", "answer"))
    except UnicodeDecodeError as error:
        raise UserError(f"{option}={path} is not UTF-8 text; save it as UTF-8") from error


def _hub_rows(source: str, option: str, fields: Sequence[str]) -> Iterator[Row]:
    name, config, split, revision = hub_name(source, option)
    try:
        import datasets  # takes seconds to import, and only this source needs it

        pinned = {"revision": revision} if revision else {}
        found: Iterable[dict[str, Any]] = datasets.load_dataset(name, config or None, split=split, **pinned)
        records = list(found)
    except Exception as error:  # the hub raises dozens of unrelated types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot read {option}={source} ({reason}); name a local file: {option}=FILE.jsonl") from error
    return (Row(f"{source}, record {i}", dict(r), (*fields, "label")) for i, r in enumerate(records, start=1))


def balanced(
    examples: Sequence[Labelled], n: int | None, seed: int, words: Mapping[int, str], where: str
) -> list[Labelled]:
    """As many examples of each label, at most `n` in all, in their order; drawn by a seed where there are more.

    `n` None takes everything, balanced or not. Raises UserError, naming the source (`where`), for a label
    without example.
    """
    by_label = _by_label(examples, words, where)
    if n is None:
        return list(examples)
    size = min(n // len(by_label), *(len(places) for places in by_label.values()))
    draw = random.Random(seed)
    kept = [sorted(p if len(p) == size else draw.sample(p, size)) for p in by_label.values()]
    return [examples[i] for i in sorted(i for places in kept for i in places)]


def draw_shots(
    examples: Sequence[Labelled],
    n: int,
    seed: int | None,
    words: Mapping[int, str],
    where: str,
    without: Collection[tuple[str, ...]] = (),
) -> list[Labelled]:
    """`n` examples to show before the questions: balanced over the labels and shuffled, by a seed.

    Seed None takes the first `n` as they stand. None has the texts of an example whose key is in `without`. Raises
    UserError where there are too few.
    """
    usable = [e for e in examples if e.key not in set(without)]
    if len(usable) < n:
        raise UserError(f"{where} has {len(usable)} examples that are not asked about, too few for {n} shots")
    if seed is None or n == 0:
        return usable[:n]
    draw = random.Random(seed)
    by_label = _by_label(usable, words, where)
    labels = list(by_label)
    draw.shuffle(labels)  # which label has one more where n is odd
    chosen: list[Labelled] = []
    for i, label in enumerate(labels):
        size = n // len(labels) + (i < n % len(labels))
        places = by_label[label]
        if len(places) < size:
            raise UserError(f'{where} has {len(places)} examples of "{words[label]}", too few for {n} balanced shots')
        chosen += [usable[p] for p in draw.sample(places, size)]
    draw.shuffle(chosen)
    return chosen


def _by_label(examples: Sequence[Labelled], words: Mapping[int, str], where: str) -> dict[int, list[int]]:
    """Places of the examples of each label; none may be missing."""
    found: dict[int, list[int]] = {label: [] for label in words}
    for i, example in enumerate(examples):
        found[example.label].append(i)
    for label, places in found.items():
        if not places:
            raise UserError(f'{where} has no example of label {label} ("{words[label]}"); every class is needed')
    return found
