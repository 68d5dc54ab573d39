"""revisit(): walk a finished run's edits once more, from the changes that it kept, and ask something new on the way.

No edit is made. What is found lies in `evaluations/NAME` of the run's folder, in the form of a run's own results, and
is read together with them: summaries, reports and figures see it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_robust.core import Record, UserError
from edit_robust.core.threads import Threads
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Editor, State
from edit_robust.evaluate.base import Measure, Setting
from edit_robust.evaluate.evaluation import Evaluation
from edit_robust.evaluate.summary import columns_of, flat
from edit_robust.messages import Ui
from edit_robust.models.base import Model
from edit_robust.runs.folder import RunFolder, set_aside
from edit_robust.runs.reader import Run
from edit_robust.runs.replay import Replay, changed_parameters
from edit_robust.tasks.base import Task
from edit_robust.trajectories import Point, Trajectory

#: Words for `steps`: every measured point as the walk asks there; those at which past edits or the whole model were
#: looked at; the last one.
WORDS = ("points", "checks", "last")
Steps = str | int | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Revisit:
    """A finished run and what to ask it.

    name:   of the evaluation: the same question has the same name, and is gone on with after a kill.
    steps:  see `Visited.of`.   config: kept with the evaluation.
    model:  as a function: an evaluation that is complete never loads it.
    """

    run: Run
    name: str
    config: Mapping[str, Any]
    model: Callable[[], Model]
    task: Task
    editor: Editor
    trajectory: Trajectory
    measures: Mapping[str, Measure]
    steps: Steps
    outputs: Path
    seed: int = 0
    device: str = ""
    force: bool = False
    figures: bool = True
    threads: Threads


@dataclass(frozen=True)
class Visited:
    """The points of a walk that are asked. everything: all that can be asked there; checks: only where the walk looks
    at past edits or at the model as a whole."""

    steps: tuple[int, ...]
    everything: bool = False
    checks: bool = False

    @classmethod
    def of(cls, run: Run, steps: Steps) -> Visited:
        """points: all, as the walk asks there.   checks: those at which it looks back, and no others.
        last: the last one.   a number, a list, `every-50`: these, each of them with everything that can be asked.

        UserError for a step that the run has not measured.
        """
        there = sorted({int(p["step"]) for p in run.points})
        if not there:
            raise UserError(f"{run.id} has measured no point yet")
        if steps == "points" or steps == "checks":
            return cls(tuple(there), checks=steps == "checks")
        if steps == "last":
            return cls((there[-1],), everything=True)
        if isinstance(steps, str) and (apart := re.fullmatch(r"every-(\d+)", steps)) and int(apart[1]):
            return cls(tuple(s for s in there if s % int(apart[1]) == 0 or s == there[-1]), everything=True)
        wanted = [steps] if isinstance(steps, int) else steps
        if isinstance(wanted, str) or not wanted or any(type(s) is not int for s in wanted):
            raise UserError(f"steps={steps} must be {', '.join(WORDS)}, every-N, a number or a list of numbers")
        unknown = [s for s in wanted if s not in there]
        if unknown:
            near = min(there, key=lambda s: abs(s - unknown[0]))
            raise UserError(
                f"{run.id} has no step {unknown[0]}: it measured {there[0]} to {there[-1]}; the nearest is {near}"
            )
        return cls(tuple(sorted(set(wanted))), everything=True)

    def asked(self, point: Point, trajectory: Trajectory) -> Point | None:
        """The point with what is asked there; None where nothing is."""
        if self.everything:
            return trajectory.looked_at(point)
        return None if self.checks and not point.whole else point


def revisit(asked: Revisit, ui: Ui | None = None) -> Run:
    """Ask, or go on asking, or give back what was asked before. -> the evaluation, which reads like a run"""
    ui = ui or Ui()
    run, path = asked.run, asked.run.path / "evaluations" / asked.name
    if not run.complete:
        raise UserError(f"{run.id} is not complete: end it with the command that began it, and ask then")
    visited = Visited.of(run, asked.steps)
    if asked.force:
        set_aside(path)
    if Run(path).complete:
        ui.say(f"{asked.name} is complete: nothing to ask (force=true asks anew)")
        return Run(path)
    folder = RunFolder(path, run.id)
    with asked.threads.applied(), folder.session(asked.config, asked.device):
        _walk(asked, visited, folder, ui)
        columns = columns_of(asked.measures.values(), Run(path))
        if not any(len(line) for line in (columns, Run(path).records)):
            raise UserError(
                f"{', '.join(asked.measures)} found nothing at these points of {run.id}, a walk by "
                f"{asked.trajectory.name}"
            )
        folder.write_summary(columns, flat(columns))
    if asked.figures:
        _draw(run.path)
    return Run(path)


def _walk(asked: Revisit, visited: Visited, folder: RunFolder, ui: Ui) -> None:
    """Load the model, add the kept changes one after the other, and ask at the points that are not asked yet."""
    run, task = asked.run, asked.task
    requests = task.requests()
    known = run.status
    with folder.phase("load"):
        model = asked.model()
    model.progress = ui.progress
    if known.get("model", model.base) not in (model.base, *model.older_bases):
        raise UserError(f"this is not the model that {run.id} edited: other weights, or another config or tokenizer")
    _same_requests(run, [r.id for r in requests])
    folder.note(device=str(model.device), model=model.base, threads=asked.threads.use(model.useful_threads))
    layers = list(known.get("layers") or model.layers)
    changes = changed_parameters(run.path)
    setting = Setting(
        run_id=run.id,
        model=model,
        task=task,
        requests=requests,
        layers=layers,
        changes=changes,
        before=model.snapshot(changes),
        run=Run(folder.path),
        work=Workspace(asked.outputs / "cache", folder.path, asked.seed, ui.progress),
    )
    ledger = Replay(run.path, model, [s for s in visited.steps if s not in folder.done])
    state: State[Any] = State(tuple(layers), parameters=tuple(changes))
    with ui.progress(f"{', '.join(asked.measures)} along {run.id}", len(visited.steps)) as advance:

        def written(point: Point, records: list[Record]) -> None:
            advance(1)

        evaluation = Evaluation(asked.measures, setting, folder, written)
        advance(len(folder.done))
        for point in asked.trajectory.walk(model, asked.editor, state, requests, ledger) if ledger.wanted else ():
            if not ledger.measured(point.step) and (there := visited.asked(point, asked.trajectory)) is not None:
                evaluation.at(there)
        evaluation.flush()


def _same_requests(run: Run, ids: Sequence[str]) -> None:
    """UserError where the task does not give the requests that were edited."""
    known = run.examples
    named = set(known["group"]) - {""} if "group" in known else set()
    if named - set(ids):
        raise UserError(f"the task no longer gives the requests that {run.id} edited, such as {min(named - set(ids))}")


def _draw(path: Path) -> None:
    """The run's figures and report, with what was asked later."""
    from edit_robust.figures import draw_all
    from edit_robust.figures.frame import RunData
    from edit_robust.report import write_report

    found = [RunData.of(Run(path))]
    draw_all(found, path / "figures")
    write_report(found, path / "report.html")
