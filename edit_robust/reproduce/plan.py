"""Which runs an item takes, how long these take, and how far they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from edit_robust.config.grid import grid, id_of
from edit_robust.core.errors import UserError
from edit_robust.core.files import write_text
from edit_robust.reproduce.catalogue import BUILTIN, Item, Sweep, read
from edit_robust.runs.reader import Run

#: Jobs that run beside each other unless the command line says otherwise.
WORKERS = 2


@dataclass(frozen=True)
class Job:
    """One run. options: of `edit-robust run`.   sweep: the command line it is part of.   name: its id, where known."""

    options: tuple[str, ...]
    sweep: Sweep = ()
    name: str = ""

    @cached_property
    def id(self) -> str:
        """The name of its folder. Where it is not known yet its config is composed: a tenth of a second."""
        return self.name or id_of(self.options)


@dataclass(frozen=True)
class Plan:
    """How an item is to be made. overrides: the command line's own, which come after those of the sweeps."""

    item: Item
    scale: str = BUILTIN
    quick: bool = False
    overrides: tuple[str, ...] = ()
    data: str = "data"

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """Its command lines."""
        return tuple((*one, *self.overrides) for one in self.item.sweeps(self.scale, self.quick, self.data))

    @property
    def jobs(self) -> list[Job]:
        """Every run, each once, in the order in which they are made."""
        return _each_once((job for sweep in self.sweeps for job in jobs_of(sweep)), self.scale)

    @property
    def note(self) -> str:
        """What a quick figure says of itself; "" where nothing was left out."""
        return f"Quick look: {self.item.family.quick_words}" if self.quick else ""


@cache
def jobs_of(sweep: Sweep) -> tuple[Job, ...]:
    """The runs of one command line."""
    return tuple(Job(tuple(job), sweep) for job in grid([o for o in sweep if not _of_hydra(o)]))


def _of_hydra(option: str) -> bool:
    """Whether an option says where jobs run, and nothing of what they do."""
    return option.lstrip("+~").startswith("hydra")


def union(plans: Iterable[Plan]) -> list[Job]:
    """The runs of several items, each once: what figures share is made once."""
    plans = list(plans)
    scale = plans[0].scale if plans else BUILTIN
    return _each_once((job for plan in plans for job in plan.jobs), scale)


def _each_once(jobs: Iterable[Job], scale: str) -> list[Job]:
    """Each run once. Built-in figures name the same run by different experiments; those of the papers' grids do not,
    and need not be composed to be told apart."""
    return list({(job.id if scale == BUILTIN else job.options): job for job in jobs}.values())


def part_of(jobs: Sequence[Job], part: str) -> list[Job]:
    """The part `3/16` of a list of jobs: every sixteenth, from the third on. All parts together are the list.

    Raises UserError for anything but two numbers, the first from 1 to the second.
    """
    first, _, second = part.partition("/")
    if not (first.strip().isdigit() and second.strip().isdigit() and 1 <= int(first) <= int(second)):
        raise UserError(f"--part {part} must be two numbers like 3/16, the first from 1 to the second")
    return list(jobs[int(first) - 1 :: int(second)])


def complete(job: Job, outputs: Path) -> bool:
    """Whether a run is finished."""
    return Run(outputs / "runs" / job.id).complete


# -- time --------------------------------------------------------------------------------------------------------------


@cache
def measured() -> list[dict[str, Any]]:
    """Processor seconds of single runs: measured.yaml."""
    return list(read("measured.yaml")["runs"])


def seconds(family: str, options: Sequence[str], quick: bool) -> dict[str, Any] | None:
    """What is known of the processor seconds of a family's run with these options; None: none like it was timed."""
    editor = dict(o.split("=", 1) for o in options if "=" in o).get("editor")
    own = [one for one in measured() if (one["family"], one["quick"]) == (family, quick)]
    found = [one for one in own if one["editor"] == editor or (editor is None and one.get("default"))]
    return found[0] if found else None


def minutes(plans: Sequence[Plan]) -> float | None:
    """Minutes that items take on WORKERS idle cores, runs that they share counted once; None where not timed.

    What a model needs once (`once`, MEND's training) counts once a model.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for plan in plans:
        own = plan.item.family.name
        for sweep in plan.sweeps:
            for job in grid([o for o in sweep if not _of_hydra(o)]):
                key = " ".join(sorted(o for o in job if not o.startswith("experiment="))) + f" {own}"
                found[key] = seconds(own, job, plan.quick)
    if None in found.values():
        return None
    once = {
        (one["editor"], next((o for o in key.split() if o.startswith("model=")), "")): float(one["once"])
        for key, one in found.items()
        if one and "once" in one
    }
    autopsies = float(read("measured.yaml")["autopsies"][plans[0].quick]) if any(p.item.autopsy for p in plans) else 0.0
    total = sum(float(one["seconds"]) for one in found.values() if one) + sum(once.values()) + autopsies
    return total / WORKERS / 60


# -- how far it is -----------------------------------------------------------------------------------------------------


def folder(outputs: Path, item: Item) -> Path:
    """Where a paper's figures, tables and notes lie."""
    return outputs / "reproduce" / item.paper.name


def note_plan(outputs: Path, plan: Plan, drawn: Sequence[Path] = ()) -> None:
    """Keep what an item was last made from: it tells `--list` how far it is."""
    file = folder(outputs, plan.item) / f"{plan.item.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    told = {
        **{k: v for k, v in asdict(plan).items() if k != "item"},
        "runs": [job.id for job in plan.jobs],
        "drawn": [path.name for path in drawn],
    }
    write_text(file, json.dumps(told, indent=1))


def state(outputs: Path, item: Item) -> str:
    """`drawn`, `drawn (quick)`, `12 of 16 runs`, or `-` for one that was not begun."""
    file = folder(outputs, item) / f"{item.name}.json"
    if not file.is_file():
        return "-"
    told = json.loads(file.read_text())
    quick = " (quick)" if told["quick"] else ""
    if told["drawn"] and all((file.parent / name).is_file() for name in told["drawn"]):
        return f"drawn{quick}"
    done = sum(Run(outputs / "runs" / name).complete for name in told["runs"])
    missing = len(told["runs"]) - done
    return f"{missing} of {len(told['runs'])} runs missing{quick}" if missing else f"runs made, not drawn{quick}"
