"""Documents for second moments and perplexity: text files, .jsonl files, data sets of the Hugging Face hub."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from edit_robust.core.errors import UserError, nearest
from edit_robust.core.files import content_digest
from edit_robust.tasks.reading import existing_file, jsonl_rows

#: What draws samples of documents; part of what second moments are stored under.
SEED = 0
#: Documents of a data set of the hub from which the next one is drawn.
BUFFER = 10_000


def as_document(sentences: Sequence[str]) -> str:
    """Sentences as one document, each once, in their order."""
    return " ".join(dict.fromkeys(s if s.endswith((".", "?", "!")) else f"{s}." for s in sentences))


def sample(found: Iterable[str], n: int, seed: int = SEED) -> list[str]:
    """`n` of the documents, drawn at random with a seed, in the order they have; all where there are no more than `n`.

    One pass with `n` documents in memory (reservoir sampling), so that a stream of unknown length will do.
    """
    draw = random.Random(seed)
    kept: list[tuple[int, str]] = []
    for i, document in enumerate(found):
        if i < n:
            kept.append((i, document))
        elif (place := int(draw.random() * (i + 1))) < n:
            kept[place] = (i, document)
    return [document for _, document in sorted(kept, key=itemgetter(0))]


def documents(source: str, n: int, option: str) -> list[str]:
    """The first `n` documents of a source.

    `source` is a text file (blank lines separate the documents), a .jsonl file (one object a line, field "text"), or
    `hf:NAME[:config[:split]][@REVISION]`, a data set of the Hugging Face hub, read as a stream. `option` is the config
    key that named it. Raises UserError when it cannot be read or holds nothing.
    """
    if source.startswith("hf:"):
        return _some(_hub_documents(source, n, option, shuffled=False), source, option)
    return _some(_from_file(source, option, lambda stream: list(islice(stream, n))), source, option)


def sampled_documents(source: str, n: int, option: str) -> list[str]:
    """`n` documents of a source, drawn at random with seed 0; all where it has no more. See `documents`.

    Of a file every document is as likely as any other. Of the hub, where reading everything may take days, the data
    set's files are put in random order, and documents are drawn from a moving window of `BUFFER` of them.
    """
    if source.startswith("hf:"):
        return _some(_hub_documents(source, n, option, shuffled=True), source, option)
    return _some(_from_file(source, option, lambda stream: sample(stream, n)), source, option)


def source_key(source: str, option: str) -> dict[str, str]:
    """What tells a source from others without reading its documents: a file's content; a data set's name and revision.

    A data set of the hub without a revision stands for the one that it had when it was first read.
    """
    if source.startswith("hf:"):
        name, config, split, revision = hub_name(source, option)
        return {"hub": name, "config": config, "split": split, "revision": revision or "as first read"}
    path = existing_file(source, option)
    return {"file": content_digest(path), "kind": path.suffix}


def _some(found: list[str], source: str, option: str) -> list[str]:
    if not found:
        raise UserError(f"{option}={source} holds no documents")
    return found


def _from_file(source: str, option: str, take: Callable[[Iterator[str]], list[str]]) -> list[str]:
    path = existing_file(source, option)
    try:
        return take(_jsonl_texts(path) if path.suffix == ".jsonl" else _paragraphs(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{option}={path} is not UTF-8 text; save it as UTF-8") from error


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    with path.open(encoding="utf-8-sig") as stream:
        for line in stream:
            if line.strip():
                lines.append(line.rstrip("\n"))
            elif lines:
                yield "\n".join(lines)
                lines = []
    if lines:
        yield "\n".join(lines)


def _jsonl_texts(path: Path) -> Iterator[str]:
    return (row.text("text") for row in jsonl_rows(path, ("text",)))


def hub_name(source: str, option: str) -> tuple[str, str, str, str]:
    """Name, config, split and revision of `hf:NAME[:config[:split]][@REVISION]`; "" for what is left out."""
    place, _, revision = source.removeprefix("hf:").partition("@")
    name, config, split, *rest = [*place.split(":"), "", ""]
    if not name or any(rest):
        raise UserError(f"{option}={source} must have the form hf:NAME[:config[:split]][@REVISION]")
    return name, config, split or "train", revision


def _hub_documents(source: str, n: int, option: str, shuffled: bool) -> list[str]:
    """Up to `n` documents of a data set: those that are not empty of its first `n` records, or `n` random ones."""
    name, config, split, revision = hub_name(source, option)
    try:
        import datasets  # takes seconds to import, and only this source needs it

        pinned = {"revision": revision} if revision else {}
        stream = datasets.load_dataset(name, config or None, split=split, streaming=True, **pinned)
        records = stream.shuffle(seed=SEED, buffer_size=BUFFER) if shuffled else islice(stream, n)
        texts = _texts(records, source, option)
        return list(islice(texts, n))
    except UserError:
        raise
    except Exception as error:  # the hub raises dozens of unrelated types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot read {option}={source} ({reason}); name a local text file: {option}=FILE") from error


def _texts(records: Iterable[Mapping[str, Any]], source: str, option: str) -> Iterator[str]:
    """The field "text" of records, where it is not empty."""
    for record in records:
        if "text" not in record:
            raise UserError(f'{option}={source} has no field "text"; {nearest("text", record, "fields")}')
        if record["text"] and record["text"].strip():
            yield record["text"]
