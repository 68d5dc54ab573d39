"""Binding nodes to constructors, and naming runs, without a config file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from edit_robust.config import identity, nodes
from edit_robust.config.compose import expand
from edit_robust.config.identity import run_id
from edit_robust.config.nodes import bind, build
from edit_robust.core import UserError
from edit_robust.core.options import Aside, DataFile


class Thing:
    def __init__(
        self,
        path: DataFile,
        n: int = 1,
        rate: float = 0.5,
        kind: Literal["big", "small"] = "big",
        some: list[float] | None = None,
        fast: bool | None = None,
        layers: int | list[int] | str = "auto",
        anything: Any = None,
        text: Literal["task"] | DataFile = "task",
        word: str = "grass-snow",
        more: dict[str, DataFile | None] | None = None,
        memory: Aside[float] = 4.0,
    ) -> None:
        if n < 0:
            raise ValueError("n is\nbelow 0")
        self.n = n


def node(**options: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.Thing", "path": "p", **options}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (nodes, identity):
        monkeypatch.setattr(module, "target_of", lambda node, path: Thing)


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"n": -5},
        {"rate": 1},
        {"kind": "small"},
        {"some": [1, 2.5]},
        {"some": None},
        {"fast": True},
        {"layers": [1, 2]},
        {"anything": {"a": 1}},
    ],
)
def test_what_fits_is_bound(good: dict[str, Any]) -> None:
    assert bind(node(**good), "thing") == {"path": "p", **good}


@pytest.mark.parametrize(
    "bad, said",
    [
        ({"n": "x"}, "thing.n=x is a text; a whole number is needed"),
        ({"n": 1.0}, "thing.n=1.0 is a number; a whole number is needed"),
        ({"n": True}, "thing.n=True is true or false; a whole number is needed"),
        ({"n": None}, "thing.n=None is null"),
        ({"rate": "fast"}, "a number is needed"),
        ({"kind": "bigg"}, 'thing.kind=bigg: did you mean "big"?'),
        ({"some": ["a"]}, "a list or null is needed"),
        ({"fast": 1}, "true or false or null is needed"),
        ({"layers": 1.5}, "a whole number or a list or a text is needed"),
        ({"nn": 1}, 'thing.nn is no option of Thing; did you mean "n"?'),
    ],
)
def test_what_does_not_fit_is_said(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as e:
        bind(node(**bad), "thing")
    assert said in str(e.value)


def test_an_argument_that_is_needed() -> None:
    with pytest.raises(UserError, match=r"thing.path must be given"):
        bind({"_target_": "x"}, "thing")


def test_a_constructors_complaint_is_one_line() -> None:
    assert build(node(n=2), "thing").n == 2
    with pytest.raises(UserError, match="thing: n is below 0"):
        build(node(n=-1), "thing")


def test_expanding_a_sweep() -> None:
    assert expand(["a=1", "b=2"]) == [["a=1", "b=2"]]
    assert expand(["a=1,2", "b=x,y", "c=[1,2]"]) == [
        ["a=1", "b=x", "c=[1,2]"],
        ["a=2", "b=x", "c=[1,2]"],
        ["a=1", "b=y", "c=[1,2]"],
    ]


def values(path: Path, **more: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {k: {"name": k} for k in ("editor", "trajectory", "task")}
    return {**parts, "model": node(path=str(path), name=None), **more}


def test_a_runs_name(tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model" / "w").write_text("1")
    first = run_id(values(tmp_path / "my model"))
    assert first.startswith("editor-my_model-task-trajectory-") and len(first.rpartition("-")[2]) == 8
    (tmp_path / "my model").rename(tmp_path / "moved")
    moved = run_id(values(tmp_path / "moved"))
    assert moved.rpartition("-")[2] == first.rpartition("-")[2]
    (tmp_path / "moved" / "w").write_text("2")
    assert run_id(values(tmp_path / "moved")) != moved
    assert run_id(values(tmp_path / "moved", seed=1)) != run_id(values(tmp_path / "moved", seed=2))
    for aside in ("force", "figures", "tracker", "paths", "hydra"):
        assert run_id(values(tmp_path / "moved", **{aside: 1})) == run_id(values(tmp_path / "moved", **{aside: 2}))


def test_code_may_move_and_runs_stay(tmp_path: Path) -> None:
    here, there = node(), {**node(), "_target_": "another.place.Thing"}
    assert run_id(values(tmp_path, task=here | {"name": "t"})) == run_id(values(tmp_path, task=there | {"name": "t"}))
    assert run_id(values(tmp_path, task=node(name="a"))) != run_id(values(tmp_path, task=node(name="b")))


def test_a_word_is_no_file_even_where_a_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only options typed as files are looked up, and of these no word that the type itself names."""
    monkeypatch.chdir(tmp_path)
    task = {"name": "t", **node(text="task", word="grass-snow")}
    before = run_id(values(tmp_path / "m", task=task))
    for folder in ("task", "grass-snow", "t", "big"):
        (tmp_path / folder).mkdir()
    assert run_id(values(tmp_path / "m", task=task)) == before


def test_files_in_a_dict_of_options_count_by_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    (tmp_path / "c").write_text("2")
    names = [
        run_id(values(tmp_path / "m", task={"name": "t", **node(more={"imagenet-r": str(tmp_path / f), "x": None})}))
        for f in "abc"
    ]
    assert names[0] == names[1] != names[2]


def test_what_changes_no_result_is_left_out(tmp_path: Path) -> None:
    some = [{"name": "t", **node(memory=gb)} for gb in (1.0, 2.0)]
    assert run_id(values(tmp_path, task=some[0])) == run_id(values(tmp_path, task=some[1]))
    other = [{"name": "t", **node(rate=r)} for r in (1.0, 2.0)]
    assert run_id(values(tmp_path, task=other[0])) != run_id(values(tmp_path, task=other[1]))
