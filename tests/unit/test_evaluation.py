"""Measures at the points of a walk: a point is written when all of them have answered, at once or later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_robust.config.fit import check_fit
from edit_robust.core import Column, Record, UserError
from edit_robust.core.work import Workspace
from edit_robust.evaluate.base import Measure, Measured, Needs, Setting
from edit_robust.evaluate.evaluation import Evaluation
from edit_robust.evaluate.summary import RecordsAlone, columns_of, flat
from edit_robust.runs.folder import RunFolder
from edit_robust.runs.reader import Run
from edit_robust.trajectories import Point, Scope


class AtOnce(Measure):
    """Writes down the step."""

    def examples(self) -> list[dict[str, Any]]:
        return [{"id": "q", "target": 0}]

    def notes(self) -> Mapping[str, Any]:
        return {"data": "none"}

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        record = self.setting.recorder(point)("model", "", "step", point.step, 1)
        return Measured([record], {"a|b": np.array([point.step])})

    @classmethod
    def columns(cls, results: Any) -> list[Column]:
        return [Column("last_step", float(results.records.value.iloc[-1])), Column("odd", float("nan"))]


class After(Measure):
    """Doubles what `once` found."""

    needs = Needs(measures=("once",))

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        value = 2 * found["once"].outcomes["a|b"][0]
        return Measured([self.setting.recorder(point)("model", "", "double", value, 1)])


class Together(Measure):
    """Keeps two points, then answers both."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.flushed: list[list[int]] = []
        self.thrown = 0

    def at(self, point: Point, found: Mapping[str, Measured]) -> None:
        self.kept.append(point.step)

    @property
    def full(self) -> bool:
        return len(self.kept) == 2

    def flush(self) -> list[Measured]:
        self.flushed.append(self.kept)
        answers = [Measured([], {"kept": np.array([step])}) for step in self.kept]
        self.kept = []
        return answers

    def done(self) -> None:
        self.thrown += 1


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "r", "r")


def setting(folder: RunFolder) -> Setting:
    nothing: Any = None
    return Setting(
        run_id="r",
        model=nothing,
        task=nothing,
        requests=[],
        layers=[],
        changes=[],
        before=nothing,
        run=Run(folder.path),
        work=Workspace(folder.path),
    )


def point(step: int) -> Point:
    return Point(step, 1.0, step, (Scope("at-edit", []),))


def test_points_are_written_when_every_measure_has_answered(folder: RunFolder) -> None:
    together, written = Together(), []

    def told(point: Point, records: list[Record]) -> None:
        written.append((point.step, [r.metric for r in records]))

    with folder.session({}, "cpu"):
        measures = {"once": AtOnce(), "after": After(), "together": together}
        evaluation = Evaluation(measures, setting(folder), folder, told)
        evaluation.at(point(0))
        assert written == [] and folder.done == {}
        evaluation.at(point(1))
        evaluation.at(point(2))
        assert [step for step, _ in written] == [0, 1] and together.flushed == [[0, 1]]
        evaluation.flush()
        evaluation.flush()  # nothing waits any more
    assert written == [(step, ["step", "double"]) for step in range(3)]
    assert together.flushed == [[0, 1], [2]] and together.thrown == 2
    run = Run(folder.path)
    assert run.records.value.tolist() == [0, 0, 1, 2, 2, 4]
    assert run.arrays(2, "together")["kept"].tolist() == [2] and run.arrays(2, "once") == {"a|b": np.array([2])}
    assert run.examples.measure.tolist() == ["once"] and run.status["data"] == "none"
    assert list(run.examples_of("once").id) == ["q"] and run.examples_of("after").empty


def test_measures_that_answer_at_once_write_at_once(folder: RunFolder) -> None:
    with folder.session({}, "cpu"):
        evaluation = Evaluation({"once": AtOnce()}, setting(folder), folder)
        evaluation.at(point(0))
        assert set(folder.done) == {0}


def test_columns_come_from_measures_each_key_once(folder: RunFolder) -> None:
    with folder.session({}, "cpu"):
        Evaluation({"once": AtOnce()}, setting(folder), folder).at(point(3))
    columns = columns_of([AtOnce(), AtOnce()], Run(folder.path), {"edit": 1.5})
    assert [c.key for c in columns] == ["last_step", "odd", "seconds_edit"]
    assert flat(columns) == {"last_step": 3.0, "odd": None, "seconds_edit": 1.5}
    interval = flat([Column("x", 1.0, low=0.5, high=2.0)])
    assert interval == {"x": 1.0, "x_low": 0.5, "x_high": 2.0}
    assert RecordsAlone(Run(folder.path).records).right(0) == {}


# -- do the parts go together? ---------------------------------------------------------------------------------------


def parts(**more: Any) -> dict[str, Any]:
    rome = {"_target_": "edit_robust.editors.language.rome.Rome", "name": "rome"}
    return {
        "model": {"_target_": "edit_robust.models.language.causal_lm.CausalLM", "name": "gpt"},
        "task": {"_target_": "edit_robust.tasks.language.fact_world.FactWorldTask", "name": "facts"},
        "editor": rome,
        "measure": {"drift": {"_target_": "edit_robust.evaluate.drift.Drift"}},
        "corruption": {"none": None},
        **more,
    }


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"model": {"_target_": "edit_robust.models.vision.classifier.Classifier", "name": "net"}},
            r"editor=rome needs a model with injection, trace, and model=net has none; .*editors for it: .*local-ft",
        ),
        (
            {"task": {"_target_": "edit_robust.tasks.vision.scene_world.SceneWorldTask", "name": "scenes"}},
            r"task=scenes makes requests with images, and editor=rome takes requests in words; .*fact-world",
        ),
        (
            {"measure": {"images": {"_target_": "edit_robust.evaluate.image_answers.ImageAnswers"}}},
            "measure=images needs a model with logits_along, judge, crop, and model=gpt has none",
        ),
        (
            {"measure": {"forgetting": {"_target_": "edit_robust.evaluate.forgetting.Forgetting"}}},
            r"measure=forgetting needs measure answers before it: measure=\[answers,forgetting\]",
        ),
        ({"measure": {}}, "measure is empty"),
        ({"corruption": {"fog": [1]}}, r"corruption=fog: no measure looks at shifted data \(drift\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(more: dict[str, Any], says: str) -> None:
    check_fit(parts())
    with pytest.raises(UserError, match=says):
        check_fit(parts(**more))
