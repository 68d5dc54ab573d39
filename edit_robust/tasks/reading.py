"""Text files and the records in them, read so that an error names the file, the place and the nearest valid choice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edit_robust.core.errors import UserError, nearest


def existing_file(path: str | Path, option: str) -> Path:
    """`path` if it is a file; else a UserError that names the nearest file in that folder."""
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{option}={path} is a folder, a file is expected")
    if not path.parent.is_dir():
        raise UserError(f"{option}={path}: there is no folder {path.parent}")
    names = [p.name for p in path.parent.iterdir() if p.is_file()]
    raise UserError(f"{option}={path}: there is no such file; {nearest(path.name, names, f'files in {path.parent}')}")


def read_text(path: str | Path, option: str = "task.path") -> str:
    """A whole UTF-8 file, with or without a byte-order mark."""
    path = existing_file(path, option)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; `where` names the text in errors."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = "" if text.rstrip().endswith(("}", "]")) else "; it seems to be cut off"
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where} is not valid JSON ({place}: {error.msg}){cut}") from error
    except RecursionError as error:
        raise UserError(f"{where} is not a list of records: it is nested too deeply") from error


def kind_of(value: Any) -> str:
    """The JSON name of a value's type, for errors."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


@dataclass(frozen=True)
class Row:
    """One record and where it stands. `fields` are the names that the format knows, at whatever depth."""

    where: str
    data: dict[str, Any]
    fields: tuple[str, ...] = ()

    def error(self, field: str, problem: str) -> UserError:
        """A UserError that names the place and the field; to be raised by the caller."""
        return UserError(f'{self.where}: "{field}" {problem}')

    def get(self, field: str) -> Any:
        """The value of a dotted field, such as `requested_rewrite.target_new.str`."""
        value: Any = self.data
        parts = field.split(".")
        for depth, key in enumerate(parts):
            if not isinstance(value, dict):
                raise self.error(".".join(parts[:depth]), f"must be an object, not {kind_of(value)}")
            if key not in value:
                strange = get_close_matches(key, [k for k in value if k not in self.fields], n=1, cutoff=0.6)
                hint = f'; "{strange[0]}" is no field, {nearest(strange[0], self.fields, "fields")}' if strange else ""
                raise self.error(".".join(parts[: depth + 1]), f"is missing{hint}")
            value = value[key]
        return value

    def as_text(self, field: str, value: Any) -> str:
        """`value` if it is text with more than spaces in it; `field` names it in errors."""
        if not isinstance(value, str):
            raise self.error(field, f"must be text, not {kind_of(value)}")
        if not value.strip():
            raise self.error(field, "is empty")
        return value

    def as_texts(self, field: str, value: Any) -> tuple[str, ...]:
        """`value` if it is a list of texts, each without spaces at its end; the list may be empty."""
        if not isinstance(value, list):
            raise self.error(field, f"must be a list of texts, not {kind_of(value)}")
        return tuple(self.as_text(f"{field}[{i}]", v).rstrip() for i, v in enumerate(value))

    def text(self, field: str) -> str:
        """The text of a field, without spaces around it."""
        return self.as_text(field, self.get(field)).strip()

    def texts(self, field: str) -> tuple[str, ...]:
        """The list of texts of a field."""
        return self.as_texts(field, self.get(field))


def json_rows(path: str | Path, fields: Sequence[str]) -> list[Row]:
    """The records of a JSON file that holds a list of objects; records are counted from 1."""
    records = parse_json(read_text(path), str(path))
    if not isinstance(records, list):
        raise UserError(f"{path} must hold a list of records, not {kind_of(records)}")
    for i, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise UserError(f"{path}, record {i}: must be an object, not {kind_of(record)}")
    return [Row(f"{path}, record {i}", r, tuple(fields)) for i, r in enumerate(records, start=1)]


def jsonl_rows(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """The objects of a .jsonl file one by one; empty lines are skipped, lines are counted from 1."""
    with path.open(encoding="utf-8-sig") as stream:
        for i, line in enumerate(stream, start=1):
            if line.strip():
                where = f"{path}, line {i}"
                record = parse_json(line, where)
                if not isinstance(record, dict):
                    raise UserError(f"{where}: must be an object, not {kind_of(record)}")
                yield Row(where, record, tuple(fields))
