"""The paper's ablations as experiments: each composes, says what differs between its runs, and one is run, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edit_robust.config.check import check
from edit_robust.config.compose import compose, conf_dir, jobs
from edit_robust.config.identity import run_id
from edit_robust.config.launch import run_config
from edit_robust.core import Delta, UserError
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.common import methods
from edit_robust.tasks.vision.class_disjoint import ClassDisjoint

ABLATIONS = {p.stem: p for p in sorted((conf_dir() / "experiment").glob("ablation-*.yaml"))}
#: What an ablation compares, and its values.
COMPARED = {
    "ablation-second-moment": ("editor.moment", {"second", "centered"}),
    "ablation-target": ("editor.target", {"frozen", "live"}),
    "ablation-taps": ("editor.taps", {"center", "all"}),
    "ablation-class-disjoint": ("task.judged", {"trained", "others"}),
    "ablation-last-layer": ("editor.part", {"layer", "mlp.c_fc", "block", "visual.proj"}),
}


@pytest.mark.parametrize("name", COMPARED)
def test_an_ablation_fits_and_its_runs_differ_in_what_it_compares(name: str) -> None:
    option, wanted = COMPARED[name]
    part, _, own = option.partition(".")
    every = [check(compose([f"experiment={name}", *job])) for job in _changes(name)]
    assert {str(v[part][own]) for v in every} == wanted
    assert len({run_id(v) for v in every}) == len(every)


def _changes(name: str) -> list[list[str]]:
    """The overrides of a sweep's jobs beside the experiment's name."""
    found = jobs([f"experiment={name}"], multirun=True)
    return [[o for o in job if not o.startswith("experiment=")] for job in found]


def test_no_ablation_is_left_out() -> None:
    assert set(ABLATIONS) == set(COMPARED)


@pytest.mark.slow
def test_an_ablation_runs_and_its_methods_are_told_apart(tmp_path: Path) -> None:
    small = [
        "experiment=ablation-class-disjoint", "editor=local-ft", "task.pairs=[grass-snow]", "task.n_edit=12",
        "task.n_validation=8", "task.n_search=4", "editor.lr=0.01", "editor.max_epochs=2", "corruption=none",
        "trajectory.alphas=[0.5,1.0]", "tracker=none", "figures=false", f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    runs = [run_config(compose([*small, f"task.judged={kind}"])) for kind in ("trained", "others")]
    assert runs[0].id != runs[1].id
    changes = [Delta.load(next((r.path / "deltas").rglob("*.safetensors"))).digest() for r in runs]
    assert changes[0] == changes[1], "the same edit is judged twice"
    shown = [RunData.of(r) for r in runs]
    assert all(r.summary["n_edit_images"] == 12 for r in runs) and len(set(methods(shown))) <= 2


def test_other_classes_are_those_that_gave_no_pairs() -> None:
    tasks = {kind: ClassDisjoint(judged=kind, n_edit=16, n_search=6, n_validation=4) for kind in ("trained", "others")}
    trained = {int(y) for y in tasks["others"].requests()[0].x.labels}
    search = tasks["others"].requests()[0].search
    assert search is not None and {int(y) for y in search.labels} <= trained
    for kind, task in tasks.items():
        (judged,) = [s for s in task.image_sets(task.requests()) if s.probe == "edit"]
        inside = np.isin(judged.labels, sorted(trained))
        assert len(judged) == 16 and (inside.all() if kind == "trained" else not inside.any())
    with pytest.raises(UserError, match="vehicles-on-snow"):
        ClassDisjoint(pairs=["vehicles-on-snow"])
    task = ClassDisjoint(n_edit=4)
    task._labels["grass-snow"] = (["dog", "cow"], [])
    with pytest.raises(UserError, match=r"task\.judged=others: every class that shows grass"):
        task._edit_set("grass-snow")
