"""execute(): for each point of the walk, with the model standing there, ask every probe and write what came back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edit_robust.core import Example, Probe, Record, Request, Scores, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Editor, resolve_layers
from edit_robust.history import History
from edit_robust.metrics.language import overall, perplexity, probe_metrics
from edit_robust.metrics.weights import drift
from edit_robust.models.causal_lm import CausalLM
from edit_robust.store import Run, RunStore, set_aside
from edit_robust.summary import summarise
from edit_robust.tasks.base import Task
from edit_robust.trackers.base import Tracker
from edit_robust.trajectories import Point, Trajectory
from edit_robust.ui import Ui


@dataclass(frozen=True)
class Experiment:
    """Everything a run is made of. The model comes as a function: a finished run never loads it.

    layer: index, list of indices or word (see `resolve_layers`).  config: the resolved config, stored and never read.
    """

    run_id: str
    config: Mapping[str, Any]
    model: Callable[[], CausalLM]
    task: Task
    editor: Editor
    layer: Any
    trajectory: Trajectory
    tracker: Callable[[], Tracker]
    seed: int = 0
    outputs: Path = Path("outputs")
    force: bool = False
    figures: bool = True
    text_tokens: int = 4096


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
    store = RunStore(path, experiment.run_id)
    device = str(experiment.config.get("device", ""))
    with store.session(experiment.config, device), _tracking(experiment, path) as tracker:
        if store.done:
            ui.say(f"Going on with {experiment.run_id}: {len(store.done)} points are measured already")
        _walk(experiment, store, tracker, ui)
        run = Run(path.resolve())
        summary = summarise(run.records, store.phases, store.peak_memory())
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
    probes = experiment.task.probes(requests)
    with store.phase("load"):
        model = experiment.model()
    model.progress = ui.progress
    store.note(device=str(model.device), model=model.base, dtype=str(model.dtype))
    indices = resolve_layers(experiment.layer, editor, model.n_layers)
    layers = [model.layer_at(i).name for i in indices]
    store.note(layers=layers, corpus=getattr(experiment.task, "corpus_source", None))
    _fits(store.path, model, requests)

    work = Workspace(experiment.outputs / "cache", store.path, experiment.seed, ui.progress)
    with store.phase("prepare"):
        state = editor.prepare(model, layers, experiment.task, work)
    with store.phase("evaluate"):
        questions = Questions(model, requests, probes, experiment.task.held_out(), layers, experiment.text_tokens)
    store.write_examples(questions.probes)
    history = History(len(requests))
    for step in sorted(store.done):
        history.add(questions.from_stored(Run(store.path).outcomes(step)))

    before = model.snapshot(model.parameter_names(layers))
    names = [model.layers[n].weight_name for n in layers]
    with ui.progress(f"{editor.name} on {model.name}", trajectory.points(len(requests))) as advance:
        advance(len(store.done))
        for point in trajectory.walk(model, editor, state, requests, store):
            if store.measured(point.step):
                continue
            with store.phase("evaluate"):
                seen = {look.scope: questions.ask(look.requests) for look in point.looks}
                history.add(seen)
                records = list(_records(experiment.run_id, point, seen, history, questions, model, before, names))
            outcomes = {scope: (s.index, s.scores) for scope, s in seen.items()}
            store.write_point(point.step, records, outcomes, alpha=point.alpha, n_edits=point.n_edits)
            tracker.point(point.step, [r.to_dict() for r in records])
            advance(1)
    store.keep_total(before, model)


@dataclass(frozen=True)
class Seen:
    """What came back from some requests' questions: rows of the run's examples, and their scores."""

    index: np.ndarray
    scores: Scores
    by_probe: Mapping[str, np.ndarray]  # probe -> positions in `index`
    groups: Sequence[str]
    requests: np.ndarray  # request index of each row


class Questions:
    """All questions of a run, ready to be asked for any of its requests."""

    def __init__(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        probes: Sequence[Probe],
        texts: Sequence[str],
        layers: Sequence[str],
        text_tokens: int,
    ) -> None:
        self.probes = list(probes)
        self.examples: list[Example] = [e for p in probes for e in p.examples]
        self.probe_of = np.array([p.name for p in probes for _ in p.examples])
        place = {r.id: i for i, r in enumerate(requests)}
        if len(place) != len(requests):
            raise UserError("two requests have the same id")
        self.request_of = np.array([place[e.group] for e in self.examples], dtype=int)
        self.rows_of: list[list[int]] = [[] for _ in requests]
        for row, r in enumerate(self.request_of):
            self.rows_of[r].append(row)
        self.scorer = model.scorer(self.examples, layers)
        chosen: list[Example] = []
        used = 0
        for i, text in enumerate(texts):
            used += len(model.text.encode(text))
            if used > text_tokens and chosen:
                break
            chosen.append(Example(f"text/{i}", "", (text,)))
        self.text = model.scorer(chosen, layers) if chosen else None

    def ask(self, requests: Sequence[int]) -> Seen:
        index = np.array([row for r in requests for row in self.rows_of[r]], dtype=int)
        scores = self.scorer.score(index.tolist())
        return self._seen(index, scores.logp, scores.hits, scores.tokens)

    def from_stored(self, outcomes: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Seen]:
        """The same from a run's files."""
        return {
            scope: self._seen(index.astype(int), logp, hits, (~np.isnan(logp)).astype(np.int64))
            for scope, (index, logp, hits) in outcomes.items()
        }

    def _seen(self, index: np.ndarray, logp: np.ndarray, hits: np.ndarray, tokens: np.ndarray) -> Seen:
        # float32 is what the files hold: numbers are the same whether they were just measured or read back
        target = np.array([self.examples[i].target for i in index], dtype=np.int64)
        scores = Scores(_as_stored(logp), _as_stored(hits), tokens, target)
        probes = self.probe_of[index]
        return Seen(
            index,
            scores,
            {p.name: np.flatnonzero(probes == p.name) for p in self.probes if (probes == p.name).any()},
            [self.examples[i].group for i in index],
            self.request_of[index],
        )


def _as_stored(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(np.float64)


def _records(
    run_id: str,
    point: Point,
    seen: Mapping[str, Seen],
    history: History,
    questions: Questions,
    model: CausalLM,
    before: Any,
    names: Sequence[str],
) -> Iterator[Record]:
    """Every number of a point."""

    def record(scope: str, probe: str, metric: str, value: float, n: int, layer: str = "") -> Record:
        here = (run_id, point.step, point.alpha, point.n_edits)
        return Record(*here, scope, probe, "none", 0, layer, metric, float(value), int(n))

    for scope, s in seen.items():
        table = {}
        for probe, rows in s.by_probe.items():
            table[probe] = probe_metrics(s.scores.take(rows), [s.groups[i] for i in rows])
            for metric, (value, n) in table[probe].items():
                yield record(scope, probe, metric, value, n)
        if (score := overall(table)) is not None:
            yield record(scope, "", "S", *score)
        if scope == "retention":
            for metric, value, n in history.forgetting():
                yield record(scope, "edit", metric, value, n)
    for _, info in point.edits:
        for metric, value in info.items():
            yield record("at-edit", "", metric, value, 1)
    for name, value in point.terms.items():
        yield record("at-edit", "", "layer_delta_norm", value, 1, layer=name)
    if point.whole:
        for name in names:
            was = model._owner[name].matrix(before.values[name])
            for metric, value in drift(model.matrix(name), was).items():
                yield record("model", "", metric, value, model.matrix(name).numel(), layer=name)
        if questions.text is not None:
            yield record("model", "text", "perplexity", *perplexity(questions.text.score()))


def _fits(path: Path, model: CausalLM, requests: Sequence[Request]) -> None:
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
