"""How many jobs of a sweep run on one machine at once: what Hydra's launcher was told."""

from __future__ import annotations

from typing import Any

from edit_robust.core.threads import cores


def jobs_at_once() -> int:
    """Of the sweep that this job belongs to; 1 for a job that runs alone or has a machine, or cores, of its own."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized():
        return 1
    hydra = HydraConfig.get()
    return of_launcher(hydra.launcher) if hydra.mode == RunMode.MULTIRUN else 1


def of_launcher(launcher: Any) -> int:
    """Of launchers that say no more than how many: Hydra's own for joblib and submitit on one machine. Ours lend each
    job its cores (`core.threads.lent`), as SLURM and Ray do."""
    target = str(launcher.get("_target_", ""))
    if "edit_robust" in target:
        return 1
    if "joblib" in target.lower():
        n = launcher.get("n_jobs")
        n = -1 if n is None else int(n)
        return max(1, cores() + 1 + n if n < 0 else n)
    if "LocalLauncher" in target:
        return max(1, int(launcher.get("array_parallelism") or 1))
    return 1
