"""A walk of factors goes on from kept weights, where replaying it from the first edit would take long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import KilledError, go, made_until, override, prepared, records

import edit_robust
from edit_robust.core import Delta
from edit_robust.core.pace import Pace
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs import checkpoints, ledger
from edit_robust.runs.reader import Run

pytestmark = pytest.mark.slow

Quick = Callable[..., list[str]]
TinyModel = Callable[[str], CausalLM]
N = 8  # edits


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are kept every third time that a walk asks whether to."""

    def due(self: Any, worked: float) -> bool:
        self.asked = getattr(self, "asked", 0) + 1
        return self.asked % 3 == 0

    monkeypatch.setattr(ledger, "REPLAY", 0.0)
    monkeypatch.setattr(Pace, "due", due)


def ended(run: Run, model: CausalLM) -> str:
    """Hash of the weights at the end of a run's walk."""
    names = model.parameter_names([model.layer_at(0).name])
    with model.held(names):
        run.replay(model)
        return checkpoints.digest(model, names)


def test_it_goes_on_from_the_kept_weights(
    quick: Quick, tiny_model: TinyModel, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changes before them are not read again, and every bit is that of an uninterrupted run."""
    model = tiny_model("gpt2")
    given = override(quick("rome"), f"task.n_requests={N}", "layer.index=0")
    whole = go(prepared(given, model))
    about = checkpoints.kept_weights(whole.path)
    assert about is not None and about["step"] == 6 and about["dense"] is False
    assert not (whole.path / "deltas" / "total.safetensors").exists(), "its edits are kept one by one"
    for at, start in ((5, 3), (7, 6)):
        made = prepared(override(given, f"paths.outputs={tmp_path / str(at)}"), model)
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            made_until(Rome, at, patch)
            go(made)
        read: list[int] = []
        load = Delta.load
        with monkeypatch.context() as patch:
            patch.setattr(
                Delta, "load", lambda path, load=load, read=read: read.append(int(Path(path).stem)) or load(path)
            )
            again = made_until(Rome, -1, patch)
            run = go(made)
        assert read == list(range(start + 1, at + 1)), "those after the kept weights, and no others"
        assert again == [str(i) for i in range(at, N)]
        assert records(run) == records(whole)
        assert run.delta().digest() == whole.delta().digest()
        assert ended(run, model) == ended(whole, model)


def test_kept_weights_and_the_edits_after_them_are_the_whole_walk(
    quick: Quick, tiny_model: TinyModel, often: None
) -> None:
    """`replay` begins with them; without them it comes to the same bits from the first edit on."""
    model = tiny_model("gpt2")
    run = go(prepared(override(quick("rome"), f"task.n_requests={N}", "layer.index=0"), model))
    there = ended(run, model)
    (run.path / "state" / "weights.safetensors").unlink()
    assert ended(run, model) == there
    assert model.position == model.base


def test_a_short_walk_keeps_no_weights(quick: Quick, tiny_model: TinyModel) -> None:
    run = go(prepared(override(quick("rome"), "layer.index=0"), tiny_model("gpt2")))
    assert checkpoints.kept_weights(run.path) is None, "replaying it takes an instant"


def test_points_that_were_answered_together_are_walked_through_again(
    quick: Quick, tiny_model: TinyModel, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a point before the kept weights was not written, the walk is replayed from the first edit."""
    model = tiny_model("gpt2")
    made = prepared(override(quick("rome"), f"task.n_requests={N}", "layer.index=0"), model)
    whole = records(go(made))
    path = made.outputs / "runs" / made.run_id
    lines = (path / "points.jsonl").read_text().splitlines(keepends=True)
    (path / "points.jsonl").write_text("".join(lines[:3]))
    (path / "status.json").write_text("{}")
    assert records(go(made)) == whole


def test_an_edit_made_at_other_weights_is_refused(
    quick: Quick, tiny_model: TinyModel, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept weights are another run's: the next change does not fit them."""
    model = tiny_model("gpt2")
    made = prepared(override(quick("rome"), f"task.n_requests={N}", "layer.index=0"), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(Rome, 5, patch)
        go(made)
    path = made.outputs / "runs" / made.run_id
    about: dict[str, Any] = {**(checkpoints.kept_weights(path) or {}), "position": "0" * 16}
    name = model.layer_at(0).weight_name
    with model.held([name]), torch.no_grad():
        model.param(name).add_(1.0)
        checkpoints.keep_weights(path, model, [name], about)
    with pytest.raises(edit_robust.UserError, match="was made at other weights"):
        go(made)
