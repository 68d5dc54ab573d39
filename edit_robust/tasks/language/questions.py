"""What the language tasks share: records with their place, requests, questions, documents."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from pathlib import Path
from re import escape, search
from typing import Any, ClassVar

import numpy as np

from edit_robust.core.data import Example, Probe, Request
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.options import DataFile

#: A neighbour's prompt and its right answer; None stands for the request's old answer.
Neighbour = tuple[str, str | None]

_HELD_OUT_SHARE = 10  # one document in so many is kept out of the corpus


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

    def template(self, field: str, subject: str) -> str:
        """The prompt of a field with one `{}`; without any, the subject's first occurrence becomes it.

        An occurrence as a whole word goes before one inside a longer word. Spaces at the end are dropped.
        """
        prompt = self.as_text(field, self.get(field)).rstrip()
        slots = prompt.count("{}")
        if slots > 1:
            raise self.error(field, f"has {slots} places {{}}, exactly one is expected")
        if slots == 1:
            return prompt
        if subject not in prompt:
            raise self.error(field, f'has neither {{}} nor the subject "{subject}" in it: "{prompt}"')
        whole = search(rf"(?<!\w){escape(subject)}(?!\w)", prompt)
        start = whole.start() if whole else prompt.index(subject)
        return prompt[:start] + "{}" + prompt[start + len(subject) :]


def json_rows(path: str | Path, fields: Sequence[str]) -> list[Row]:
    """The records of a JSON file that holds a list of objects; records are counted from 1."""
    records = parse_json(read_text(path), str(path))
    if not isinstance(records, list):
        raise UserError(f"{path} must hold a list of records, not {kind_of(records)}")
    for i, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise UserError(f"{path}, record {i}: must be an object, not {kind_of(record)}")
    return [Row(f"{path}, record {i}", r, tuple(fields)) for i, r in enumerate(records, start=1)]


def make_request(
    id: str,
    template: str,
    subject: str,
    new: str,
    old: str | None,
    paraphrases: Sequence[str],
    neighbours: Sequence[Neighbour],
    **extra: Any,
) -> Request:
    """A request that carries its own questions in `extra["paraphrases"]` and `extra["neighbours"]`."""
    questions = {"paraphrases": tuple(paraphrases), "neighbours": tuple(neighbours)}
    known = {key: value for key, value in extra.items() if value is not None}
    return Request(id=id, x=template, target=new, old=old, subject=subject, extra=questions | known)


def select(
    requests: Sequence[Request], order: int, unique_subjects: bool, n_requests: int | None, name: str
) -> list[Request]:
    """The requests an experiment makes, in its order.

    First the later requests of a subject are dropped (so that every order holds the same ones), then `order` > 0
    permutes the rest with that seed, then the first `n_requests` are taken. Raises UserError when there are fewer.
    """
    kept = list(requests)
    if unique_subjects:
        first: dict[str | None, Request] = {}
        for request in requests:
            first.setdefault(request.subject, request)
        kept = list(first.values())
    if n_requests is not None and n_requests > len(kept):
        what = "requests with distinct subjects" if unique_subjects and len(kept) < len(requests) else "requests"
        raise UserError(f"task.n_requests={n_requests} is more than there are: {name} has {len(kept)} {what}")
    if order:
        kept = [kept[i] for i in np.random.default_rng(order).permutation(len(kept))]
    return kept[:n_requests]


def check_counts(order: int, **counts: int | None) -> None:
    """UserError unless `order` is 0 or more and every given count is 1 or more."""
    if order < 0:
        raise UserError(f"task.order={order} must be 0 (the file's order) or a positive seed")
    for option, n in counts.items():
        if n is not None and n < 1:
            raise UserError(f"task.{option}={n} must be at least 1")


def ask(requests: Sequence[Request], contrast: bool = True) -> list[Probe]:
    """The edit, paraphrase and neighbourhood questions of requests made by `make_request`; empty probes are left out.

    With `contrast` the choices are (new answer, old answer); index 0 is right for edit and paraphrase, index 1 for
    neighbourhood, and a request without an old answer has the new one alone. Without `contrast` every question has
    its right answer as the only choice. Choices begin with a space, prompts do not end with one.
    """
    edit: list[Example] = []
    paraphrase: list[Example] = []
    neighbourhood: list[Example] = []
    for r in requests:
        new, old = f" {r.target}", None if r.old is None else f" {r.old}"
        changed = (new, old) if contrast and old is not None else (new,)
        edit.append(Example(f"{r.id}/edit/0", r.prompt, changed, 0, r.id))
        for j, prompt in enumerate(r.extra["paraphrases"]):
            paraphrase.append(Example(f"{r.id}/paraphrase/{j}", prompt, changed, 0, r.id))
        for j, (prompt, answer) in enumerate(r.extra["neighbours"]):
            right = old if answer is None else f" {answer}"
            choices = (new, right) if contrast else (right,)
            neighbourhood.append(Example(f"{r.id}/neighbourhood/{j}", prompt, choices, len(choices) - 1, r.id))
    probes = {"edit": edit, "paraphrase": paraphrase, "neighbourhood": neighbourhood}
    return [Probe(name, tuple(examples)) for name, examples in probes.items() if examples]


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


class FileTask(ABC):
    """A task whose requests come from one file; it is read once, at the first question about it."""

    needs: ClassVar[str]
    contrast: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        path: DataFile | None,
        n_requests: int | None,
        order: int,
        unique_subjects: bool,
        corpus_path: DataFile | None,
        held_out_path: DataFile | None,
        n_corpus: int,
        n_held_out: int,
    ) -> None:
        check_counts(order, n_requests=n_requests, n_corpus=n_corpus, n_held_out=n_held_out)
        self.name, self.path = name, path
        self.n_requests, self.order, self.unique_subjects = n_requests, order, unique_subjects
        self.corpus_path = corpus_path
        self.held_out_path = None if held_out_path == corpus_path else held_out_path
        self.n_corpus, self.n_held_out = n_corpus, n_held_out

    @abstractmethod
    def _read(self) -> list[tuple[Request, str]]:
        """Every request of the file, in its order, with the text that the record holds (true statements)."""

    @cached_property
    def _file(self) -> list[tuple[Request, str]]:
        pairs = self._read()
        if not pairs:
            raise UserError(f"{self.path or self.name} holds no records")
        seen: set[str] = set()
        for request, _ in pairs:
            if request.id in seen:
                raise UserError(f'{self.path or self.name}: two records have the id "{request.id}"')
            seen.add(request.id)
        return pairs

    @cached_property
    def _selected(self) -> list[Request]:
        every = [request for request, _ in self._file]
        return select(every, self.order, self.unique_subjects, self.n_requests, self.name)

    @property
    def corpus_source(self) -> str:
        """Where `corpus()` comes from, in words."""
        return f"own prompts of {self.name}" if self.corpus_path is None else Path(self.corpus_path).name

    @property
    def held_out_source(self) -> str:
        """Where `held_out()` comes from, in words."""
        return f"last 10 % of {self.corpus_source}" if self.held_out_path is None else Path(self.held_out_path).name

    @cached_property
    def _documents(self) -> tuple[list[str], list[str]]:
        if self.corpus_path is None:
            found = [text for _, text in self._file if text][: self.n_corpus]
        else:
            found = documents(self.corpus_path, self.n_corpus, "task.corpus_path")
        if self.held_out_path is not None:
            return found, documents(self.held_out_path, self.n_held_out, "task.held_out_path")
        kept_out = min(-(-len(found) // _HELD_OUT_SHARE), self.n_held_out) if len(found) > 1 else 0
        return found[: len(found) - kept_out], found[len(found) - kept_out :]

    def requests(self) -> list[Request]:
        """The changes to make, ordered and cut to `n_requests`."""
        return list(self._selected)

    def probes(self, requests: Sequence[Request]) -> list[Probe]:
        """edit, paraphrase and neighbourhood questions about `requests` (see `ask`)."""
        return ask(requests, self.contrast)

    def corpus(self) -> list[str]:
        """Documents for second moments: at most `n_corpus` of `corpus_path`, or the file's own prompts."""
        return list(self._documents[0])

    def held_out(self) -> list[str]:
        """At most `n_held_out` documents for perplexity: of `held_out_path`, or those kept out of `corpus()`."""
        return list(self._documents[1])
