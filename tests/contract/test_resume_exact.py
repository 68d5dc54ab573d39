"""Edits that are made again or replayed are the same to the bit; a walk that comes out elsewhere does not go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import KilledError, go, made_until, override, prepared, records

import edit_robust
from edit_robust.core import Delta, LowRank
from edit_robust.core.pace import Pace
from edit_robust.editors.base import Edit
from edit_robust.editors.language.fine_tune import FineTune
from edit_robust.editors.language.memit import Memit
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs import checkpoints, ledger
from edit_robust.runs.reader import Run

pytestmark = pytest.mark.slow

Quick = Callable[..., list[str]]
TinyModel = Callable[[str], CausalLM]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The steps at which weights are kept: every third, and the last."""
    steps: list[int] = []
    write = ledger.keep_weights

    def noted(path: Path, model: Any, names: Any, about: dict[str, Any]) -> None:
        steps.append(about["step"])
        write(path, model, names, about)

    asked: list[float] = []
    monkeypatch.setattr(ledger, "keep_weights", noted)
    monkeypatch.setattr(Pace, "due", lambda self, worked: asked.append(worked) or len(asked) % 3 == 0)
    yield steps


@pytest.mark.parametrize("at", [2, 3, 5, 9])
def test_fine_tuning_goes_on_from_the_kept_weights(
    at: int, quick: Quick, tiny_model: TinyModel, tmp_path: Path, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two times of keeping weights: the edits in between are made again, with the same bits."""
    model = tiny_model("gpt2")
    given = override(quick("ft"), "task.n_requests=10", "trajectory.every=100")
    whole = go(prepared(given, model))
    assert kept == [3, 6, 9, 10], "the last edit's always"
    made = prepared(override(given, f"paths.outputs={tmp_path / 'killed'}"), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(FineTune, at, patch)
        go(made)
    assert len(Run(made.outputs / "runs" / made.run_id).points) == at + 1, "every edit before it was measured"
    with monkeypatch.context() as patch:
        again = made_until(FineTune, -1, patch)
        run = go(made)
    assert again == [str(i) for i in range(at - at % 3, 10)], "those after the kept weights, and no others"
    assert records(run) == records(whole)
    assert run.delta().digest() == whole.delta().digest()


def test_a_last_edit_that_is_refused(
    quick: Quick, tiny_model: TinyModel, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a walk whose last edits are empty, the weights after all edits are kept all the same."""
    edit = FineTune.edit

    def fails(self: Any, model: Any, requests: Any, state: Any) -> Any:
        if requests[0].id in ("4", "5"):
            torch.linalg.cholesky(-torch.eye(2))
        return edit(self, model, requests, state)

    monkeypatch.setattr(FineTune, "edit", fails)
    model = tiny_model("gpt2")
    run = go(prepared(override(quick("ft"), "task.n_requests=6", "trajectory.every=100"), model))
    assert run.summary["n_refused"] == 2 and kept == [3, 6]
    names = model.parameter_names([model.layer_at(0).name])
    with model.held(names) as before:
        run.replay(model)
        drift = model.difference(before).norm()
    last = run.records[(run.records.metric == "drift_fro") & (run.records.step == 6)]
    assert drift == pytest.approx(run.delta().norm(), rel=1e-6)
    assert float(last.value.max()) == pytest.approx(run.delta().terms[names[0]].norm(), rel=1e-6)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("editor", ["rome", "memit", "ft"])
def test_weights_that_are_not_those_of_before(
    editor: str, quick: Quick, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of the weights at the newest check stands in the run's folder, and a replay must come there."""
    model = tiny_model("gpt2")
    made = prepared(override(quick(editor), "task.n_requests=5"), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(type(made.editor), 3, patch)
        patch.setattr(Pace, "due", lambda self, worked: False)
        go(made)
    check = made.outputs / "runs" / made.run_id / "state" / "check.json"
    right = json.loads(check.read_text())
    assert right["step"] == 2 and len(right["weights"]) == 32, "past edits are checked every two"
    change(check, weights="0" * 32)
    with pytest.raises(edit_robust.UserError, match=r"the weights after edit 2 are not those .* force=true"):
        go(made)
    assert model.position == model.base
    change(check, **right)
    assert go(made).complete and json.loads(check.read_text())["step"] == 5


def test_an_edit_that_comes_out_as_another_one(
    quick: Quick, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2")
    made = prepared(override(quick("ft"), "task.n_requests=5", "trajectory.every=100"), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(FineTune, 3, patch)
        patch.setattr(Pace, "due", lambda self, worked: False)
        go(made)
    with monkeypatch.context() as patch:
        patch.setattr(made.editor, "lr", made.editor.lr * (1 + 1e-6))  # type: ignore[attr-defined]
        with pytest.raises(edit_robust.UserError, match="edit 1 was made again and is not the one"):
            go(made)
    assert go(made).complete


def test_fresh_and_replayed_factors_go_through_the_same_product(
    quick: Quick, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the parameter's device, laid out alike: a product of other layouts may round otherwise."""
    model = tiny_model("gpt2")
    seen: list[tuple[Any, ...]] = []
    dense = LowRank.dense

    def noted(self: LowRank) -> torch.Tensor:
        seen.append((self.shape, self.u.device, self.u.stride(), self.v.stride(), self.u.dtype))
        return dense(self)

    made = prepared(override(quick("memit"), "trajectory.batch_size=2", "layer.index=0"), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(Memit, 2, patch)
        edited = ledger.Stack._made
        patch.setattr(LowRank, "dense", noted)

        def afterwards(self: Any, *args: Any) -> Any:
            edit = edited(self, *args)
            seen[:] = seen[-1:]  # the product with which the walk went on
            return edit

        patch.setattr(ledger.Stack, "_made", afterwards)
        go(made)
    fresh = seen[:1]
    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(LowRank, "dense", noted)
        go(made)
    assert fresh == seen[:1] and fresh[0][2] == (2, 1)


def test_what_edits_carry_comes_back_as_it_was(model_folder: Path) -> None:
    """On the CPU and contiguous, made now or read: sums over it are formed by the same operations."""
    loose = torch.arange(6.0).reshape(2, 3).T
    edit = ledger.settled(Edit(Delta({}), [{}], {"k": loose}), None)
    assert edit.carry["k"].is_contiguous() and torch.equal(edit.carry["k"], loose)
    ledger.keep_edit(model_folder, 1, edit)
    back = ledger.kept_edit(model_folder, 1)
    assert back is not None and torch.equal(back.carry["k"], loose)
    assert back.carry["k"].stride() == edit.carry["k"].stride()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    for name in ("deltas", "state"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_the_hash_of_weights_tells_single_bits(tiny_model: TinyModel) -> None:
    model = tiny_model("gpt2")
    names = model.parameter_names([model.layer_at(0).name])
    before = checkpoints.digest(model, names)
    with model.held(names), torch.no_grad():
        w = model.param(names[0])
        w[0, 0] = torch.nextafter(w[0, 0], torch.tensor(9.0))
        assert checkpoints.digest(model, names) != before
    assert checkpoints.digest(model, list(reversed(names))) == before
