"""Jobs as tasks of a Ray cluster, which hands out processors and GPUs of all its machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edit_robust.core.errors import UserError
from edit_robust.sweeps.jobs import Job, Lent, Lost, Reply, Task
from edit_robust.sweeps.submitted import UNBOUNDED


class OnRay:
    """A pool (see `jobs.Pool`). Raises UserError where Ray is not installed or its cluster cannot be reached.

    init: of `ray.init`: `address` of a cluster (auto: the one of this machine), null for one that lives as long as the
    sweep. Ray that runs in this process already is used as it is.   options: of every task (`resources`, ...).
    cpus, gpus: of each job; None: see `share`.   jobs_per_gpu: that share one.   use_gpus: False for jobs on the
    processor.
    """

    def __init__(
        self,
        init: Mapping[str, Any],
        options: Mapping[str, Any],
        cpus: int | None = None,
        jobs_per_gpu: int = 1,
        use_gpus: bool = True,
    ) -> None:
        try:
            import ray
        except ImportError as e:
            raise UserError('hydra/launcher=ray needs Ray: pip install "edit-robust[ray]"') from e
        if jobs_per_gpu < 1:
            raise UserError(f"hydra.launcher.jobs_per_gpu={jobs_per_gpu} must be at least 1")
        self.ray: Any = ray
        self.own = not ray.is_initialized()
        if self.own:
            try:
                ray.init(**{"include_dashboard": False, "logging_level": "ERROR", **init})
            except (ConnectionError, ValueError, RuntimeError) as e:
                raise UserError(
                    f"hydra.launcher.init.address={init.get('address')}: {' '.join(str(e).split())[:200]}"
                ) from e
        self.cpus, self.gpus = share(ray.nodes(), cpus, jobs_per_gpu, use_gpus)
        self.options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0, **options}
        self.running: dict[Any, Job] = {}

    def room(self) -> int:
        return UNBOUNDED

    def start(self, jobs: Sequence[Job], task: Task) -> None:
        remote = self.ray.remote(_call).options(**self.options)
        kept = self.ray.put(task)
        for job in jobs:
            self.running[remote.remote(kept, job, Lent(self.cpus))] = job

    def finished(self, seconds: float) -> list[tuple[Job, Reply | Lost]]:
        ended, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        return [(self.running.pop(one), self._answer(one)) for one in ended]

    def _answer(self, one: Any) -> Reply | Lost:
        from ray import exceptions

        try:
            return self.ray.get(one)
        except exceptions.RayTaskError as e:
            return Reply("failed", error=" ".join(str(e).strip().splitlines()[-1].split())[:300], code=1)
        except exceptions.OutOfMemoryError:
            return Lost("its process was killed by Ray for want of memory")
        except (exceptions.WorkerCrashedError, exceptions.ActorDiedError):
            return Lost("its process was killed")
        except exceptions.RayError as e:  # a machine that is gone, an object that went with it
            return Lost(f"Ray lost it ({type(e).__name__})")

    def close(self, now: bool) -> None:
        if now:
            for one in self.running:
                self.ray.cancel(one, force=True)
        self.running = {}
        if self.own:
            self.ray.shutdown()


def _call(task: Task, job: Job, lent: Lent) -> Reply:
    """At module level, for Ray to find on other machines."""
    return task(job, lent)


def share(nodes: Sequence[Mapping[str, Any]], cpus: int | None, jobs_per_gpu: int, use_gpus: bool) -> tuple[int, float]:
    """Processors and GPUs of each job: `ray.nodes()` -> (num_cpus, num_gpus).

    Where there are GPUs a job gets one, or its part of one, and as many processors as the machine with the fewest to a
    job has; without GPUs one processor, as nothing says how many jobs there should be at once.
    """
    alive = [dict(node.get("Resources") or {}) for node in nodes if node.get("Alive", node.get("alive"))]
    places = [(r.get("CPU", 0.0), r["GPU"] * jobs_per_gpu) for r in alive if use_gpus and r.get("GPU")]
    if cpus is None:
        cpus = max(1, min((int(cores // jobs) for cores, jobs in places), default=1))
    if cpus < 1:
        raise UserError(f"hydra.launcher.cpus_per_job={cpus} must be at least 1")
    most = max((r.get("CPU", 0.0) for r in alive), default=0.0)
    if cpus > most:
        raise UserError(f"hydra.launcher.cpus_per_job={cpus}: no machine of the Ray cluster has more than {most:g}")
    return cpus, 1.0 / jobs_per_gpu if places else 0.0
