"""Runs of patched models: several tasks in a row and together, kills in mid-training, layers that have no say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.runs import KilledError, go, override, prepared, records

from edit_robust.config.check import check
from edit_robust.config.compose import compose
from edit_robust.config.identity import run_id
from edit_robust.editors.vision.helpers.patching import Patching
from edit_robust.figures import RunData, draw_all
from edit_robust.figures.vision import patching_row
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.clip import Clip
from edit_robust.runs.reader import Run

pytestmark = pytest.mark.slow

SMALL = (
    *("model=scene-clip", "device=cpu", "task.n_train=24", "task.n_test=16", "task.n_held_out=0", "task.n_original=16"),
    *("task.natural=[]", "editor.batch_size=8", "editor.epochs=1", "editor.warmup=1", "editor.crop_scale=null"),
    *("figures=false", "tracker=none"),
)
ROW = ("task=several", "task.tasks=[scene-digits,digits]", "trajectory=sequential")
#: What is patched with what; wise-ft takes classes of the model's own.
RUNS: dict[str, list[str]] = {
    "paint": [*SMALL, *ROW, "editor=paint", "editor.lr=0.001"],
    "one-layer": [*SMALL, *ROW, "editor=one-layer", "editor.lr=0.01"],
    "image-lora": [*SMALL, *ROW, "editor=image-lora", "editor.lr=0.01"],
    "wise-ft": [
        *("model=scene-cnn", "device=cpu", "task=scene-world", "task.pairs=[grass-snow,road-gravel]", "task.n_edit=8"),
        *("task.n_validation=8", "task.n_search=4", "task.natural=[]", "trajectory=interpolate"),
        *(
            "trajectory.alphas=[0.0,0.5,1.0]",
            "editor=wise-ft",
            "editor.lr=0.0003",
            "editor.epochs=4",
            "editor.warmup=1",
        ),
        *("editor.batch_size=8", "trajectory.batch_size=1", "figures=false", "tracker=none"),
    ],
}


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], Classifier]:
    made: dict[str, Classifier] = {}

    def get(name: str) -> Classifier:
        if name not in made:
            path = f"builtin:{name}"
            made[name] = Clip(path, device="cpu") if name == "scene-clip" else Classifier(path, name, device="cpu")
        return made[name]

    return get


def started(given: list[str], outputs: Path, loaded: Callable[[str], Classifier]) -> Any:
    name = given[0].partition("=")[2]
    return prepared(override(given, f"paths.outputs={outputs}"), loaded(name))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "editor", [pytest.param(e, marks=[pytest.mark.thorough] if e in ("wise-ft", "image-lora") else []) for e in RUNS]
)
def test_training_killed_midway_ends_as_if_it_had_not_been(
    editor: str, loaded: Callable[[str], Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two steps of the second edit; what is kept is gone on with, to the bit."""
    whole = go(started(RUNS[editor], tmp_path / "whole", loaded))
    step, steps = Patching._step, list[int]()

    def dies(self: Any, *args: Any) -> None:
        steps.append(len(steps))
        if len(steps) == 5:
            raise KilledError
        step(self, *args)

    made = started(RUNS[editor], tmp_path / "killed", loaded)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Patching, "_step", dies)
        go(made)
    assert len(steps) == 5
    again = go(made)
    assert again.status["resumed"] == 1 and records(again) == records(whole)
    assert again.delta().digest() == whole.delta().digest()
    if editor != "wise-ft":
        _every_task_at_every_point(whole)
        _a_row_is_drawn(whole, tmp_path)


def _every_task_at_every_point(run: Run) -> None:
    """After each edit both tasks and the original one are measured, and eq. numbers stay those of the edits made."""
    table = pd.DataFrame(RunData.of(run).tidy)
    asked = table[(table.probe == "task") & (table.metric == "accuracy")]
    assert asked.groupby("step").request.apply(sorted).tolist() == [["digits", "scene-digits"]] * 3
    assert set(table[(table.probe == "edit") & (table.step == 1)].request) == {"scene-digits"}
    both = table[(table.metric == "accuracy") & (table.step == 1) & (table.request == "scene-digits")]
    both = both[(both["shift"] == "none") & both.probe.isin(["edit", "task"])]
    assert len(both) == 2 and both.value.nunique() == 1, "the same images under both probes"
    assert set(table[(table.probe == "original")].step) == {0, 1, 2}


def _a_row_is_drawn(run: Run, folder: Path) -> None:
    shown = RunData.of(run)
    assert patching_row.wants(shown)
    rows = patching_row.rows_of(shown)
    assert sorted(set(rows.name)) == ["digits", "original task", "scene-digits"] and set(rows.n_edits) == {0, 1, 2}
    assert rows[rows.name == "digits"].taught.unique().tolist() == [2]
    (path,) = draw_all([shown], folder / "figures", [patching_row.NAME], ["png"])
    assert path.stat().st_size > 10_000


def test_several_tasks_together_are_one_edit_with_a_line(loaded: Callable[[str], Classifier], tmp_path: Path) -> None:
    given = override(RUNS["one-layer"], "trajectory=interpolate", "trajectory.alphas=[0.0,1.0]")
    run = go(started(given, tmp_path, loaded))
    table = RunData.of(run).tidy
    clean = table[(table.metric == "accuracy") & (table["shift"] == "none")]
    start = clean[clean.step == 0].set_index(["probe", "request"]).value
    at = {a: clean[(clean.step > 0) & (clean.alpha == a)].set_index(["probe", "request"]).value for a in (0.0, 1.0)}
    for key in (("edit", "digits"), ("edit", "scene-digits")):
        assert at[0.0][key] == start[key]
    assert any(at[1.0][key] != start[key] for key in at[1.0].index) and run.summary["n_requests"] == 2
    losses = table[(table.metric == "loss") & (table["shift"] == "none") & (table.probe == "edit")]
    before, after = (losses[losses.step == s].groupby("request").value.last() for s in (0, losses.step.max()))
    assert (after < before).any()
    assert not patching_row.wants(RunData.of(run))


@pytest.mark.parametrize("editor", ["paint", "wise-ft"])
def test_a_sweep_over_layers_makes_one_run_of_an_editor_of_the_whole_tower(editor: str) -> None:
    own = ["model=scene-vit", "task=scene-world", "trajectory=interpolate"]
    names = {
        e: {run_id(check(compose([*own, f"editor={e}", f"layer.index={i}"]))) for i in ("0", "2", "last")}
        for e in (editor, "one-layer")
    }
    assert len(names[editor]) == 1 and len(names["one-layer"]) == 3


def test_a_learning_rate_beats_the_presets_of_a_sweep_over_editors() -> None:
    own = ["model=scene-clip", "task=digits", "trajectory=interpolate"]
    for editor in ("one-layer", "paint", "image-lora", "low-rank-ft"):
        preset = check(compose([*own, f"editor={editor}"]))["editor"]
        given = check(compose([*own, f"editor={editor}", "editor.lr=0.0123"]))["editor"]
        assert given == {**preset, "lr": 0.0123} and preset["lr"] != 0.0123


def test_the_ends_of_a_line_are_the_two_models_to_the_bit_and_buffers_stay(tmp_path: Path) -> None:
    """Of a network with batch norms, whose counters are integers."""
    from helpers.tiny_nets import TinyTask, tiny_classifier

    from edit_robust.core.work import Workspace
    from edit_robust.editors.vision.wise_ft import WiseFt
    from edit_robust.trajectories import _along

    class Nothing:
        def measured(self, step: int) -> bool:
            return False

    m = tiny_classifier("resnet")
    editor = WiseFt(lr=1e-2, warmup=1, batch_size=2, epochs=2)
    task = TinyTask()
    state = editor.prepare(m, [m.layer_at(1).name], task, Workspace(tmp_path))
    before = {n: v.clone() for n, v in m.net.state_dict().items()}
    counters = [n for n in before if n.endswith("num_batches_tracked")]
    statistics = [n for n in before if n.endswith(("running_mean", "running_var"))]
    assert counters and statistics and all(before[n] == 3 and before[n].dtype == torch.int64 for n in counters)
    delta = editor.edit(m, task.requests()[:1], state).delta
    x = m.sample(4)
    unedited = m.logits(x)
    with m.patched(delta):
        tuned = m.logits(x)
    with m.held(state.changes(m)):
        seen = {}
        for point in _along(m, delta, [0.0, 0.5, 1.0, 1.5], 1, 1, [], Nothing()):  # type: ignore[arg-type]
            seen[point.alpha] = m.logits(x)
            assert all(torch.equal(m.net.state_dict()[n], before[n]) for n in (*counters, *statistics))
    assert torch.equal(seen[0.0], unedited) and torch.equal(seen[1.0], tuned) and not torch.equal(unedited, tuned)
    assert not any(n in delta.terms for n in (*counters, *statistics))
