"""How many threads a process computes with.

One process uses as many as it may; jobs of a sweep that run side by side share the cores; a model whose operations are
small uses few, since threads that wait for each other on busy cores cost far more than they bring: a value optimisation
of the built-in model took 7 s on one thread and 112 s on two while other jobs ran on both cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edit_robust.core.errors import UserError

_GIVEN = "EDIT_ROBUST_OMP_NUM_THREADS"
#: Environment variable: how many cores the launcher of a sweep has lent to this job.
LENT = "EDIT_ROBUST_CORES"


def prepare_environment() -> None:
    """To be called before OpenMP is loaded (with torch): threads that have nothing to do sleep, and do not spin; and
    processes started from here can tell an OMP_NUM_THREADS that the user gave from one that a launcher sets."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault(_GIVEN, os.environ.get("OMP_NUM_THREADS", ""))


def given_threads() -> dict[str, str]:
    """What `prepare_environment` noted, for processes that do not inherit the environment (on other machines)."""
    return {name: os.environ[name] for name in (_GIVEN, "OMP_WAIT_POLICY") if name in os.environ}


def lent() -> int | None:
    """Cores that a sweep's launcher has lent to this job; None for one that was not started by a launcher."""
    said = os.environ.get(LENT, "")
    return int(said) if said.isdigit() and int(said) else None


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Threads:
    """What a run may use. wanted: a number; None: as many as make sense.  jobs: that run at once on the machine."""

    wanted: int | None = None
    jobs: int = 1

    @staticmethod
    def of(option: object, jobs: int = 1) -> Threads:
        """From the option `threads`: auto, or a number. UserError for anything else."""
        if option == "auto":
            return Threads(None, jobs)
        if isinstance(option, bool) or not isinstance(option, int) or option < 1:
            raise UserError(f"threads={option} must be auto or a number of at least 1")
        return Threads(option, jobs)

    def count(self, useful: int | None = None) -> tuple[int, str]:
        """How many, and why. useful: as many as a model's operations keep busy; None: any number.

        A number that was given counts as it is; then what OMP_NUM_THREADS says; then the cores that a launcher has
        lent to this job, or the cores over the jobs at once.
        """
        if self.wanted is not None:
            return self.wanted, "threads"
        given = os.environ.get(_GIVEN, os.environ.get("OMP_NUM_THREADS", "")).partition(",")[0].strip()
        if given.isdigit() and int(given):
            return int(given), "OMP_NUM_THREADS"
        own = lent()
        share = own or max(1, cores() // self.jobs)
        if useful is not None and useful < share:
            return useful, "small model"
        if own:
            return share, "cores lent by the launcher"
        return share, f"{cores()} cores" + (f", {self.jobs} jobs at once" if self.jobs > 1 else "")

    def use(self, useful: int | None = None) -> str:
        """Compute with so many from now on; what the run's status says about it."""
        import torch

        n, why = self.count(useful)
        torch.set_num_threads(n)
        return f"{n} ({why})"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block so many; afterwards as many as before."""
        import torch

        before = torch.get_num_threads()
        self.use()
        try:
            yield
        finally:
            torch.set_num_threads(before)
