"""What the language tasks share: requests, the questions about them, and tasks whose requests come from one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from re import escape, search
from typing import Any, ClassVar

from edit_robust.core.data import Example, Probe, Request, TextRequest
from edit_robust.core.errors import UserError
from edit_robust.core.files import content_digest
from edit_robust.core.options import DataFile
from edit_robust.tasks.language.documents import SEED, documents, sample, sampled_documents, source_key
from edit_robust.tasks.reading import Row
from edit_robust.tasks.selection import Count, check_counts, not_selected, select

_HELD_OUT_SHARE = 10  # one document in so many is kept out of the corpus
#: Raised when the same records give other documents: second moments are stored under it.
TEXT_VERSION = 1


def read_template(row: Row, field: str, subject: str) -> str:
    """The prompt of a field with one `{}`; without any, the subject's first occurrence becomes it.

    An occurrence as a whole word goes before one inside a longer word. Spaces at the end are dropped.
    """
    prompt = row.as_text(field, row.get(field)).rstrip()
    slots = prompt.count("{}")
    if slots > 1:
        raise row.error(field, f"has {slots} places {{}}, exactly one is expected")
    if slots == 1:
        return prompt
    if subject not in prompt:
        raise row.error(field, f'has neither {{}} nor the subject "{subject}" in it: "{prompt}"')
    whole = search(rf"(?<!\w){escape(subject)}(?!\w)", prompt)
    start = whole.start() if whole else prompt.index(subject)
    return prompt[:start] + "{}" + prompt[start + len(subject) :]


def ask(requests: Sequence[Request], contrast: bool = True) -> list[Probe]:
    """The edit, paraphrase and neighbourhood questions about requests; empty probes are left out.

    A `TextRequest` brings its paraphrases and neighbours; a plain `Request` has its own prompt alone.
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
        if not isinstance(r, TextRequest):
            continue
        for j, prompt in enumerate(r.paraphrases):
            paraphrase.append(Example(f"{r.id}/paraphrase/{j}", prompt, changed, 0, r.id))
        for j, (prompt, answer) in enumerate(r.neighbours):
            right = old if answer is None else f" {answer}"
            choices = (new, right) if contrast else (right,)
            neighbourhood.append(Example(f"{r.id}/neighbourhood/{j}", prompt, choices, len(choices) - 1, r.id))
    probes = {"edit": edit, "paraphrase": paraphrase, "neighbourhood": neighbourhood}
    return [Probe(name, tuple(examples)) for name, examples in probes.items() if examples]


class FileTask(ABC):
    """A task whose requests come from one file; it is read once, at the first question about it."""

    needs: ClassVar[str]
    gives: ClassVar[type[Request]] = TextRequest
    contrast: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        path: DataFile | None,
        n_requests: Count,
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
    def _source(self) -> Path:
        """The file of the requests, downloaded where it must be."""

    @abstractmethod
    def _read(self) -> list[tuple[TextRequest, str]]:
        """Every request of the file, in its order, with the text that the record holds (true statements)."""

    @cached_property
    def _file(self) -> list[tuple[TextRequest, str]]:
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
    def _selected(self) -> list[TextRequest]:
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
            found = sample((text for _, text in self._file if text), self.n_corpus)
        else:
            found = sampled_documents(self.corpus_path, self.n_corpus, "task.corpus_path")
        if self.held_out_path is not None:
            return found, documents(self.held_out_path, self.n_held_out, "task.held_out_path")
        kept_out = min(-(-len(found) // _HELD_OUT_SHARE), self.n_held_out) if len(found) > 1 else 0
        return found[: len(found) - kept_out], found[len(found) - kept_out :]

    def requests(self) -> list[TextRequest]:
        """The changes to make, ordered and cut to `n_requests`."""
        return list(self._selected)

    def training_requests(self) -> list[TextRequest]:
        """The file's other requests, without those about a subject of `requests()`, in the file's order."""
        return not_selected([request for request, _ in self._file], self._selected)

    def probes(self, requests: Sequence[Request]) -> list[Probe]:
        """edit, paraphrase and neighbourhood questions about `requests` (see `ask`)."""
        return ask(requests, self.contrast)

    def corpus(self) -> list[str]:
        """Documents for second moments: at most `n_corpus` of `corpus_path`, or the file's own prompts."""
        return list(self._documents[0])

    def corpus_key(self) -> dict[str, Any]:
        """What `corpus()` depends on, told without reading it: the content of its file, and the options that count."""
        if self.corpus_path is None:
            own = {"task": type(self).__name__, "file": content_digest(self._source()), **self._text_options()}
        else:
            own = source_key(self.corpus_path, "task.corpus_path")
        split = self.n_held_out if self.held_out_path is None else None
        return {"text": TEXT_VERSION, **own, "n": self.n_corpus, "seed": SEED, "held_out": split}

    def _text_options(self) -> dict[str, Any]:
        """Options of the task, beside those of all tasks, on which the records' text depends."""
        return {}

    def held_out(self) -> list[str]:
        """At most `n_held_out` documents for perplexity: of `held_out_path`, or those kept out of `corpus()`."""
        return list(self._documents[1])
