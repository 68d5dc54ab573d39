"""Jobs handed to submitit: processes of this machine that outlive the command, or jobs of a SLURM cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edit_robust.core.errors import UserError
from edit_robust.sweeps.jobs import Job, Lent, Lost, Reply, Task
from edit_robust.sweeps.processes import Processes
from edit_robust.sweeps.schedule import run_jobs

#: Jobs that a cluster takes at once: any number.
UNBOUNDED = 1 << 30
#: What states of SLURM mean, where no answer came back.
STATES = {
    "OUT_OF_MEMORY": "it was killed for want of memory: a larger hydra.launcher.mem_gb helps",
    "TIMEOUT": "its time was over: hydra.launcher.timeout_min",
    "NODE_FAIL": "its machine failed",
    "CANCELLED": "it was cancelled",
    "PREEMPTED": "it was preempted",
}


@dataclass(frozen=True)
class Submission:
    """What submitit calls, in a process of its own: some jobs at once, as a rule one.

    SLURM tells a job that its time is over a little before it is: it is queued again as it is then, as often as
    `max_num_timeout` says, and goes on where it stood, as every run does.
    """

    task: Task
    jobs: tuple[Job, ...]
    lent: Lent
    retries: int = 0

    def __call__(self) -> list[Reply | Lost]:
        if len(self.jobs) == 1:
            return [self.task(self.jobs[0], self.lent)]
        share = max(1, (self.lent.cores or 1) // len(self.jobs))
        places = Processes([Lent(share, self.lent.gpus)] * len(self.jobs))
        return [
            Lost(o.error) if o.state == "lost" else Reply(o.state, o.value, o.run, o.error, o.code)
            for o in run_jobs(self.jobs, self.task, places, self.retries)
        ]

    def checkpoint(self) -> Any:
        """What is queued again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Submitted:
    """A pool (see `jobs.Pool`) of submitit. Raises UserError where submitit, or SLURM, is not there.

    cluster: local or slurm.   folder: where pickles and logs lie, shared by all machines.   settings: of submitit's
    executor.   lent: what each of the jobs that run at once gets, for `local`; one for all, for `slurm`, which lends
    itself.   together: so many jobs make one of the cluster's, which shares its GPU among them.
    """

    def __init__(
        self,
        cluster: str,
        folder: str,
        settings: Mapping[str, Any],
        lent: Sequence[Lent],
        max_num_timeout: int = 0,
        together: int = 1,
        retries: int = 0,
    ) -> None:
        try:
            import submitit
        except ImportError as e:
            raise UserError(
                f'hydra/launcher=submitit_{cluster} needs submitit: pip install "edit-robust[submitit]"'
            ) from e
        self.local, self.together, self.retries = cluster == "local", together, retries
        self.free = list(lent)
        self.running: list[tuple[Any, tuple[Job, ...], Lent]] = []
        given = {k: v for k, v in settings.items() if v is not None}
        try:
            self.executor = submitit.AutoExecutor(folder, cluster, **{f"{cluster}_max_num_timeout": max_num_timeout})
            self.executor.update_parameters(**given)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as e:
            raise UserError(f"hydra/launcher=submitit_{cluster}: {' '.join(str(e).split())[:300]}") from e

    def room(self) -> int:
        return len(self.free) if self.local else UNBOUNDED

    def start(self, jobs: Sequence[Job], task: Task) -> None:
        packs = [tuple(jobs[i : i + self.together]) for i in range(0, len(jobs), self.together)]
        lent = [self.free.pop(0) for _ in packs] if self.local else [self.free[0]] * len(packs)
        calls = [Submission(task, pack, one, self.retries) for pack, one in zip(packs, lent, strict=True)]
        if self.local or len(calls) == 1:
            handles = [self.executor.submit(call) for call in calls]
        else:
            with self.executor.batch():  # one array of jobs
                handles = [self.executor.submit(call) for call in calls]
        self.running += list(zip(handles, packs, lent, strict=True))

    def finished(self, seconds: float) -> list[tuple[Job, Reply | Lost]]:
        until = time.monotonic() + seconds
        while True:
            ended = [entry for entry in self.running if entry[0].done()]
            if ended or time.monotonic() > until:
                break
            time.sleep(0.05 if self.local else 1.0)
        found: list[tuple[Job, Reply | Lost]] = []
        for entry in ended:
            self.running.remove(entry)
            handle, jobs, lent = entry
            if self.local:
                self.free.append(lent)
            found += list(zip(jobs, self._answers(handle, len(jobs)), strict=True))
        return found

    def _answers(self, handle: Any, n: int) -> list[Reply | Lost]:
        """What a job of submitit's gave back, or why it did not."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        if self.local and not handle.paths.result_pickle.exists():
            return [Lost(f"its process was killed; its log is {handle.paths.stderr}")] * n
        try:
            return list(handle.result())
        except FailedJobError as e:  # one of the next, too
            last = str(e).strip().splitlines()
            error = next((line for line in reversed(last) if "Error" in line), last[0])
            return [Reply("failed", error=f"{error}; its log is {handle.paths.stderr}", code=1)] * n
        except UncompletedJobError:
            word = str(handle.state).partition(" ")[0].rstrip("+")
            why = STATES.get(word, f"it ended without an answer ({word.lower()})")
            return [Lost(f"{why}; its log is {handle.paths.stderr}")] * n

    def close(self, now: bool) -> None:
        """Jobs of a cluster go on by themselves: the command, given again, finds what they have done."""
        if now and self.local:
            for handle, _, _ in self.running:
                handle.cancel(check=False)
        self.running = []
