"""Items made in a thread while the one before is used, and several made side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items; the next one is made in a thread while this one is used. Errors come where the item would."""
    end = object()
    with ThreadPoolExecutor(1, "edit-robust-images") as thread:
        following = thread.submit(next, items, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield item  # type: ignore[misc]


@contextmanager
def hands(workers: int) -> Iterator[Executor | None]:
    """Threads for `gathered`; none of them for 0."""
    if not workers:
        yield None
        return
    with ThreadPoolExecutor(workers, "edit-robust-decoder") as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # of an error, nothing goes on


def gathered(make: Callable[[A], T], items: Iterable[A], pool: Executor | None) -> list[T]:
    """make(item) of every item, in their order, made by the pool's threads side by side; None: one after the other.

    The error that is raised is that of the first item with one.
    """
    return [make(item) for item in items] if pool is None else list(pool.map(make, items))
