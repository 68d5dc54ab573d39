"""Which of the requests that a file holds an experiment makes, and which remain for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from edit_robust.core.data import Request
from edit_robust.core.errors import UserError

AnyRequest = TypeVar("AnyRequest", bound=Request)


def check_counts(order: int, **counts: int | None) -> None:
    """UserError unless `order` is 0 or more and every given count is 1 or more."""
    if order < 0:
        raise UserError(f"task.order={order} must be 0 (the file's order) or a positive seed")
    for option, n in counts.items():
        if n is not None and n < 1:
            raise UserError(f"task.{option}={n} must be at least 1")


def select(
    requests: Sequence[AnyRequest], order: int, unique_subjects: bool, n_requests: int | None, name: str
) -> list[AnyRequest]:
    """The requests an experiment makes, in its order.

    First the later requests of a subject are dropped (so that every order holds the same ones), then `order` > 0
    permutes the rest with that seed, then the first `n_requests` are taken. Raises UserError when there are fewer.
    """
    kept = list(requests)
    if unique_subjects:
        first: dict[str | None, AnyRequest] = {}
        for request in requests:
            first.setdefault(request.subject, request)
        kept = list(first.values())
    if n_requests is not None and n_requests > len(kept):
        what = "requests with distinct subjects" if unique_subjects and len(kept) < len(requests) else "requests"
        raise UserError(f"task.n_requests={n_requests} is more than there are: {name} has {len(kept)} {what}")
    if order:
        kept = [kept[i] for i in np.random.default_rng(order).permutation(len(kept))]
    return kept[:n_requests]


def not_selected(requests: Sequence[AnyRequest], selected: Sequence[Request]) -> list[AnyRequest]:
    """The requests that are about no subject of `selected`, in their order: what an editor may learn from."""
    taken = {request.subject for request in selected}
    return [request for request in requests if request.subject not in taken]
