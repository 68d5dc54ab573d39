"""Documents for second moments and perplexity: text files, .jsonl files, data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from edit_robust.core.errors import UserError, nearest
from edit_robust.tasks.reading import existing_file, jsonl_rows


def as_document(sentences: Sequence[str]) -> str:
    """Sentences as one document, each once, in their order."""
    return " ".join(dict.fromkeys(s if s.endswith((".", "?", "!")) else f"{s}." for s in sentences))


def documents(source: str, n: int, option: str) -> list[str]:
    """The first `n` documents of a source.

    `source` is a text file (blank lines separate the documents), a .jsonl file (one object a line, field "text"), or
    `hf:NAME[:config[:split]]`, a data set of the Hugging Face hub, read as a stream. `option` is the config key that
    named it. Raises UserError when it cannot be read or holds nothing.
    """
    if source.startswith("hf:"):
        found = _hub_documents(source, n, option)
    else:
        path = existing_file(source, option)
        try:
            stream = _jsonl_texts(path) if path.suffix == ".jsonl" else _paragraphs(path)
            found = list(islice(stream, n))
        except UnicodeDecodeError as error:
            raise UserError(f"{option}={path} is not UTF-8 text; save it as UTF-8") from error
    if not found:
        raise UserError(f"{option}={source} holds no documents")
    return found


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


def _hub_documents(source: str, n: int, option: str) -> list[str]:
    name, config, split, *rest = [*source.removeprefix("hf:").split(":"), "", ""]
    if not name or any(rest):
        raise UserError(f"{option}={source} must have the form hf:NAME[:config[:split]]")
    try:
        import datasets  # takes seconds to import, and only this source needs it

        stream = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        records = list(islice(stream, n))
    except Exception as error:  # the hub raises dozens of unrelated types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot read {option}={source} ({reason}); name a local text file: {option}=FILE") from error
    if records and "text" not in records[0]:
        raise UserError(f'{option}={source} has no field "text"; {nearest("text", records[0], "fields")}')
    return [r["text"] for r in records if r["text"] and r["text"].strip()]
