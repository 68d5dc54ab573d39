"""What a sweep is made of: jobs, what a job is lent to compute with, and what became of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from edit_robust.core.threads import LENT

#: Libraries of linear algebra that would otherwise take all cores in every process.
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One combination of a sweep. number: its place in the sweep.   overrides: all of its options.

    title: what tells it from the others, for people.
    """

    number: int
    overrides: tuple[str, ...]
    title: str = ""

    @staticmethod
    def of(number: int, overrides: Sequence[str], command: Sequence[str] = ()) -> Job:
        """command: the options of the sweep's command line; those with one value there are left out of the title."""
        fixed = {o.partition("=")[0] for o in command if not re.search(r"[,(*]", o.partition("=")[2])}
        own = [o for o in overrides if o.partition("=")[0] not in fixed and not o.lstrip("+~").startswith("hydra")]
        return Job(number, tuple(overrides), " ".join(own) or f"job {number}")


@dataclass(frozen=True)
class Lent:
    """cores: of the processor; None: all there are.   gpus: as CUDA_VISIBLE_DEVICES names them; None: as it stands."""

    cores: int | None = None
    gpus: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that computes with no more than this.

        What the user has said of threads stays; `Threads` tells it from what stands here.
        """
        found = {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": self.gpus}
        if self.cores is not None:
            found |= {name: os.environ.get(name) or str(self.cores) for name in _POOLS}
            found[LENT] = str(self.cores)
        return found


@dataclass(frozen=True)
class Reply:
    """What a job says at its end.

    state: `busy` where another process is at the same run.   value: what it returns to whoever chose its options.
    run: the run's id.   error: one line.   code: the exit code that the error stands for.
    """

    state: Literal["done", "failed", "busy"]
    value: Any = None
    run: str = ""
    error: str = ""
    code: int = 0


@dataclass(frozen=True)
class Lost:
    """A job's process ended without a word. why: what is known of it."""

    why: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job in the end. tries: how often it was begun; state: as a reply's, or `lost`."""

    job: Job
    state: Literal["done", "failed", "lost"]
    tries: int = 1
    value: Any = None
    run: str = ""
    error: str = ""
    code: int = 0


#: What a pool calls, in another process: it is pickled.
Task = Callable[[Job, Lent], Reply]


class Pool(Protocol):
    """Where jobs run. It is asked from one thread."""

    def room(self) -> int:
        """How many jobs can be started now."""
        ...

    def start(self, jobs: Sequence[Job], task: Task) -> None:
        """Start so many jobs, no more than there is room."""
        ...

    def finished(self, seconds: float) -> list[tuple[Job, Reply | Lost]]:
        """Wait so long for jobs to end -> those that have; none where all are still at work."""
        ...

    def close(self, now: bool) -> None:
        """Give back what was taken. now: end the jobs that are still at work, too."""
        ...
