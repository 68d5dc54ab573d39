"""execute(): for each point of the walk, with the model standing there, ask every probe and write what came back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edit_robust.core import Record, Request, UserError
from edit_robust.core.allocator import keep_freed_memory
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Editor, resolve_layers
from edit_robust.evaluate.base import Setting
from edit_robust.evaluate.image_summary import summarise_images
from edit_robust.evaluate.inquire import inquire
from edit_robust.evaluate.summary import summarise
from edit_robust.messages import Ui
from edit_robust.runs.folder import RunStore, set_aside
from edit_robust.runs.reader import Run
from edit_robust.trackers.base import Tracker
from edit_robust.trajectories import Point, Trajectory


@dataclass(frozen=True)
class Experiment:
    """Everything a run is made of. The model comes as a function: a finished run never loads it.

    layer: index, list of indices or word (see `resolve_layers`).  config: the resolved config, stored and never read.
    shifts: how images are shifted, see `inquiry.shifting`.
    """

    run_id: str
    config: Mapping[str, Any]
    model: Callable[[], Any]
    task: Any
    editor: Editor
    layer: Any
    trajectory: Trajectory
    tracker: Callable[[], Tracker]
    seed: int = 0
    outputs: Path = Path("outputs")
    force: bool = False
    figures: bool = True
    text_tokens: int = 4096
    shifts: Any = None

    @property
    def asks(self) -> str:
        """What its questions are made of: text or images."""
        return str(getattr(self.editor, "asks", "text"))


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
    store = RunStore(path, experiment.run_id, keep_dense=experiment.asks == "images")
    device = str(experiment.config.get("device", ""))
    with store.session(experiment.config, device), _tracking(experiment, path) as tracker:
        if store.done:
            ui.say(f"Going on with {experiment.run_id}: {len(store.done)} points are measured already")
        _walk(experiment, store, tracker, ui)
        run = Run(path.resolve())
        numbers = (run.records, store.phases, store.peak_memory())
        summary = summarise_images(*numbers, run.right) if experiment.asks == "images" else summarise(*numbers)
        store.write_summary(summary)
        drawn = _draw(run, store) if experiment.figures else []
        tracker.finish(summary, drawn)
    run = Run(path.resolve())
    if experiment.figures:
        from edit_robust.report import write_report

        write_report([run.data()], run.path / "report.html")  # now that the status says complete
    return run


def _walk(experiment: Experiment, store: RunStore, tracker: Tracker, ui: Ui) -> None:
    """The loop: load, prepare, and look around at every point."""
    editor, trajectory = experiment.editor, experiment.trajectory
    requests = experiment.task.requests()
    if experiment.asks == "images":
        keep_freed_memory()
    with store.phase("load"):
        model = experiment.model()
    model.progress = ui.progress
    store.note(device=str(model.device), model=model.base, dtype=str(model.dtype))
    indices = resolve_layers(experiment.layer, editor, model.n_layers)
    layers = [model.layer_at(i).name for i in indices]
    store.note(layers=layers, corpus=getattr(experiment.task, "corpus_source", None))
    _fits(store.path, requests)

    work = Workspace(experiment.outputs / "cache", store.path, experiment.seed, ui.progress)
    with store.phase("prepare"):
        state = editor.prepare(model, layers, experiment.task, work)
    before = model.snapshot(state.changes(model))
    with ui.progress(f"{editor.name} on {model.name}", trajectory.points(len(requests))) as advance:

        def write(point: Point, records: Sequence[Record], outcomes: Mapping[str, np.ndarray]) -> None:
            store.write_point(point.step, records, outcomes, alpha=point.alpha, n_edits=point.n_edits)
            tracker.point(point.step, [r.to_dict() for r in records])
            advance(1)

        inquiry = inquire(
            Setting(
                experiment.run_id,
                model,
                experiment.task,
                requests,
                layers,
                store,
                before,
                write,
                ui.progress,
                experiment.text_tokens,
                experiment.shifts,
                experiment.outputs / "cache",
            )
        )
        advance(len(store.done))
        for point in trajectory.walk(model, editor, state, requests, store):
            if not store.measured(point.step):
                inquiry.meet(point)
        inquiry.close()
    store.keep_total(before, model)


def _fits(path: Path, requests: Sequence[Request]) -> None:
    """A run that will surely fill the disk says so before it starts."""
    need = 2 * len(requests) * 4096
    free = shutil.disk_usage(path).free
    if free < need + (16 << 20):
        raise UserError(f"the disk of {path} has {free >> 20} MB left, too little for this run")


def _draw(run: Run, store: RunStore) -> list[Path]:
    """The run's figures, in its folder."""
    from edit_robust.figures import draw_all

    with store.phase("figures"):
        return draw_all([run.data()], run.path / "figures")


@contextmanager
def _tracking(experiment: Experiment, path: Path) -> Iterator[Tracker]:
    tracker = experiment.tracker()
    tracker.start(experiment.run_id, path, dict(experiment.config))
    try:
        yield tracker
    except BaseException:
        tracker.close(failed=True)
        raise
    tracker.close()
