"""How often to write down what could be made again after a kill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Bytes a second that a disk is thought to take, until it has been seen to take more or fewer.
DISK = 2e8


@dataclass
class Pace:
    """Says when to write, so that writing takes at most `share` of the time.

    cost:     seconds that writing takes: an estimate at first, then what it took the last time.
    at_least: seconds of work between two times of writing, however little it costs.
    """

    cost: float
    at_least: float = 0.0
    share: float = 0.05

    @staticmethod
    def for_bytes(n: int, at_least: float = 0.0) -> Pace:
        """The pace for files of `n` bytes together, on a disk that is not known yet."""
        return Pace(n / DISK, at_least)

    def due(self, worked: float) -> bool:
        """Whether to write now, `worked` seconds of work after the last time."""
        return worked >= max(self.at_least, self.cost / self.share)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside the block something is written; how long it takes is the cost from now on."""
        start = time.perf_counter()
        yield
        self.cost = time.perf_counter() - start
