"""What a config will take before it runs: memory, disk and time. No weight is loaded, and no network asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_robust.estimate.costs import Item, disk, memory, peak
from edit_robust.estimate.plan import Plan, plan_of
from edit_robust.estimate.sizes import Sizes, sizes_of
from edit_robust.estimate.time import Speed, Stretch, from_arithmetic, from_run, like

__all__ = ["Estimate", "Item", "Plan", "Sizes", "Speed", "Stretch", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """memory, disk: items in bytes.   time: stretches in seconds.   unknown: what cannot be said, in words.

    plan: edits, edited matrices, arithmetic; None where the model's size is unknown.
    """

    plan: Plan | None
    memory: tuple[Item, ...]
    disk: tuple[Item, ...]
    time: tuple[Stretch, ...]
    unknown: tuple[str, ...]

    @property
    def peak_bytes(self) -> float:
        """The most memory of any phase, without the program itself (about 1 GB with torch and its libraries)."""
        return peak(list(self.memory))

    @property
    def disk_bytes(self) -> float:
        """Everything that is written."""
        return sum(item.size for item in self.disk)

    @property
    def seconds(self) -> float | None:
        """All that is known of the time; None where some of it is not."""
        known = [one.seconds for one in self.time if one.seconds is not None]
        return sum(known) if known and len(known) == len(self.time) else None

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON: bytes and seconds."""
        plan = self.plan
        return {
            "edits": plan.n if plan else None,
            "parameters": plan.sizes.parameters if plan else None,
            "edited": [list(shape) for shape in plan.edited] if plan else None,
            "peak_memory_bytes": self.peak_bytes if plan else None,
            "disk_bytes": self.disk_bytes if plan else None,
            "seconds": self.seconds,
            "memory": [vars(item) for item in self.memory],
            "disk": [vars(item) for item in self.disk],
            "time": [vars(one) for one in self.time],
            "unknown": list(self.unknown),
        }


def estimate(values: Mapping[str, Any], outputs: Path | None = None, speed: Speed | None = None) -> Estimate:
    """Memory, disk and time of a checked config (`config.check.check`).

    outputs: where a finished run like it may lie, whose seconds are then taken.   speed: of the machine that it is to
    run on; None measures this one. A GPU's hours: `Speed(flops=19.5e12, bandwidth=1.5e12, about="an A100")`.
    """
    sizes = sizes_of(values)
    if isinstance(sizes, str):
        return Estimate(None, (), (), (), (sizes,))
    plan = plan_of(values, sizes)
    run = like(values, outputs) if outputs is not None else None
    time = from_run(plan, run) if run is not None else from_arithmetic(plan, values, speed or Speed.here())
    unknown = [f"the time of {one.what}: {one.how}" for one in time if one.seconds is None]
    if plan.n is None:
        unknown.insert(0, "how many edits: task.n_requests=N says it")
    return Estimate(plan, tuple(memory(plan, values)), tuple(disk(plan, values)), tuple(time), tuple(unknown))
