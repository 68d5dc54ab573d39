"""Several finished runs asked in one pass over the images: the numbers of runs asked one by one."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import CommandLine, KilledError, fuse, go, records

from edit_robust.config.asking import asking, told_apart
from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.core import UserError
from edit_robust.evaluate import image_answers, image_gallery
from edit_robust.messages import Ui
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import SplitNetwork
from edit_robust.revisit import revisit, revisit_all
from edit_robust.runs.reader import Run
from edit_robust.shifts.images.variants import Shifting

pytestmark = pytest.mark.slow

SMALL = [
    *("model=scene-cnn", "model.batch_size=8", "task=scene-world", "task.natural=[]"),
    *("task.n_validation=12", "task.n_edit=8", "task.n_search=8", "measure=[edits]"),
    *("tracker=none", "device=cpu", "figures=false", "threads=1"),
]
ALONG = ["trajectory=interpolate", "trajectory.alphas=[0.5,1.0]"]
EDITS = (
    ["editor=local-ft", "editor.lr=0.003", "editor.max_epochs=2", "layer.index=5", *ALONG],
    ["editor=local-ft", "editor.lr=0.002", "editor.max_epochs=2", "layer.index=5"],
    ["editor=local-ft", "editor.lr=0.003", "editor.max_epochs=2", "layer.index=3", *ALONG],
    ["editor=global-ft", "editor.lr=0.001", "editor.max_epochs=2", "layer.index=4", *ALONG],
)
LATER = ["measure=[image-answers]", "corruption=[contrast,jpeg_compression]", "shifts.severities=[2]", "figures=false"]


def made(folder: Path, *more: str) -> Run:
    return go(experiment(compose([*SMALL, f"paths.outputs={folder}", *more])))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder with four finished runs that asked no images. Read it, and leave it alone."""
    folder = tmp_path_factory.mktemp("finished")
    for more in EDITS:
        made(folder, *more)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Callable[[str], list[Run]]:
    def of(name: str) -> list[Run]:
        shutil.copytree(finished, tmp_path / name)
        return [Run(p) for p in sorted((tmp_path / name / "runs").iterdir())]

    return of


def together(runs: list[Run], *overrides: str) -> list[Run]:
    given = overrides or LATER
    return revisit_all([asking(run, given, run.path.parents[1]) for run in runs], Ui(quiet=True))


def one_by_one(runs: list[Run]) -> list[Run]:
    return [revisit(asking(run, LATER, run.path.parents[1]), Ui(quiet=True)) for run in runs]


def test_one_pass_gives_the_numbers_of_many(copy: Callable[[str], list[Run]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {}

    def count(owner: Any, name: str) -> None:
        action = getattr(owner, name)

        @functools.wraps(action)
        def counted(*args: Any, **more: Any) -> Any:
            asked[name] = asked.get(name, 0) + 1
            return action(*args, **more)

        monkeypatch.setattr(owner, name, counted)

    alone = one_by_one(copy("alone"))
    for owner, name in (
        (Shifting, "apply"),
        (Classifier, "__init__"),
        (image_gallery, "leaks"),
        (SplitNetwork, "prefix"),
    ):
        count(owner, name)
    beside = together(copy("beside"))
    sets, variants = 2, 3
    assert asked["apply"] == sets * variants, "each set is corrupted once a variant, whatever the number of runs"
    assert asked["__init__"] == asked["leaks"] == 1 and len(beside) == 4
    for a, b in zip(alone, beside, strict=True):
        assert a.path.name == b.path.name and b.complete and records(a) == records(b) and len(b.points) >= 2
        for step in (int(p["step"]) for p in a.points):
            ours, theirs = b.right(step), a.right(step)
            assert ours.keys() == theirs.keys() and len(ours) == sets * variants
            assert all(np.array_equal(ours[k], theirs[k]) for k in ours)
        assert b.summary["original_ood_penalty"] == a.summary["original_ood_penalty"]
        assert b.status["together"] == [r.path.parents[1].name for r in beside] and "together" not in a.status
        assert not (b.path / "state" / "shards").exists()
    changed = [r.records[(r.records.metric == "lost")].value.sum() for r in alone]
    assert any(changed), "an edit that breaks nothing would say nothing"
    again = together([Run(r.path.parents[1]) for r in beside])
    assert [r.path for r in again] == [r.path for r in beside], "nothing is asked twice"


@pytest.mark.thorough
def test_points_of_runs_that_do_not_fit_into_memory_together(
    copy: Callable[[str], list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = one_by_one(copy("alone"))
    monkeypatch.setattr("edit_robust.revisit.KEPT_BYTES", 1)
    monkeypatch.setattr("edit_robust.models.vision.prefixes.KEPT_BYTES", 1)
    assert [records(r) for r in together(copy("each"))] == [records(r) for r in alone]
    monkeypatch.setattr(image_answers, "SHARD_BYTES", 1)
    monkeypatch.setattr("edit_robust.revisit.KEPT_BYTES", 1 << 30)
    assert [records(r) for r in together(copy("shards"))] == [records(r) for r in alone]


@pytest.mark.thorough
def test_a_kill_anywhere_in_the_pass(copy: Callable[[str], list[Run]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_answers, "SHARD_BYTES", 1)
    whole = [records(r) for r in together(copy("whole"))]
    runs, kills = copy("again"), 0
    for after in (20, 45, 70, 95):
        try:
            with fuse(after):
                together(runs)
            break
        except KilledError:
            kills += 1
    assert kills >= 2 and [records(r) for r in together(runs)] == whole


def test_what_cannot_be_asked_together(copy: Callable[[str], list[Run]], say: CommandLine) -> None:
    runs = copy("runs")
    outputs = runs[0].path.parents[1]
    other = made(outputs, "task.n_validation=10", *EDITS[1])
    assert other.id not in {r.id for r in runs}
    with pytest.raises(UserError, match=r"differ in task.n_validation \(1[02], 1[02]\).*ask them apart") as error:
        together([*runs, other])
    assert "\n" not in str(error.value)
    said = say("evaluate", runs[0].id, other.id, *LATER, "--outputs", str(outputs))
    assert said.code == 2 and "differ in task.n_validation" in said.line
    said = say("evaluate", "measure=[image-answers]", "--outputs", str(outputs))
    assert said.code == 2 and "say which runs to ask" in said.line
    assert together([*runs, other], "measure=[drift]", "figures=false")[-1].complete, "one after the other"
    assert told_apart(["a*", "measure=[x]", "b", "+c=1", "--d"]) == (["a*", "b"], ["measure=[x]", "+c=1", "--d"])


def test_the_verb_takes_patterns(copy: Callable[[str], list[Run]], say: CommandLine) -> None:
    runs = copy("runs")
    said = say("evaluate", "local-ft*", *LATER, "steps=last", "--outputs", str(runs[0].path.parents[1]))
    assert said.code == 0, said.err
    asked = [Run(r.path) for r in runs if r.id.startswith("local-ft")]
    assert len(asked) == 3 and all(len(r.evaluations) == 1 and "original_accuracy" in r.summary for r in asked)
    lost = [r.evaluations[0].records.metric for r in asked]
    assert not any((m == "lost").any() for m in lost), "the unedited model was not asked: nothing to compare with"
