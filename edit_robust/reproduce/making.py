"""Make the runs of items: sweeps through the same door as `edit-robust run`, autopsies where a table needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from edit_robust.config import launch
from edit_robust.config.compose import compose
from edit_robust.core.errors import UserError
from edit_robust.core.threads import cores
from edit_robust.evaluate.collapse import piles_up
from edit_robust.figures.frame import RunData
from edit_robust.messages import Ui
from edit_robust.reproduce.plan import WORKERS, Job, Plan, complete, jobs_of
from edit_robust.runs.reader import Run

Say = Callable[[str], None]
#: What runs of a reproduction leave out unless the command line says otherwise: their own pages, and mirrors.
PLAIN = ("figures=false", "tracker=none")


@dataclass(frozen=True)
class Made:
    """What became of an item's runs. runs: those that are complete.   missing: how many are not."""

    plan: Plan
    runs: tuple[RunData, ...]
    missing: int


def make(plans: Sequence[Plan], outputs: Path, say: Say) -> list[BaseException]:
    """Run, or go on with, every sweep that the items need; what is finished is not asked again.

    Returns what went wrong in single jobs: the other jobs went on.
    """
    failures: list[BaseException] = []
    for sweep in dict.fromkeys(sweep for plan in plans for sweep in plan.sweeps):
        jobs = jobs_of(sweep)
        left = [job for job in jobs if not complete(job, outputs)]
        if not left:
            continue
        say(f"{len(left)} of {len(jobs)} runs to make: edit-robust run {' '.join(sweep)}")
        several = [*launcher(sweep, len(left)), "hydra.mode=MULTIRUN"] if len(jobs) > 1 else ["hydra.mode=RUN"]
        try:
            failures += _launched([*PLAIN, *several, *sweep, f"paths.outputs={outputs}"])
        except UserError:
            raise
        except Exception as e:  # a launcher that gives its sweep up; every job has said by itself what went wrong
            failures.append(e)
    return failures


def make_jobs(jobs: Sequence[Job], outputs: Path, say: Say) -> list[BaseException]:
    """Run, or go on with, single jobs one after the other: a part of a list that was split."""
    failures: list[BaseException] = []
    for number, job in enumerate(jobs, 1):
        if not complete(job, outputs):
            say(f"{number} of {len(jobs)}: {job.id}")
            failures += _launched([*PLAIN, "hydra.mode=RUN", *job.options, f"paths.outputs={outputs}"])
    return failures


def _launched(options: Sequence[str]) -> list[BaseException]:
    """Hand a command line to Hydra; of an option that stands there twice the last counts."""
    last: dict[str, str] = {}
    for option in options:
        last[option.lstrip("+~").partition("=")[0].partition("@")[0]] = option
    return launch.main(list(last.values()))


def launcher(sweep: Sequence[str], left: int) -> list[str]:
    """WORKERS processes beside each other, where the command line names no launcher and joblib's can be had."""
    named = any(o.lstrip("+~").startswith(("hydra/launcher=", "hydra.launcher")) for o in sweep)
    n = min(WORKERS, left, cores())
    if named or n < 2 or find_spec("joblib") is None:
        return []
    try:
        compose(["hydra/launcher=joblib"], with_hydra=True)
    except UserError:
        return []
    return ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={n}"]


def made(plan: Plan, outputs: Path) -> Made:
    """The runs of an item as they are now."""
    jobs = plan.jobs
    done = [Run((outputs / "runs" / job.id).resolve()) for job in jobs if complete(job, outputs)]
    return Made(plan, tuple(_read(run.path, _stamp(run.path)) for run in done), len(jobs) - len(done))


@lru_cache(maxsize=512)
def _read(path: Path, stamp: tuple[int, ...]) -> RunData:
    """A run with its records: items that share it read it once. stamp: see `_stamp`; another one reads it again."""
    return RunData.of(Run(path))


def _stamp(path: Path) -> tuple[int, ...]:
    """When what a run holds was last changed."""
    files = (path / name for name in ("records.jsonl", "summary.json", "autopsy.json"))
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


def examine(plans: Sequence[Plan], outputs: Path, say: Say) -> None:
    """Autopsies of the walks of items that need them; one that was made is not made again."""
    from edit_robust.autopsy import examined

    ids = dict.fromkeys(job.id for plan in plans if plan.item.autopsy for job in plan.jobs)
    runs = [run for name in ids if (run := Run((outputs / "runs" / name).resolve())).complete]
    left = [run for run in runs if not (run.path / "autopsy.json").is_file() and piles_up(run.records)]
    if left:
        say(f"{len(left)} autopsies to make")
        examined(left, Ui().progress, strict=False)


def say_on_stderr(line: str) -> None:
    """One line for a person, apart from what the command prints."""
    print(line, file=sys.stderr, flush=True)
