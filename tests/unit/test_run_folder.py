"""A run's folder, without a model: what is written, what is read back, and what a kill leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edit_robust.core import Column, Delta, Dense, Editable, Layer, LowRank, Record, Scores, UserError
from edit_robust.core import pace as pace_module
from edit_robust.editors.base import Carried, Edit, State
from edit_robust.evaluate.summary import RecordsAlone, columns_of
from edit_robust.runs import ledger as ledger_module
from edit_robust.runs import status as status_module
from edit_robust.runs.folder import RunFolder, set_aside
from edit_robust.runs.ledger import EditLedger
from edit_robust.runs.reader import Run, find_run, list_runs

CONFIG = {"seed": 3, "trajectory": {"name": "sequential"}, "model": {"path": "x"}}


def record(step: int, value: float = 0.5) -> Record:
    return Record("a-run", step, 1.0, step, "at-edit", "edit", "none", 0, "", "success", value, 4)


def scores(*logp: float) -> Scores:
    x = np.array([logp])
    return Scores(x, (x > -1).astype(float), np.ones_like(x, dtype=int), np.zeros(1, dtype=int))


def write(store: RunFolder, step: int, value: float = 0.5) -> None:
    s = scores(-0.5, -2.0)
    arrays = {"at-edit|index": np.array([step]), "at-edit|logp": s.logp, "at-edit|hits": s.hits}
    store.write_point(step, [record(step, value)], arrays, n_edits=step)


@pytest.fixture
def store(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "a-run", "a-run")


def test_what_is_written_is_read_back(store: RunFolder) -> None:
    with store.session(CONFIG, "cpu"):
        store.write_examples([{"id": "1/edit/0", "choices": [" Rome", " Zürich"], "target": 0}])
        with store.phase("edit"):
            pass
        for step in range(3):
            write(store, step)
        store.write_summary([Column("ES", 50.0)], {"ES": 50.0})
        assert Run(store.path).status["status"] == "running"
    run = Run(store.path)
    assert run.complete and run.config == CONFIG and run.summary == {"ES": 50.0}
    assert list(run.records.step) == [0, 1, 2] and [p["n_edits"] for p in run.points] == [0, 1, 2]
    assert run.examples.choices[0] == [" Rome", " Zürich"]
    index, logp, hits = run.outcomes(2)["at-edit"]
    assert index.tolist() == [2] and logp.tolist() == [[-0.5, -2.0]] and hits.tolist() == [[1.0, 0.0]]
    assert run.status["seed"] == 3 and "edit" in run.status["seconds"]
    assert run.status["processor_seconds"]["edit"] >= 0


def test_numbers_that_are_not_finite_are_null(store: RunFolder) -> None:
    with store.session(CONFIG, "cpu"):
        for step, value in enumerate((float("nan"), float("inf"), 1.0)):
            write(store, step, value)
    lines = [json.loads(x)["value"] for x in (store.path / "records.jsonl").read_text().splitlines()]
    assert lines == [None, None, 1.0]
    assert Run(store.path).records.value.isna().tolist() == [True, True, False]


@pytest.mark.parametrize(
    "records_tail, points_tail", [(b"", b""), (b'{"run": "a', b""), (b"{}\n", b'{"step": 3, "rec')]
)
def test_an_unfinished_tail_is_cut_off(store: RunFolder, records_tail: bytes, points_tail: bytes) -> None:
    with store.session(CONFIG, "cpu"):
        write(store, 0)
        write(store, 1)
    whole = (store.path / "records.jsonl").read_bytes()
    for name, tail in (("records.jsonl", records_tail), ("points.jsonl", points_tail)):
        with (store.path / name).open("ab") as f:
            f.write(tail)
    again = RunFolder(store.path, "a-run")
    with again.session(CONFIG, "cpu"):
        assert set(again.done) == {0, 1} and (store.path / "records.jsonl").read_bytes() == whole
        write(again, 2)
    assert list(Run(store.path).records.step) == [0, 1, 2] and Run(store.path).status["resumed"] == 1


@pytest.mark.parametrize("error, status", [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_the_status_says_how_it_ended(store: RunFolder, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), store.session(CONFIG, "cpu"):
        raise error
    found = Run(store.path).status
    assert found["status"] == status and not Run(store.path).complete
    assert ("ValueError: no" in found.get("traceback", "")) == (status == "failed")


def test_one_process_at_a_time(store: RunFolder) -> None:
    with store.session(CONFIG, "cpu"):
        with (
            pytest.raises(UserError, match="by another process"),
            RunFolder(store.path, "a-run").session(CONFIG, "cpu"),
        ):
            pass
        with pytest.raises(UserError, match="by another process"):
            set_aside(store.path)
    assert Run(store.path).complete


def test_set_aside_keeps_every_earlier_run(store: RunFolder) -> None:
    assert set_aside(store.path) is None
    for n in (1, 2):
        with RunFolder(store.path, "a-run").session(CONFIG, "cpu"):
            pass
        aside = set_aside(store.path)
        assert aside is not None and aside.name == f"a-run~{n}" and Run(aside).complete
    assert not store.path.exists() and list_runs(store.path.parents[1]) == []


def delta(base: str) -> Delta:
    generator = torch.Generator().manual_seed(len(base))
    term = LowRank(torch.randn(4, 1, generator=generator), torch.randn(3, 1, generator=generator))
    return Delta({"w": term}, base, {"why": "test"})


def test_changes_of_a_walk_are_chained_and_independent_ones_are_not(store: RunFolder) -> None:
    with store.session(CONFIG, "cpu"):
        ledger = EditLedger(store, 2)
        for step, base in enumerate(("a", "ab"), start=1):
            made = Edit(delta(base), [{"refused": 0.0}], {"sum": torch.ones(2) * step})
            (kept,) = ledger.independent([step], lambda made=made: [made])
            assert kept is made
    run = Run(store.path)
    assert torch.equal(run.delta().terms["w"].dense(), delta("a").terms["w"].dense() + delta("ab").terms["w"].dense())

    def never() -> list[Edit]:
        raise AssertionError("it was kept")

    (again,) = EditLedger(RunFolder(store.path, "a-run"), 2).independent([2], never)
    assert again.delta.digest() == delta("ab").digest() and again.info == [{"refused": 0.0}]
    assert again.carry["sum"].tolist() == [2.0, 2.0]
    delta("a").save(store.path / "deltas" / "000002.safetensors")
    with pytest.raises(UserError, match="2 independent edits"):
        run.delta()


def test_dense_changes_of_independent_edits_are_kept_while_they_are_small(
    store: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = Edit(Delta({"w": Dense(torch.ones(4, 3))}, "a"), [{}])
    monkeypatch.setattr(ledger_module, "DENSE_BYTES", 2 * 48)
    with store.session(CONFIG, "cpu"):
        EditLedger(store, 2).independent([1], lambda: [dense])
        EditLedger(store, 3).independent([2], lambda: [dense])
    assert [p.name for p in sorted((store.path / "deltas").iterdir())] == ["000001.safetensors"]


def test_a_run_whose_process_is_gone_is_interrupted(store: RunFolder) -> None:
    """Its status file still says running; nobody holds its lock."""
    with store.session(CONFIG, "cpu"):
        pass
    status = json.loads((store.path / "status.json").read_text()) | {"status": "running"}
    (store.path / "status.json").write_text(json.dumps(status))
    assert Run(store.path).status["status"] == "interrupted" and not Run(store.path).complete
    with RunFolder(store.path, "a-run").session(CONFIG, "cpu"):
        assert Run(store.path).status["status"] == "running"
    (store.path / ".lock").unlink()
    (store.path / "status.json").write_text(json.dumps(status))
    assert Run(store.path).status["status"] == "interrupted"


def test_a_run_continued_with_other_versions_says_so(store: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.session(CONFIG, "cpu"):
        assert store.versions_changed == []
    first = Run(store.path).status["versions"]
    monkeypatch.setattr(status_module, "_versions", lambda: {**first, "torch": "0.0.1"})
    monkeypatch.setattr(status_module, "_git", lambda: {"sha": "f" * 40, "dirty": False})
    again = RunFolder(store.path, "a-run")
    with again.session(CONFIG, "cpu"):
        assert f"torch {first['torch']} -> 0.0.1" in again.versions_changed
    monkeypatch.setattr(status_module, "_versions", lambda: first)
    third = RunFolder(store.path, "a-run")
    with third.session(CONFIG, "cpu"):
        changed = third.versions_changed
    status = Run(store.path).status
    assert status["began_with"] == first and status["versions_changed"] == changed
    assert f"torch 0.0.1 -> {first['torch']}" in changed and len(changed) >= 2
    columns = columns_of([], RecordsAlone(Run(store.path).records), versions_changed=changed)
    assert columns[-1].key == "versions_changed" and "torch" in str(columns[-1].value)


def test_finding_a_run(tmp_path: Path) -> None:
    for name in ("rome-gpt2-aaaa", "rome-gpt2-bbbb", "memit-gpt2-cccc"):
        with RunFolder(tmp_path / "runs" / name, name).session(CONFIG, "cpu"):
            pass
    assert find_run("memit", tmp_path).id == find_run("cccc", tmp_path).id == "memit-gpt2-cccc"
    assert find_run(str(tmp_path / "runs" / "rome-gpt2-aaaa"), tmp_path).id == "rome-gpt2-aaaa"
    with pytest.raises(UserError, match="could be rome-gpt2-aaaa, rome-gpt2-bbbb"):
        find_run("rome", tmp_path)
    with pytest.raises(UserError, match='did you mean "memit-gpt2-cccc"'):
        find_run("memit-gpt-cccc", tmp_path)


def test_what_edits_carry_on_is_only_ever_extended() -> None:
    first, second, other = ({"k": torch.tensor([float(i)])} for i in range(3))
    one = Carried().after(first)
    two, fork = one.after(second), one.after(other)
    assert [len(c) for c in (one, two, fork)] == [1, 2, 2]
    assert two[1] is second and fork[1] is other and one[0] is fork[0] is two[0]
    state = State(("w",), None)
    assert state.after(Edit(Delta({}), [{}])) is state
    assert list(state.after(Edit(Delta({}), [{}], first)).carried) == [first]


# -- walks of dense changes ----------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when the test says so, for whatever asks the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for module, name in ((ledger_module.time, "monotonic"), (pace_module.time, "perf_counter")):
            monkeypatch.setattr(module, name, lambda: self.now)


def paper() -> Editable:
    net = nn.Sequential(nn.Linear(2, 3, bias=False)).requires_grad_(False)
    return Editable(net, {"0": Layer("0", 0, "linear", net[0])})


def one(step: int = 1) -> Edit:
    """A dense change."""
    return Edit(Delta({"0.weight": Dense(torch.ones(3, 2) * step)}, "x"), [{"refused": 0.0}])


def walk(
    store: RunFolder, monkeypatch: pytest.MonkeyPatch, n: int, every: int, seconds: dict[str, float]
) -> tuple[list[int], float]:
    """`n` dense edits, each checked where a multiple of `every` is reached. -> when weights were kept; time in all"""
    clock, kept = Clock(monkeypatch), list[int]()

    def keep(path: Path, model: Editable, names: object, about: dict[str, int]) -> None:
        clock.now += seconds["writing"]
        kept.append(about["step"])

    def edit() -> Edit:
        clock.now += seconds["editing"]
        return one()

    monkeypatch.setattr(ledger_module, "keep_weights", keep)
    model = paper()
    with store.session(CONFIG, "cpu"):
        ledger = EditLedger(store, n, model)
        for step in range(1, n + 1):
            ledger.advance(model, step, edit, check=step % every == 0, last=step == n)
            clock.now += seconds["evaluating"] * (step % every == 0)
    lines = (store.path / "state" / "edits.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, n + 1)), "a line an edit, whatever is kept"
    return kept, clock.now


def test_keeping_weights_takes_a_twentieth_of_the_time(store: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-J on a slow disk: two seconds for the weights of a projection, one for an edit."""
    times = {"editing": 1.0, "writing": 2.0, "evaluating": 0.0}
    kept, seconds = walk(store, monkeypatch, 1000, 2000, times)
    assert kept == [*range(1, 1000, 40), 1000], "the first time tells how slow the disk is"
    assert 2.0 * len(kept) / seconds < 0.055 and len(kept) * 268e6 < 10e9, "268 GB where every edit writes them"


def test_weights_are_kept_at_checks_that_take_long(store: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"editing": 1.0, "writing": 2.0, "evaluating": 60.0}
    kept, seconds = walk(store, monkeypatch, 200, 20, times)
    assert set(range(40, 201, 20)) <= set(kept) and 2.0 * len(kept) / seconds < 0.05


def test_quick_writing_is_done_often(store: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = walk(store, monkeypatch, 50, 100, {"editing": 1.0, "writing": 0.01, "evaluating": 0.0})
    assert kept == list(range(1, 51))


def test_steps_that_were_not_measured_are_not_jumped_over(store: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points that are answered together may all be missing when a process ends, though later weights are kept."""
    monkeypatch.setattr(pace_module.Pace, "due", lambda self, worked: True)

    def through(points: bool) -> tuple[list[int], list[float]]:
        model, made, weights = paper(), list[int](), list[float]()
        start = model.param("0.weight").clone()
        ledger = EditLedger(RunFolder(store.path, "a-run"), 4, model)
        ledger.folder.done = dict(store.done)
        for step in range(1, 5):
            ledger.advance(model, step, lambda step=step: made.append(step) or one(step), last=step == 4, points=points)
            weights.append(round(float((model.param("0.weight") - start)[0, 0])))
        return made, weights

    torch.manual_seed(0)
    with store.session(CONFIG, "cpu"):
        write(store, 0)
        assert through(True) == ([1, 2, 3, 4], [1, 3, 6, 10])
        torch.manual_seed(0)
        assert through(True) == ([1, 2, 3, 4], [1, 3, 6, 10]), "made again: no point has been measured"
        torch.manual_seed(0)
        assert through(False) == ([], [0, 0, 0, 10]), "where steps are no points, the weights are all that is needed"
        for step in (1, 2, 3):
            write(store, step)
        torch.manual_seed(0)
        assert through(True) == ([], [0, 0, 0, 10])


def test_a_fast_disk_is_not_worn(store: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 MB for a second of editing: 10,000 edits of GPT-J, five seconds each, write 200 GB instead of 2.7 TB."""
    assert ledger_module.BYTES_A_SECOND * 67 == 268e6
    monkeypatch.setattr(ledger_module, "BYTES_A_SECOND", 24 / 67)  # the 24 bytes of this model for the 268 MB of GPT-J
    kept, _ = walk(store, monkeypatch, 1000, 2000, {"editing": 5.0, "writing": 0.27, "evaluating": 0.0})
    assert kept == [*range(14, 1000, 14), 1000] and len(kept) * 10 * 268e6 < 0.2e12
