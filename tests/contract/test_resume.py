"""Killed, full, stopped or refused: what was measured stays, and the same command ends with the same records."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import CommandLine, KilledError, fuse, go, made_until, override, prepared, records
from safetensors import SafetensorError

import edit_robust
from edit_robust.config import launch
from edit_robust.core.delta import Delta
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs import checkpoints
from edit_robust.runs import reader as runs
from edit_robust.runs.reader import Run

pytestmark = pytest.mark.slow

Quick = Callable[..., list[str]]
TinyModel = Callable[[str], CausalLM]

WALKS = {
    "sequential rome": ("rome", ["task.n_requests=3"]),
    "sequential memit, two at a time": ("memit", ["trajectory.batch_size=2", "trajectory.every=2"]),
    "sequential ft (weights instead of changes)": ("ft", []),
    "single rome": ("rome", ["trajectory=single", "trajectory.chunk=3"]),
    "single ft": ("ft", ["trajectory=single", "task.n_requests=3"]),
    "batches of memit": ("memit", ["trajectory=batch", "trajectory.batch_size=2"]),
    "line to memit": ("memit", ["trajectory=interpolate", "trajectory.alphas=[0,0.5,1]"]),
    "line to rome after rome": ("rome", ["trajectory=interpolate", "trajectory.alphas=[0.5,1]", "task.n_requests=3"]),
    "line to ft after ft": ("ft", ["trajectory=interpolate", "trajectory.alphas=[1]", "trajectory.batch_size=1"]),
}


#: Walks that hold nothing which others do not hold as well.
FURTHER = ("sequential rome", "single rome", "batches of memit", "line to memit")


def _changes(run: Run) -> list[tuple[str, str, str, dict]]:
    """Every kept change to the bit. (The files' headers are in any order, so bytes cannot be compared.)"""
    paths = sorted((run.path / "deltas").iterdir())
    return [(p.name, d.digest(), d.base, dict(d.info)) for p, d in ((p, Delta.load(p)) for p in paths)]


@pytest.mark.parametrize(
    "walk",
    [
        pytest.param(walk, id=walk.replace(" ", "-"), marks=[pytest.mark.thorough] if walk in FURTHER else [])
        for walk in WALKS
    ],
)
def test_killed_again_and_again_it_ends_the_same(
    walk: str, quick: Quick, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """Every attempt dies a few disk writes after its start: before a file has its name, or within a line."""
    editor, more = WALKS[walk]
    model = tiny_model("gpt2")
    given = override(quick(editor), *more)
    whole = go(prepared(given, model))
    chance = random.Random(walk)
    made = prepared(override(given, f"paths.outputs={tmp_path / 'killed'}"), model)
    kills = 0
    while kills < 60:
        try:
            # an attempt writes five files or so before it measures anything
            with fuse(chance.randint(4, 9), half=chance.random() < 0.5):
                run = go(made)
                break
        except KilledError:
            kills += 1
            assert model.position == model.base
    assert kills >= 3
    assert run.complete and records(run) == records(whole)
    assert _changes(run) == _changes(whole)
    assert [p["step"] for p in run.points] == [p["step"] for p in whole.points]
    for point in whole.points:
        for scope, arrays in whole.outcomes(point["step"]).items():
            again = run.outcomes(point["step"])[scope]
            assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays, again, strict=True))
    timed = ("seconds_", "peak_")
    kept = {k: v for k, v in whole.summary.items() if not k.startswith(timed)}
    assert kept == {k: v for k, v in run.summary.items() if not k.startswith(timed)}
    assert run.status["resumed"] >= 1


@pytest.mark.parametrize("editor", ["rome", "ft"])
def test_sigkill(editor: str, quick: Quick, tiny_model: TinyModel, tmp_path: Path) -> None:
    """A process killed by the system at random moments, three times; then the same command to its end."""
    model = tiny_model("gpt2")
    given = override(quick(editor), "task.n_requests=10")
    whole = go(prepared(given, model))
    made = prepared(override(given, f"paths.outputs={tmp_path / 'killed'}"), model)
    path = tmp_path / "killed" / "runs" / made.run_id
    chance = random.Random(editor)
    fork = multiprocessing.get_context("fork")
    for points in (0, 3, 6):  # of 11: somewhere behind the point, wherever the process is just then
        process = fork.Process(target=go, args=(made,), daemon=True)
        process.start()
        assert process.pid is not None
        while len(Run(path).points) <= points and process.is_alive():
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL and not Run(path).complete
    run = go(made)
    assert records(run) == records(whole) and _changes(run) == _changes(whole)


def test_a_tail_that_was_half_written_is_cut_off(quick: Quick, tiny_model: TinyModel) -> None:
    made = prepared(quick(), tiny_model("gpt2"))
    run = go(made)
    whole = records(run)
    points = (run.path / "points.jsonl").read_text().splitlines(keepends=True)
    (run.path / "points.jsonl").write_text("".join(points[:2]) + points[2][:9])
    (run.path / "records.jsonl").write_bytes(whole[:-7])
    (run.path / "status.json").write_text(json.dumps({"status": "running"}))
    assert records(go(made)) == whole


def test_what_a_killed_process_was_writing_is_swept_up(quick: Quick, tiny_model: TinyModel) -> None:
    made = prepared(quick(), tiny_model("gpt2"))
    run = go(made)
    kept = _changes(run)
    for folder in ("deltas", "outcomes", "state", "."):
        (run.path / folder / ".half.safetensors.x1_y2.part").write_bytes(b"half")
    (run.path / "status.json").write_text(json.dumps({"status": "running"}))
    assert _changes(go(made)) == kept and not list(run.path.rglob("*.part"))


def test_records_that_were_shortened_by_hand_are_not_continued(quick: Quick, tiny_model: TinyModel) -> None:
    made = prepared(quick(), tiny_model("gpt2"))
    run = go(made)
    (run.path / "records.jsonl").write_bytes(records(run)[:100])
    (run.path / "status.json").unlink()
    with pytest.raises(edit_robust.UserError, match="force=true"):
        go(made)


def test_a_run_is_not_continued_with_another_model(
    quick: Quick, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2")
    made = prepared(quick(), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(Rome, 1, patch)
        go(made)
    other = Delta.load(made.outputs / "runs" / made.run_id / "deltas" / "000001.safetensors").scale(0.5)
    with model.patched(other), pytest.raises(edit_robust.UserError, match="other weights"):
        go(made)


# -- stopped -------------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tiny_model: TinyModel) -> Iterator[CausalLM]:
    """The command line gets the model that is loaded already."""
    model, build = tiny_model("gpt2"), launch.build
    monkeypatch.setattr(launch, "build", lambda node, path: model if path == "model" else build(node, path))
    yield model
    assert model.position == model.base


def _only_run() -> Run:
    (run,) = runs.list_runs(Path("outputs"))
    return run


def test_ctrl_c(say: CommandLine, quick: Quick, loaded: CausalLM, tmp_path: Path) -> None:
    given = quick()
    edit = Rome.edit
    with pytest.MonkeyPatch.context() as patch:
        times = [0]

        def stop(self: Rome, *args: object) -> object:
            times[0] += 1
            if times[0] == 3:
                raise KeyboardInterrupt
            return edit(self, *args)  # type: ignore[arg-type]

        patch.setattr(Rome, "edit", stop)
        said = say("run", *given)
    assert said.code == 130 and "stopped" in said.line and "goes on from there" in said.line
    run = _only_run()
    assert run.status["status"] == "interrupted" and len(run.points) == 3
    assert say("run", *given).code == 0
    whole = go(prepared(override(given, f"paths.outputs={tmp_path / 'whole'}"), loaded))
    assert records(_only_run()) == records(whole) and _only_run().status["resumed"] == 1


@pytest.mark.parametrize("after", [9, *(pytest.param(n, marks=pytest.mark.thorough) for n in (1, 15))])
def test_a_full_disk(after: int, say: CommandLine, quick: Quick, loaded: CausalLM, tmp_path: Path) -> None:
    given = quick()
    with fuse(after, half=True, error=OSError(errno.ENOSPC, "No space left on device")):
        said = say("run", *given)
    assert said.code == 1 and "the disk is full" in said.line and "goes on" in said.line
    assert say("run", *given).code == 0
    whole = go(prepared(override(given, f"paths.outputs={tmp_path / 'whole'}"), loaded))
    assert records(_only_run()) == records(whole)


def test_a_full_disk_as_safetensors_and_numpy_say_it(say: CommandLine, quick: Quick, loaded: CausalLM) -> None:
    for where, name, error in (
        (
            checkpoints,
            "save_file",
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ),
        (np, "savez_compressed", OSError(errno.ENOSPC, "No space left on device")),
    ):
        with pytest.MonkeyPatch.context() as patch:

            def full(*args: object, error: Exception = error, **kwargs: object) -> None:
                raise error

            patch.setattr(where, name, full)
            said = say("run", *quick("ft"))
        assert said.code == 1 and "the disk is full" in said.err.splitlines()[-1] and "Traceback" not in said.err
        assert _only_run().status["status"] == "failed"
    assert say("run", *quick("ft")).code == 0


def test_an_error_of_the_program_keeps_what_was_measured(say: CommandLine, quick: Quick, loaded: CausalLM) -> None:
    edit = Rome.edit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rome, "edit", lambda self, m, r, s: edit(self, m, r, s) if r[0].id < "2" else 1 / 0)
        said = say("run", *quick())
    assert said.code == 1 and "ZeroDivisionError" in said.err.splitlines()[-1]
    run = _only_run()
    assert run.status["status"] == "failed" and "ZeroDivisionError" in run.status["traceback"]
    assert len(run.points) == 3
    assert say("run", *quick()).code == 0 and _only_run().complete


def test_a_failing_job_does_not_stop_the_sweep(say: CommandLine, quick: Quick, loaded: CausalLM) -> None:
    given = [o for o in quick("ft") if not o.startswith("task.n_requests")]
    said = say("run", "-m", *given, "layer.index=9,0", "task.n_requests=2")
    assert said.code == 2 and "layer.index=9 does not exist" in said.err and "Traceback" not in said.err
    by_layer = {r.config["layer"]["index"]: r for r in runs.list_runs(Path("outputs"))}
    assert by_layer[0].complete and by_layer[9].status["status"] == "failed"
    assert "UserError" in by_layer[9].status["traceback"]


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("editor", ["rome", "memit", "ft"])
def test_an_edit_with_nan_is_refused_and_the_walk_goes_on(
    editor: str, quick: Quick, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """The second of four edits is not a number: the others are as if it had never been asked for."""
    model = tiny_model("gpt2")
    given = quick(editor)
    kind = type(prepared(given, model).editor)
    edit = kind.edit

    def broken(self: object, on: CausalLM, requests: list, state: object) -> object:
        found = edit(self, on, requests, state)  # type: ignore[arg-type]
        if requests[0].id != "1":
            return found
        from edit_robust.editors.base import Edit, refuse_nonfinite

        return refuse_nonfinite(Edit(found.delta.scale(float("nan")), found.info))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "edit", broken)
        run = go(prepared(given, model))
        made = prepared(override(given, f"paths.outputs={tmp_path / 'killed'}"), model)
        for after in (20, 9, 13):
            with suppress(KilledError), fuse(after):
                go(made)
        assert records(go(made)) == records(run)
    assert run.complete and run.summary["n_refused"] == 1 and run.summary["n_edits"] == 4
    table = run.records
    refused = table[table.metric == "refused"]
    assert list(refused.sort_values("step").value) == [0, 1, 0, 0]
    assert np.isfinite(run.summary["drift"])


@pytest.mark.parametrize("editor, option", [("rome", "editor.v_lr=1e38"), ("ft-unconstrained", "editor.lr=1e30")])
def test_a_learning_rate_that_blows_up(editor: str, option: str, quick: Quick, tiny_model: TinyModel) -> None:
    """Nothing non-finite reaches the model, and every line of the records is JSON for everybody."""
    run = go(prepared(override(quick(editor), option), tiny_model("gpt2")))
    assert run.complete and run.summary["n_edits"] == 4
    for line in (run.path / "records.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    json.loads((run.path / "summary.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert all(d.finite() for d in run.deltas())
