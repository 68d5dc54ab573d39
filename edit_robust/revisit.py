"""revisit(): walk a finished run's edits once more, from the changes that it kept, and ask something new on the way.

Several runs may be asked at once: measures that can (`AsksTogether`) then answer all of them in one pass.

No edit is made. What is found lies in `evaluations/NAME` of the run's folder, in the form of a run's own results, and
is read together with them: summaries, reports and figures see it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, runtime_checkable

from edit_robust.core import Request, UserError
from edit_robust.core.editable import Snapshot
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

if TYPE_CHECKING:
    from torch import Tensor

#: Words for `steps`: every measured point as the walk asks there; those at which past edits or the whole model were
#: looked at; the last one.
WORDS = ("points", "checks", "last")
Steps = str | int | Sequence[int]
#: Memory for the changes of points of several runs that wait to be answered together.
KEPT_BYTES = 2 << 30


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


@runtime_checkable
class AsksTogether(Protocol):
    """A measure that keeps points, and can answer those of several runs in one pass over what it asks."""

    def join(self, first: Self) -> None:
        """Ask what `first`, the measure of another run, has made ready. Called before `prepare`."""
        ...

    def answer(self, others: Sequence[Self] = ()) -> None:
        """Find the answers at the points that this measure and the others keep; `flush` then only reads them."""
        ...

    @property
    def kept_bytes(self) -> int:
        """Memory of what is kept."""
        ...


def revisit(asked: Revisit, ui: Ui | None = None) -> Run:
    """Ask, or go on asking, or give back what was asked before. -> the evaluation, which reads like a run"""
    return revisit_all([asked], ui)[0]


def revisit_all(asked: Sequence[Revisit], ui: Ui | None = None) -> list[Run]:
    """Ask several runs the same. -> their evaluations

    Where a measure can answer several runs at once they must share model and task (UserError otherwise), and their
    points are answered side by side: the numbers are those of runs that are asked one by one. Other measures go from
    run to run.
    """
    ui = ui or Ui()
    for one in asked:
        if not one.run.complete:
            raise UserError(f"{one.run.id} is not complete: end it with the command that began it, and ask then")
    visits = [_Visit(one, Visited.of(one.run, one.steps), ui) for one in asked]
    together = len(asked) > 1 and any(isinstance(m, AsksTogether) for m in asked[0].measures.values())
    if together:
        _same(asked)
    for visit in visits:
        visit.set_aside()
    waiting = [v for v in visits if not v.complete]
    for group in [waiting] if together and waiting else [[v] for v in waiting]:
        _ask(group, ui)
    for visit in waiting:
        if visit.asked.figures:
            _draw(visit.asked.run.path)
    return [Run(v.path) for v in visits]


def _same(asked: Sequence[Revisit]) -> None:
    """UserError where the runs differ in model or task."""
    first = asked[0]
    for one in asked[1:]:
        for part in ("model", "task"):
            ours, theirs = dict(first.run.config[part]), dict(one.run.config[part])
            different = [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
            if different or (part == "model" and first.run.status.get(part) != one.run.status.get(part)):
                name = f"{part}.{different[0]}" if different else "the model's weights"
                values = f" ({ours.get(different[0])}, {theirs.get(different[0])})" if different else ""
                raise UserError(
                    f"{first.run.id} and {one.run.id} differ in {name}{values}: runs that are asked together share "
                    "model and task; ask them apart"
                )


class _Visit:
    """One run that is asked, with the folder that its evaluation lies in."""

    def __init__(self, asked: Revisit, visited: Visited, ui: Ui) -> None:
        self.asked, self.visited, self.ui = asked, visited, ui
        self.path = asked.run.path / "evaluations" / asked.name
        self.folder = RunFolder(self.path, asked.run.id)

    def set_aside(self) -> None:
        """Make way for a new one where that was asked for."""
        if self.asked.force:
            set_aside(self.path)
        if self.complete:
            self.ui.say(f"{self.asked.name} of {self.asked.run.id} is complete: nothing to ask (force=true asks anew)")

    @property
    def complete(self) -> bool:
        return Run(self.path).complete

    def evaluation(
        self, model: Model, requests: Sequence[Request], task: Task, first: Mapping[str, Measure],
        unedited: dict[str, Tensor],
    ) -> None:  # fmt: skip
        """Make the measures ready.

        task, first: of the run that this one is asked together with, and its measures; {} for that run.
        unedited: values of parameters, shared between the runs.
        """
        asked = self.asked
        known = asked.run.status
        if known.get("model", model.base) not in (model.base, *model.older_bases):
            raise UserError(
                f"this is not the model that {asked.run.id} edited: other weights, or another config or tokenizer"
            )
        _same_requests(asked.run, [r.id for r in requests])
        self.folder.note(device=str(model.device), model=model.base, threads=asked.threads.use(model.useful_threads))
        layers = list(known.get("layers") or model.layers)
        changes = changed_parameters(asked.run.path)
        self.setting = Setting(
            run_id=asked.run.id,
            model=model,
            task=task,
            requests=requests,
            layers=layers,
            changes=changes,
            before=_snapshot(model, changes, unedited),
            run=Run(self.folder.path),
            work=Workspace(asked.outputs / "cache", self.folder.path, asked.seed, self.ui.progress),
        )
        self.ledger = Replay(asked.run.path, model, [s for s in self.visited.steps if s not in self.folder.done])
        self.state: State[Any] = State(tuple(layers), parameters=tuple(changes))
        for name, measure in asked.measures.items():
            if isinstance(measure, AsksTogether) and name in first:
                measure.join(cast(Any, first[name]))
        self.asking = Evaluation(asked.measures, self.setting, self.folder)

    def walk(self, full: Callable[[], None] | None = None) -> None:
        """Add the kept changes one after the other, and ask at the points that are not asked yet.

        full: called where kept points should be answered; None: they are then, for this run alone.
        """
        asked, ledger, model = self.asked, self.ledger, self.setting.model
        self.asking.full = full
        total = len(self.visited.steps)
        with self.ui.progress(f"{', '.join(asked.measures)} along {asked.run.id}", total) as advance:
            self.asking.written = lambda point, records: advance(1)
            advance(len(self.folder.done))
            way = (model, asked.editor, self.state, self.setting.requests, ledger)
            # the walk has no name here, so that it ends, and puts the weights back, with an error in its midst
            for point in asked.trajectory.walk(*way) if ledger.wanted else ():
                there = None if ledger.measured(point.step) else self.visited.asked(point, asked.trajectory)
                if there is not None:
                    self.asking.at(there)
            if full is None:
                self.asking.flush()

    def end(self) -> None:
        """Write the summary."""
        found = Run(self.path)
        columns = columns_of(self.asked.measures.values(), found)
        if not any(len(line) for line in (columns, found.records)):
            raise UserError(
                f"{', '.join(self.asked.measures)} found nothing at these points of {self.asked.run.id}, a walk by "
                f"{self.asked.trajectory.name}"
            )
        self.folder.write_summary(columns, flat(columns))


def _ask(visits: Sequence[_Visit], ui: Ui) -> None:
    """Load the model once, walk along every run, and answer what was kept of all walks together."""
    first = visits[0].asked
    with ExitStack() as stack:
        stack.enter_context(first.threads.applied())
        for visit in visits:
            stack.enter_context(visit.folder.session(visit.asked.config, visit.asked.device))
        with visits[0].folder.phase("load"):
            model = first.model()
        model.progress = ui.progress
        requests = first.task.requests()
        if len(visits) == 1:
            visits[0].evaluation(model, requests, first.task, {}, {})
            visits[0].walk()
        else:
            _together(visits, model, requests)
        for visit in visits:
            visit.end()


def _together(visits: Sequence[_Visit], model: Model, requests: Sequence[Request]) -> None:
    """Walk along each run in turn, and answer the kept points of all of them when memory is full and at the end.

    A run's points are answered in the same groups as when it is asked alone.
    """
    first = visits[0].asked
    unedited: dict[str, Tensor] = {}
    for visit in visits:
        visit.evaluation(model, requests, first.task, {} if visit is visits[0] else first.measures, unedited)
        visit.folder.note(together=[v.asked.run.id for v in visits])
    walked: list[_Visit] = []

    def answer() -> None:
        start = time.perf_counter()
        for name in first.measures:
            those = [v.asked.measures[name] for v in walked]
            some = [m for m in those if isinstance(m, AsksTogether)]
            if some:
                some[0].answer(some[1:])
        share = (time.perf_counter() - start) / len(walked)
        for visit in walked:
            visit.folder.phases["evaluate"] = visit.folder.phases.get("evaluate", 0.0) + share
            visit.asking.flush()

    for visit in visits:
        walked.append(visit)
        visit.walk(full=answer)
        kept = sum(m.kept_bytes for v in walked for m in v.asked.measures.values() if isinstance(m, AsksTogether))
        if kept > KEPT_BYTES or visit is visits[-1]:
            answer()
            walked = []


def _snapshot(model: Model, names: Sequence[str], unedited: dict[str, Tensor]) -> Snapshot:
    """The unedited model's parameters; `unedited` holds the copies, each once for all runs."""
    missing = [n for n in names if n not in unedited]
    unedited |= model.snapshot(missing).values
    return Snapshot({n: unedited[n] for n in names}, model.position)


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
    from edit_robust.report import Drawn, write_report

    found, drawn = [RunData.of(Run(path))], Drawn()
    draw_all(found, path / "figures", also=drawn.take)
    write_report(found, path / "report.html", drawn)
