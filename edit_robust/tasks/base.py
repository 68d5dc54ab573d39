"""What a task offers to an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edit_robust.core.data import Probe, Request


class Task(Protocol):
    """A source of requests and of the questions that tell what an edit did.

    `protocol` names the metrics that apply: "counterfact" (success, magnitude, accuracy) or "zsre" (token accuracy).
    """

    name: str

    @property
    def protocol(self) -> str: ...

    def requests(self) -> Sequence[Request]:
        """The changes to make, in the order they are made (already ordered and cut to `n_requests`)."""
        ...

    def training_requests(self) -> Sequence[Request]:
        """Requests that an editor which learns may train on: none is about a subject (or, with images, made from a
        picture) of `requests()`. May be empty."""
        ...

    def probes(self, requests: Sequence[Request]) -> list[Probe]:
        """edit, paraphrase and neighbourhood questions; every example's group is its request's id."""
        ...

    def corpus(self) -> list[str]:
        """Documents for second moments: text like the model's training text."""
        ...

    def held_out(self) -> list[str]:
        """Documents for perplexity that the model was not trained on; may be empty."""
        ...
