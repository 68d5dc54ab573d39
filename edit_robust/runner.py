"""execute(): walk through weight space, and at each point, with the model standing there, evaluate every measure."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_robust.core import Record, Request, UserError
from edit_robust.core.threads import Threads
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Editor, resolve_layers
from edit_robust.evaluate.base import Measure, Setting
from edit_robust.evaluate.evaluation import Evaluation
from edit_robust.evaluate.summary import columns_of, flat
from edit_robust.messages import Ui
from edit_robust.models.base import Model
from edit_robust.runs.folder import RunFolder, set_aside
from edit_robust.runs.ledger import EditLedger
from edit_robust.runs.reader import Run
from edit_robust.runs.status import peak_memory
from edit_robust.tasks.base import Task
from edit_robust.trackers.base import Tracker
from edit_robust.trajectories import Point, Trajectory

if TYPE_CHECKING:
    from edit_robust.report import Drawn


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything a run is made of. The model comes as a function: a finished run never loads it.

    layer:    index, list of indices or word (see `resolve_layers`).
    measures: by name, in the order in which they look at a point.
    config:   the resolved config, kept with the run. Only figures and reports read it.
    """

    run_id: str
    config: Mapping[str, Any]
    model: Callable[[], Model]
    task: Task
    editor: Editor
    layer: int | list[int] | str
    trajectory: Trajectory
    measures: Mapping[str, Measure]
    tracker: Callable[[], Tracker]
    seed: int = 0
    outputs: Path = field(default=Path("outputs"))
    device: str = ""
    force: bool = False
    figures: bool = True
    threads: Threads = field(default_factory=Threads)


def execute(experiment: Experiment, ui: Ui | None = None) -> Run:
    """Run an experiment, or go on with it, or return it at once when it is complete."""
    ui = ui or Ui()
    path = experiment.outputs / "runs" / experiment.run_id
    if experiment.force and (aside := set_aside(path)):
        ui.say(f"The earlier run was moved to {aside}")
    run = Run(path.resolve())
    if run.complete:
        ui.say(f"{run.id} is complete: nothing to do (force=true runs it anew)")
        return run
    folder = RunFolder(path, experiment.run_id)
    with (
        experiment.threads.applied(),
        folder.session(experiment.config, experiment.device),
        _tracking(experiment, path) as tracker,
    ):
        if folder.done:
            ui.say(f"Going on with {experiment.run_id}: {len(folder.done)} points are measured already")
        if folder.versions_changed:
            ui.say(f"Versions have changed since this run began: {'; '.join(folder.versions_changed)}")
        _walk(experiment, folder, tracker, ui)
        summary = _summarise(experiment, folder)
        with ui.waiting("drawing figures"):
            files, drawn = _draw(folder) if experiment.figures else ([], None)
        tracker.finish(summary, files)
    run = Run(path.resolve())
    if experiment.figures:
        from edit_robust.figures.frame import RunData
        from edit_robust.report import write_report

        with ui.waiting("writing the report"):  # now that the status says complete
            write_report([RunData.of(run)], run.path / "report.html", drawn)
    return run


def _walk(experiment: Experiment, folder: RunFolder, tracker: Tracker, ui: Ui) -> None:
    """Load, prepare, and evaluate every point of the walk that has not been measured yet."""
    editor, trajectory, task = experiment.editor, experiment.trajectory, experiment.task
    requests = task.requests()
    _fill_a_batch(trajectory, len(requests), task.name)
    with folder.phase("load"), ui.waiting("loading the model"):
        model = experiment.model()
    model.progress = ui.progress
    threads = experiment.threads.use(model.useful_threads)
    folder.note(device=str(model.device), model=model.base, dtype=str(model.dtype), threads=threads)
    layers = [model.layer_at(i).name for i in resolve_layers(experiment.layer, editor, model.n_layers)]
    folder.note(layers=layers, corpus=getattr(task, "corpus_source", None))
    _fits(folder.path, requests)

    work = Workspace(experiment.outputs / "cache", folder.path, experiment.seed, ui.progress)
    with folder.phase("prepare"):
        state = editor.prepare(model, layers, task, work)
    changes = state.changes(model)
    folder.note(changes=list(changes))
    setting = Setting(
        run_id=experiment.run_id,
        model=model,
        task=task,
        requests=requests,
        layers=layers,
        changes=changes,
        before=model.snapshot(changes),
        run=Run(folder.path),
        work=work,
    )
    ledger = EditLedger(folder, len(requests), model)
    with ui.progress(f"{editor.name} on {model.name}", trajectory.points(len(requests))) as advance:

        def written(point: Point, records: list[Record]) -> None:
            tracker.point(point.step, [r.to_dict() for r in records])
            advance(1)

        evaluation = Evaluation(experiment.measures, setting, folder, written)
        advance(len(folder.done))
        for point in trajectory.walk(model, editor, state, requests, ledger):
            if not ledger.measured(point.step):
                evaluation.at(point)
        evaluation.flush()
    ledger.keep_total(setting.before, model)


def _fill_a_batch(trajectory: Trajectory, n: int, task: str) -> None:
    """Fewer requests than a batch would make another experiment than the one that was asked for."""
    size = getattr(trajectory, "batch_size", None)
    if size is not None and size > n:
        raise UserError(
            f"trajectory.batch_size={size} is more than the requests of task={task}, which are {n}: give "
            f"trajectory.batch_size={n}, or a larger task.n_requests"
        )


def _fits(path: Path, requests: Sequence[Request]) -> None:
    """A run that will surely fill the disk says so before it starts."""
    need = 2 * len(requests) * 4096
    free = shutil.disk_usage(path).free
    if free < need + (16 << 20):
        raise UserError(f"the disk of {path} has {free >> 20} MB left, too little for this run")


def _summarise(experiment: Experiment, folder: RunFolder) -> dict[str, Any]:
    """Write the summary, and give it back flat."""
    measures = experiment.measures.values()
    columns = columns_of(measures, Run(folder.path), folder.phases, peak_memory(), folder.versions_changed)
    folder.write_summary(columns, flat(columns))
    return flat(columns)


def _draw(folder: RunFolder) -> tuple[list[Path], Drawn]:
    """The run's figures: the files in its folder, and as its page shows them."""
    from edit_robust.figures import draw_all
    from edit_robust.figures.frame import RunData
    from edit_robust.report import Drawn

    drawn = Drawn()
    with folder.phase("figures"):
        return draw_all([RunData.of(Run(folder.path.resolve()))], folder.path / "figures", also=drawn.take), drawn


@contextmanager
def _tracking(experiment: Experiment, path: Path) -> Iterator[Tracker]:
    """The tracker, started, and closed however the run ends."""
    tracker = experiment.tracker()
    tracker.start(experiment.run_id, path, dict(experiment.config))
    try:
        yield tracker
    except BaseException:
        tracker.close(failed=True)
        raise
    tracker.close()
