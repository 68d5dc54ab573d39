"""Which of the requests that a file holds an experiment makes, and which remain for training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from edit_robust.core.data import Request
from edit_robust.core.errors import UserError

AnyRequest = TypeVar("AnyRequest", bound=Request)
#: How many requests to make: a number, which must be there; `up-to-N` for at most N, as defaults are; None for all.
Count = int | str | None
_UP_TO = re.compile(r"up-to-(\d+)")


def at_most(count: Count) -> int | None:
    """The largest number of requests that a count asks for; None: all. UserError for a text other than `up-to-N`."""
    if not isinstance(count, str):
        return count
    known = _UP_TO.fullmatch(count)
    if known is None:
        raise UserError(
            f"task.n_requests={count} is a text; a whole number or null is needed, or up-to-N for at most N requests"
        )
    return int(known[1])


def check_counts(order: int, n_requests: Count = None, **counts: int | None) -> None:
    """UserError unless `order` is 0 or more and every given count is 1 or more."""
    if order < 0:
        raise UserError(f"task.order={order} must be 0 (the file's order) or a positive seed")
    for option, n in {"n_requests": at_most(n_requests), **counts}.items():
        if n is not None and n < 1:
            given = n_requests if option == "n_requests" else n
            raise UserError(f"task.{option}={given} must be at least 1")


def select(
    requests: Sequence[AnyRequest], order: int, unique_subjects: bool, n_requests: Count, name: str
) -> list[AnyRequest]:
    """The requests an experiment makes, in its order.

    First the later requests of a subject are dropped (so that every order holds the same ones), then `order` > 0
    permutes the rest with that seed, then the first `n_requests` are taken. Raises UserError when a number was given
    and there are fewer; `up-to-N` takes what there is.
    """
    kept = list(requests)
    if unique_subjects:
        first: dict[str | None, AnyRequest] = {}
        for request in requests:
            first.setdefault(request.subject, request)
        kept = list(first.values())
    if isinstance(n_requests, int) and n_requests > len(kept):
        what = "requests with distinct subjects" if unique_subjects and len(kept) < len(requests) else "requests"
        raise UserError(
            f"task.n_requests={n_requests} is more than there are: {name} has {len(kept)} {what}; "
            f"task.n_requests=up-to-{n_requests} takes what there is"
        )
    if order:
        kept = [kept[i] for i in np.random.default_rng(order).permutation(len(kept))]
    return kept[: at_most(n_requests)]


def not_selected(requests: Sequence[AnyRequest], selected: Sequence[Request]) -> list[AnyRequest]:
    """The requests that are about no subject of `selected`, in their order: what an editor may learn from."""
    taken = {request.subject for request in selected}
    return [request for request in requests if request.subject not in taken]
