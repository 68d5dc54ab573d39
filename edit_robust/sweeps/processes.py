"""Jobs in processes of this machine, by joblib's loky; a killed one costs its own job and no other.

joblib.Parallel puts all jobs into one pool of processes, and loses all of them with the first that is killed. Here
every place has a pool of one process. A process does one job after the other, so that libraries are loaded once.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from edit_robust.core.errors import UserError
from edit_robust.sweeps.jobs import Job, Lent, Lost, Reply, Task


@dataclass
class _Place:
    """Where one job at a time runs."""

    lent: Lent
    executor: Any = None
    job: Job | None = None
    answer: Future[Reply] | None = None


class Processes:
    """A pool (see `jobs.Pool`) with one process for each of `lent`. Raises UserError where joblib is not installed."""

    def __init__(self, lent: Sequence[Lent]) -> None:
        try:
            from joblib.externals import loky
        except ImportError as e:
            raise UserError('hydra/launcher=joblib needs joblib: pip install "edit-robust[joblib]"') from e
        self.loky = loky
        self.places = [_Place(one) for one in lent]

    def room(self) -> int:
        return sum(place.job is None for place in self.places)

    def start(self, jobs: Sequence[Job], task: Task) -> None:
        free = [place for place in self.places if place.job is None]
        for place, job in zip(free, jobs, strict=False):
            if place.executor is None:
                place.executor = self.loky.ProcessPoolExecutor(
                    1, timeout=None, env=place.lent.environment, initializer=_end_with, initargs=(os.getpid(),)
                )
            place.job = job
            with warnings.catch_warnings():
                # a process that has kept much memory is replaced between two jobs, which is as well
                warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
                place.answer = place.executor.submit(task, job, place.lent)

    def finished(self, seconds: float) -> list[tuple[Job, Reply | Lost]]:
        busy = [place for place in self.places if place.answer is not None]
        done, _ = wait([p.answer for p in busy if p.answer], timeout=seconds, return_when=FIRST_COMPLETED)
        return [self._take(place) for place in busy if place.answer in done]

    def _take(self, place: _Place) -> tuple[Job, Reply | Lost]:
        job, answer = place.job, place.answer
        assert job is not None and answer is not None
        place.job = place.answer = None
        error = answer.exception()
        if error is None:
            return job, answer.result()
        self._end(place)
        if isinstance(error, self.loky.process_executor.TerminatedWorkerError):
            return job, Lost(_why(str(error)))
        return job, Reply("failed", error=" ".join(f"{type(error).__name__}: {error}".split())[:300], code=1)

    def _end(self, place: _Place) -> None:
        if place.executor is not None:
            place.executor.shutdown(wait=True, kill_workers=True)
            place.executor = None

    def close(self, now: bool) -> None:
        for place in self.places:
            if now:
                self._end(place)
            elif place.executor is not None:
                place.executor.shutdown(wait=False)
                place.executor = None


def _end_with(parent: int) -> None:
    """Have this process end within a second of `parent`. Of a command that was killed, processes would otherwise wait
    for further jobs for ever, with their memory and the GPU's. A run that is cut off here goes on later."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _why(text: str) -> str:
    """From what loky says of a process that ended to what is likely."""
    signal = re.search(r"(SIG[A-Z]+)", text.rpartition("exit codes")[2])
    name = signal[1] if signal else ""
    hint = ", by the system for want of memory as a rule" if name == "SIGKILL" else ""
    return f"its process was killed{f' ({name}{hint})' if name else ''}"
