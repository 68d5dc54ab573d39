"""Many runs in one table: every record with what its run was made with, in parts, in Parquet and CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.runs import CommandLine

from edit_robust.core import UserError
from edit_robust.core.data import Record
from edit_robust.runs.reader import Run
from edit_robust.sweeps import collect as module
from edit_robust.sweeps.collect import choices, collect, collect_summaries
from edit_robust.sweeps.found import runs_named
from edit_robust.sweeps.jobs import Job, Outcome
from edit_robust.sweeps.journal import Journal, sweep_name


def record(run: str, step: int, metric: str, value: float | None, **more: Any) -> dict[str, Any]:
    made = Record(run, step, 1.0, step, "final", "edit", "none", 0, "", metric, 0.0, 4).to_dict()
    return {**made, "value": value, **more}


def make_run(outputs: Path, name: str, records: list[dict[str, Any]], status: str = "complete", **config: Any) -> Run:
    """A run's folder as far as it is read here."""
    path = outputs / "runs" / name
    path.mkdir(parents=True)
    whole = {
        "seed": 0,
        "editor": {"_target_": "x.Rome", "name": "rome", "v_lr": 0.5, "layers": "auto"},
        "model": {"_target_": "x.CausalLM", "name": "gpt", "path": "builtin:gpt"},
        "task": {"_target_": "x.Facts"},
        "trajectory": {"_target_": "x.Single", "name": "single"},
        "layer": {"index": [3]},
        "corruption": {},
        **config,
    }
    (path / "config.yaml").write_text(json.dumps(whole))
    (path / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (path / "status.json").write_text(json.dumps({"status": status}))
    values = [r["value"] for r in records if r["value"] is not None]
    (path / "summary.json").write_text(json.dumps({"S": sum(values), "n_edits": len(records), "note": name}))
    return Run(path)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Three runs; the second was interrupted within a line, the third was asked something later."""
    outputs = tmp_path / "outputs"
    a = make_run(outputs, "a", [record("a", i, "success", i / 8) for i in range(7)])
    editor = {"_target_": "x.Ft", "name": "ft", "lr": 1, "v_lr": None, "layers": [1, 2]}
    b = make_run(outputs, "b", [record("b", 1, "success", None)], "interrupted", editor=editor, seed=1)
    with (b.path / "records.jsonl").open("a") as f:
        f.write('{"run": "b", "step": 2, "val')
    c = make_run(outputs, "c", [record("c", 1, "success", 0.25), record("c", 2, "success", 0.5, request="r1")])
    later = c.path / "evaluations" / "e1"
    later.mkdir(parents=True)
    asked = [record("c", 2, "success", 0.75, request="r1"), record("c", 2, "kl", 0.125)]
    (later / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    for name in ("summary.json", "config.yaml"):
        (later / name).write_text('{"kl": 0.125}')
    return [a, b, c]


def test_every_record_stands_there_once_with_its_runs_choices(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 3)
    assert collect(runs, tmp_path / "all.parquet") == collect(runs, tmp_path / "all.csv") == 7 + 1 + 3
    found = pd.read_parquet(tmp_path / "all.parquet")
    for run in runs:
        own = found[found.run == run.id].reset_index(drop=True)
        theirs = run.records[~run.records.duplicated()].reset_index(drop=True)
        for column in Record.__dataclass_fields__:
            left, right = (one[column].astype(float if column == "value" else object) for one in (own, theirs))
            pd.testing.assert_series_equal(left, right)
    first = found.groupby("run", sort=False).first()
    assert list(first.editor) == ["rome", "ft", "rome"] and set(first.model) == {"gpt"} and set(first.task) == {"Facts"}
    assert list(first.seed) == [0, 1, 0] and list(first["layer.index"]) == [3, 3, 3]
    assert list(first["editor.layers"]) == ["auto", "[1, 2]", "auto"], "lists as JSON beside words"
    assert first["editor.v_lr"].isna().tolist() == [False, True, False] and first["editor.lr"].dtype.kind == "f"
    assert found.value.isna().sum() == 1
    table = pd.read_csv(tmp_path / "all.csv", dtype={"request": str}, keep_default_na=False, na_values=[""])
    assert list(table.columns) == list(found.columns) and len(table) == len(found)
    assert table.value.tolist() == pytest.approx(found.value.tolist(), nan_ok=True)


def test_choices_are_names_and_what_differs(runs: list[Run]) -> None:
    assert list(choices(runs[:1])[0]) == ["run", "editor", "model", "task", "trajectory", "seed", "layer.index"]
    assert {"editor.v_lr", "editor.lr", "editor.layers"} < set(choices(runs)[0])
    assert "model.path" not in choices(runs)[0], "the same in all of them"


def test_one_row_a_run(runs: list[Run], tmp_path: Path) -> None:
    for suffix, read in ((".parquet", pd.read_parquet), (".csv", pd.read_csv)):
        out = tmp_path / f"runs{suffix}"
        assert collect_summaries(runs, out) == 3
        found = read(out)
        assert list(found.run) == ["a", "b", "c"] and list(found.status) == ["complete", "interrupted", "complete"]
        assert list(found.n_edits) == [7, 1, 2] and found.S[0] == sum(i / 8 for i in range(7)) and found.kl[2] == 0.125
        assert list(found.note) == ["a", "b", "c"]


def test_bad_input(runs: list[Run], tmp_path: Path) -> None:
    for write in (collect, collect_summaries):
        with pytest.raises(UserError, match=r"x.parquett is not known|\.parquett is not known; did you mean"):
            write(runs, tmp_path / "x.parquett")
    with pytest.raises(UserError, match="no records"):
        collect([], tmp_path / "x.csv")
    with pytest.raises(UserError, match="no runs"):
        collect_summaries([], tmp_path / "x.csv")
    assert not list(tmp_path.glob("*.csv"))


def test_names_of_runs_sweeps_and_folders(runs: list[Run], tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    name = sweep_name(["seed=0,1"])
    journal = Journal.of(["seed=0,1"], outputs)
    jobs = [Job(0, ("seed=0",)), Job(1, ("seed=1",)), Job(2, ("seed=2",))]
    journal.begin(jobs)
    for job, run in zip(jobs, ("a", "b", "gone"), strict=True):
        journal.ended(Outcome(job, "done", run=run))

    def ids(*names: str) -> list[str]:
        return [run.id for run in runs_named(list(names), outputs)]

    assert ids("b", "a", "b") == ["b", "a"] and ids("[ab]") == ["a", "b"]
    assert ids(name) == ids("sweep-") == ids(str(journal.path)) == ["a"], "b is not complete, and one run is not there"
    assert ids(str(outputs)) == ids(str(outputs / "runs")) == ["a", "c"]
    assert ids(str(runs[1].path), "sweep") == ["b", "a"]
    with pytest.raises(UserError, match=rf'no run .*did you mean "{name}"'):
        ids(name.replace("ee", "e"))
    Journal.of(["seed=5,6"], outputs).begin(jobs)
    with pytest.raises(UserError, match="'sweep-' could be any of the sweeps"):
        ids("sweep-")
    with pytest.raises(UserError, match="there are no runs in"):
        ids(sweep_name(["seed=5,6"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there are no runs in"):
        ids(str(tmp_path / "empty"))


def test_the_verb(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    say = CommandLine(monkeypatch, capsys)
    said = say("collect", "--out", "all.parquet")
    assert said.code == 0 and said.out == "all.parquet: 10 rows of 2 runs\n", "all complete runs"
    assert say("collect", "a", "--out", "a.csv", "--summary").out == "a.csv: 1 rows of 1 run\n"
    said = say("collect", "a", "--out", "a.txt")
    assert said.code == 2 and ".txt is not known" in said.line
    assert say("collect", "a").code == 2, "--out must be given"
