"""What this machine has to share out among jobs, and who gets what."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from edit_robust.core.errors import UserError
from edit_robust.core.threads import cores
from edit_robust.sweeps.jobs import Lent


@dataclass(frozen=True)
class Gpu:
    """name: as CUDA_VISIBLE_DEVICES takes it.   gb: its memory in GiB; None: not known."""

    name: str
    gb: float | None = None


def gpus() -> list[Gpu]:
    """GPUs that this process may use: those of CUDA_VISIBLE_DEVICES where it is set, else all. Loads no torch."""
    memory = _memory()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [Gpu(name, gb) for name, gb in memory.items() if name.isdigit()]
    names = [n.strip() for n in visible.split(",") if n.strip() and n.strip() != "-1"]
    return [Gpu(n, memory.get(n)) for n in names]


def _memory() -> dict[str, float]:
    """Index and UUID of every GPU -> its memory in GiB; {} where the driver's tool is missing or does not answer."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, float] = {}
    for line in said.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[2].replace(".", "").isdigit():
            found |= {name: float(parts[2]) / 1024 for name in parts[:2]}
    return found


def per_gpu(gpu: Gpu, jobs: int, gb: float | None) -> int:
    """How many jobs share a GPU: `jobs`, or as many of `gb` GiB as fit into its memory. UserError where none does."""
    if jobs < 1:
        raise UserError(f"hydra.launcher.jobs_per_gpu={jobs} must be at least 1")
    if gb is None:
        return jobs
    if gb <= 0:
        raise UserError(f"hydra.launcher.gpu_memory_gb={gb} must be more than 0")
    if gpu.gb is None:
        raise UserError(f"how much memory GPU {gpu.name} has is not known: give hydra.launcher.jobs_per_gpu instead")
    if gpu.gb < gb:
        raise UserError(f"hydra.launcher.gpu_memory_gb={gb:g} is more than GPU {gpu.name} has, {gpu.gb:.1f} GiB")
    return int(gpu.gb // gb)


def slots(
    found: Sequence[Gpu],
    n_jobs: int,
    jobs_per_gpu: int = 1,
    gpu_memory_gb: float | None = None,
    at_most: int | None = None,
) -> tuple[list[Lent], str]:
    """What each of the jobs that run at once is lent, and a line about it.

    With GPUs as many jobs as there are places on them, without as many as cores; `n_jobs` makes it fewer, or without
    GPUs more (-1: as many as there are places, -2: one fewer, ...), and never more than `at_most`. Cores are shared
    equally, at least one each.
    """
    many = cores()
    places = [gpu for gpu in found for _ in range(per_gpu(gpu, jobs_per_gpu, gpu_memory_gb))]
    room = len(places) or many
    if n_jobs == 0:
        raise UserError("hydra.launcher.n_jobs=0: give how many jobs run at once, or -1 for as many as there is room")
    wanted = max(1, room + 1 + n_jobs) if n_jobs < 0 else n_jobs
    count = min(wanted, room) if places else wanted
    count = max(1, min(count, count if at_most is None else at_most))
    share = max(1, many // count)
    spread = _spread(places, count) if places else [None] * count
    lent = [Lent(share, gpu.name if gpu else None) for gpu in spread]
    on = f" on {len(found)} GPU{'s' * (len(found) > 1)}" if found else ""
    few = f" (n_jobs={n_jobs} is more than there are places on them)" if places and n_jobs > room else ""
    return lent, f"{count} job{'s' * (count > 1)} at once{on}{few}, {share} core{'s' * (share > 1)} each"


def _spread(places: Sequence[Gpu], count: int) -> Sequence[Gpu | None]:
    """The first `count` places, one a GPU before any GPU gets a second job."""
    rounds: dict[str, int] = {}
    order: list[tuple[int, int, Gpu]] = []
    for place in places:
        rounds[place.name] = rounds.get(place.name, -1) + 1
        order.append((rounds[place.name], len(order), place))
    return [place for _, _, place in sorted(order, key=lambda entry: entry[:2])][:count]
