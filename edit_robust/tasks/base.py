"""What a task offers to an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from edit_robust.core.data import Probe, Request
from edit_robust.core.images import ImageSet
from edit_robust.core.question_sets import QuestionSet


class Task(Protocol):
    """A source of requests. What is asked about them is up to the measures, which name what they need of a task.

    gives: the kind of request that it makes; editors say which kind they take.
    """

    name: str
    gives: ClassVar[type[Request]]

    def requests(self) -> Sequence[Request]:
        """The changes to make, in the order they are made (already ordered and cut to `n_requests`)."""
        ...

    def training_requests(self) -> Sequence[Request]:
        """Requests that an editor which learns may train on: none is about a subject (or, with images, made from a
        picture) of `requests()`. May be empty."""
        ...


class Probes(Protocol):
    """A task with questions about its requests."""

    def probes(self, requests: Sequence[Request]) -> list[Probe]:
        """edit, paraphrase and neighbourhood questions; every example's group is its request's id."""
        ...


class Corpus(Protocol):
    """A task with text like the model's training text."""

    def corpus(self) -> list[str]:
        """Documents for second moments."""
        ...


class KeyedCorpus(Corpus, Protocol):
    """A task that can tell its text from others without reading it. Without the method the text is read and hashed."""

    def corpus_key(self) -> Mapping[str, Any]:
        """What `corpus()` depends on, as plain values: a file's content hash, a world's seed and version, options."""
        ...


class HeldOut(Protocol):
    """A task with text that the model was not trained on."""

    def held_out(self) -> list[str]:
        """Documents for perplexity; may be empty."""
        ...


class HasDownstream(Protocol):
    """A task with questions about something else than its requests."""

    def downstream(self) -> list[QuestionSet]:
        """Downstream tasks that the model of the task's data can be asked; none is about a subject of any request."""
        ...


class Images(Protocol):
    """A task with images to evaluate an edited classifier on."""

    def image_sets(self, requests: Sequence[Request]) -> list[ImageSet]:
        """The original task's images first, natural shifts of it, and the edited images of each request."""
        ...


@runtime_checkable
class NamesClasses(Protocol):
    """A task about images whose labels are positions in classes of its own, which may not be the model's."""

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        ...

    @property
    def templates(self) -> list[str]:
        """Sentences with one {} for a name."""
        ...
