"""The user's own facts, from a .jsonl, .json or .csv file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from edit_robust.core.data import Neighbour, TextRequest
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.options import DataFile
from edit_robust.tasks.language import extras
from edit_robust.tasks.language.documents import as_document
from edit_robust.tasks.language.questions import FileTask, read_template
from edit_robust.tasks.reading import Row, existing_file, json_rows, jsonl_rows, kind_of, read_text
from edit_robust.tasks.selection import Count

REQUIRED = ("prompt", "subject", "target_new")
OPTIONAL = ("target_true", "paraphrases", "neighbours", "id", *extras.FIELDS)
FIELDS = REQUIRED + OPTIONAL


def _csv_rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV file with a header; a record's line is the one it begins on."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        line = reader.line_num + 1
        for cells in reader:
            where, line = f"{path}, line {line}", reader.line_num + 1
            if not any(c.strip() for c in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where}: {len(cells)} cells for {len(header)} columns; put text that has a comma in quotes"
                )
            record: dict[str, Any] = dict(zip(header, cells, strict=True))
            for name in OPTIONAL:
                if not record.get(name, "").strip():
                    record.pop(name, None)
            for name in ("paraphrases", "neighbours", "generation_prompts", "references"):
                if name in record:
                    record[name] = [part.strip() for part in record[name].split("|") if part.strip()]
            record["neighbours"] = [_csv_neighbour(part) for part in record.get("neighbours", [])]
            yield Row(where, record, FIELDS)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error


def _check_header(path: Path, header: list[str]) -> None:
    if not any(header):
        raise UserError(f"{path} has no header; its first line must name the columns {', '.join(REQUIRED)}")
    for name in header:
        if header.count(name) > 1:
            raise UserError(f'{path}, line 1: the column "{name}" is there twice')
        if name not in FIELDS:
            comma = "; columns are separated by commas" if set(name) & set(";\t") else ""
            raise UserError(f'{path}, line 1: unknown column "{name}"; {nearest(name, FIELDS, "columns")}{comma}')
    if missing := [name for name in REQUIRED if name not in header]:
        raise UserError(f'{path}, line 1: the column "{missing[0]}" is missing; found {", ".join(header)}')


def _csv_neighbour(text: str) -> str | dict[str, str]:
    prompt, arrow, answer = text.rpartition("=>")
    return {"prompt": prompt, "answer": answer} if arrow else text


def _rows(path: str) -> list[Row]:
    file = existing_file(path, "task.path")
    suffix = file.suffix.lower()
    if suffix == ".csv":
        return list(_csv_rows(file))
    if suffix == ".json":
        return json_rows(file, FIELDS)
    if suffix != ".jsonl":
        raise UserError(f"task.path={path}: the name must end in .csv, .json or .jsonl")
    try:
        return list(jsonl_rows(file, FIELDS))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from error


def _neighbours(row: Row, new: str, true: str | None) -> list[Neighbour]:
    values = row.data.get("neighbours") or []
    if not isinstance(values, list):
        raise row.error("neighbours", f"must be a list, not {kind_of(values)}")
    found: list[Neighbour] = []
    for i, value in enumerate(values):
        place, answer = f"neighbours[{i}]", None
        if isinstance(value, dict):
            for key in value:
                if key not in ("prompt", "answer"):
                    raise row.error(f"{place}.{key}", f"is unknown; {nearest(key, ('prompt', 'answer'), 'fields')}")
            if "prompt" not in value:
                raise row.error(f"{place}.prompt", "is missing")
            if value.get("answer") is not None:
                answer = row.as_text(f"{place}.answer", value["answer"]).strip()
            value, place = value["prompt"], f"{place}.prompt"
        prompt = row.as_text(place, value).rstrip()
        if "{}" in prompt:
            raise row.error(place, "has {} in it; a neighbour is about another subject, write that out")
        if answer is None and true is None:
            raise row.error(f"neighbours[{i}]", "has no right answer; give it one, or give the record a target_true")
        if answer == new:
            raise row.error(f"neighbours[{i}]", f'has target_new as its right answer: "{new}"')
        found.append((prompt, answer))
    return found


def read_record(row: Row, id: str) -> tuple[TextRequest, str]:
    """One fact as a request, and its statements that are true as one document ("" if none is known)."""
    for key in row.data:
        if key not in FIELDS:
            raise row.error(key, f"is unknown; {nearest(key, FIELDS, 'fields')}")
    subject = row.text("subject")
    template, new = read_template(row, "prompt", subject), row.text("target_new")
    true = row.text("target_true") if row.data.get("target_true") is not None else None
    if new == true:
        raise row.error("target_new", f'is the same as target_true: "{new}"')
    given = row.data.get("paraphrases")
    paraphrases = [p.replace("{}", subject) for p in row.as_texts("paraphrases", [] if given is None else given)]
    neighbours = _neighbours(row, new, true)
    if (own := row.data.get("id")) is not None:
        if not isinstance(own, int | str) or isinstance(own, bool):
            raise row.error("id", f"must be a number or text, not {kind_of(own)}")
        id = row.as_text("id", str(own)).strip()
    more = extras.read_extras(row, subject)
    request = TextRequest(
        id, template, new, true, subject, paraphrases=tuple(paraphrases), neighbours=tuple(neighbours), **more
    )
    statements = [f"{p} {true}" for p in (request.prompt, *paraphrases)] if true is not None else []
    statements += [f"{p} {true if answer is None else answer}" for p, answer in neighbours]
    return request, as_document(statements)


class Facts(FileTask):
    """Facts of one's own: prompt, subject and target_new, and optionally target_true, paraphrases, neighbours, id, and
    what measures of generated text and of ripple effects ask (see `extras`).

    A prompt holds `{}` for the subject, or the subject itself, whose first occurrence is taken; `{}` in a paraphrase
    is the subject, too. A neighbour is a text, whose right answer is target_true, or {"prompt": ..., "answer": ...}.
    In CSV, `|` separates the texts of a list, and a neighbour with its own answer is "prompt => answer".
    Without target_true there is no old answer to compare the new one with, and it is the question's only choice.
    A fact without an id gets its position in the file, from 0.

    The other arguments are those of `Counterfact`, but no fact is left out for its subject unless that is asked for.
    """

    needs: ClassVar[str] = (
        "your own .csv, .json or .jsonl file: task.path=FILE with prompt, subject, target_new "
        "(optional: target_true, paraphrases, neighbours, id)"
    )

    def __init__(
        self,
        path: DataFile,
        name: str = "facts",
        n_requests: Count = None,
        order: int = 0,
        unique_subjects: bool = False,
        corpus_path: DataFile | None = None,
        held_out_path: DataFile | None = None,
        n_corpus: int = 100_000,
        n_held_out: int = 1000,
    ) -> None:
        super().__init__(
            name, path, n_requests, order, unique_subjects, corpus_path, held_out_path, n_corpus, n_held_out
        )
        self.path: str = path

    @property
    def protocol(self) -> str:
        """ "counterfact" if every fact of the file has a target_true, else "zsre" (token accuracy alone)."""
        return "counterfact" if all(request.old is not None for request, _ in self._file) else "zsre"

    def _source(self) -> Path:
        return existing_file(self.path, "task.path")

    def _read(self) -> list[tuple[TextRequest, str]]:
        return [read_record(row, str(i)) for i, row in enumerate(_rows(self.path))]
