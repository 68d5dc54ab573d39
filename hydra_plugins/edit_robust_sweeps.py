"""The launchers and the sweeper of edit-robust, at the place where Hydra looks for them (see conf/hydra).

They import nothing but Hydra until a sweep asks for them: Hydra loads this file in every program that uses it.
"""

from __future__ import annotations

from typing import Any

from edit_robust.config.launchers import SweepLauncher, plain
from edit_robust.config.searching import SearchSweeper


class Joblib(SweepLauncher):
    """Processes of this machine, by joblib. See conf/hydra/launcher/joblib.yaml for the options."""

    def __init__(
        self, n_jobs: int = -1, jobs_per_gpu: int = 1, gpu_memory_gb: float | None = None, retries: int = 1
    ) -> None:
        super().__init__(retries)
        self.options = (n_jobs, jobs_per_gpu, gpu_memory_gb)

    def pool(self, n: int) -> Any:
        from edit_robust.sweeps.machine import gpus, slots
        from edit_robust.sweeps.processes import Processes

        lent, about = slots(gpus() if self.on_gpus else [], *self.options, at_most=n)
        return Processes(lent), about


class SubmititLocal(SweepLauncher):
    """Processes of this machine that outlive the command, by submitit. See conf/hydra/launcher/submitit_local.yaml."""

    def __init__(
        self,
        submitit_folder: str,
        n_jobs: int = -1,
        jobs_per_gpu: int = 1,
        gpu_memory_gb: float | None = None,
        retries: int = 1,
        max_num_timeout: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(retries)
        self.options = (n_jobs, jobs_per_gpu, gpu_memory_gb)
        self.folder, self.max_num_timeout = submitit_folder, max_num_timeout
        self.settings = {name: plain({"": value})[""] for name, value in settings.items()}

    def pool(self, n: int) -> Any:
        from edit_robust.sweeps.machine import gpus, slots
        from edit_robust.sweeps.submitted import Submitted

        lent, about = slots(gpus() if self.on_gpus else [], *self.options, at_most=n)
        return Submitted("local", self.folder, self.settings, lent, self.max_num_timeout), about


#: Settings that submitit knows for every cluster; the others are SLURM's.
_SHARED = (
    *("name", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes"),
    *("stderr_to_stdout",),
)


class SubmititSlurm(SweepLauncher):
    """Jobs of a SLURM cluster, by submitit. See conf/hydra/launcher/submitit_slurm.yaml for the options."""

    def __init__(
        self,
        submitit_folder: str,
        jobs_per_gpu: int = 1,
        retries: int = 1,
        max_num_timeout: int = 0,
        cpus_per_task: int | None = None,
        gpus_per_node: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(retries)
        self.folder, self.together, self.max_num_timeout = submitit_folder, jobs_per_gpu, max_num_timeout
        self.cores, self.gpus_per_node = cpus_per_task, gpus_per_node
        self.settings = {name: plain({"": value})[""] for name, value in settings.items()}

    def pool(self, n: int) -> Any:
        from edit_robust.sweeps.jobs import Lent
        from edit_robust.sweeps.submitted import Submitted

        gpus = self.gpus_per_node if self.on_gpus else None
        settings = {**self.settings, "cpus_per_task": self.cores, "gpus_per_node": gpus}
        named = {k if k in _SHARED else f"slurm_{k}": v for k, v in settings.items()}
        pool = Submitted(
            "slurm", self.folder, named, [Lent(self.cores)], self.max_num_timeout, self.together, self.retries
        )
        many = -(-n // self.together)
        return pool, f"{many} job{'s' * (many > 1)} of SLURM, {self.cores or '?'} cores and {gpus or 0} GPUs each"


class Ray(SweepLauncher):
    """Tasks of a Ray cluster. See conf/hydra/launcher/ray.yaml for the options."""

    def __init__(
        self,
        init: Any = None,
        remote: Any = None,
        cpus_per_job: int | None = None,
        jobs_per_gpu: int = 1,
        retries: int = 1,
    ) -> None:
        super().__init__(retries)
        self.init, self.remote = plain(init), plain(remote)
        self.cpus_per_job, self.jobs_per_gpu = cpus_per_job, jobs_per_gpu

    def pool(self, n: int) -> Any:
        from edit_robust.sweeps.on_ray import OnRay

        pool = OnRay(self.init, self.remote, self.cpus_per_job, self.jobs_per_gpu, self.on_gpus)
        part = f"{pool.gpus:g} GPU, " if pool.gpus else ""
        return pool, f"{n} jobs on Ray, {part}{pool.cpus} core{'s' * (pool.cpus > 1)} each"


class Optuna(SearchSweeper):
    """Optuna chooses what to try next. See conf/hydra/sweeper/optuna.yaml for the options."""
