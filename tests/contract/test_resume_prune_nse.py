"""Runs of editors whose edits carry something on, killed and gone on with, end as if uninterrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import KilledError, go, made_until, override, prepared, records

from edit_robust.editors.language import nse, prune, rect
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow

Quick = Callable[..., list[str]]
TinyModel = Callable[[str], CausalLM]
EDITORS: dict[str, tuple[Any, list[str]]] = {
    "prune": (prune.Prune, ["editor.log_base=1.5"]),
    "nse": (nse.Nse, ["editor.p=0.8"]),
    "rect": (rect.Rect, []),
}


def given(quick: Quick, name: str, *more: str) -> list[str]:
    return override(quick("memit"), f"editor={name}", "editor.v_num_grad_steps=6", *EDITORS[name][1], *more)


@pytest.mark.parametrize(("name", "size"), [("prune", 1), ("nse", 2), ("rect", 1)])
def test_killed_and_gone_on_with(name: str, size: int, quick: Quick, tiny_model: TinyModel, tmp_path: Path) -> None:
    model, batch = tiny_model("gpt2"), f"trajectory.batch_size={size}"
    whole = go(prepared(given(quick, name, batch, "task.n_requests=5"), model))
    assert whole.summary["n_refused"] == 0
    made = prepared(given(quick, name, batch, "task.n_requests=5", f"paths.outputs={tmp_path / 'killed'}"), model)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        made_until(EDITORS[name][0], 2, patch)
        go(made)
    run = go(prepared(given(quick, name, batch, "task.n_requests=5", f"paths.outputs={tmp_path / 'killed'}"), model))
    assert records(run) == records(whole)
    assert run.delta().digest() == whole.delta().digest()


def test_a_walk_of_factors_and_matrices(
    quick: Quick, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PRUNE's changes are factors as long as few directions are pruned, and matrices from then on."""
    monkeypatch.setattr(prune, "_FACTORED", 0.12)
    model = tiny_model("gpt2")
    options = ["task.n_requests=6", "trajectory.every=3", "editor.clamp_norm_factor=4", "editor.v_num_grad_steps=12"]
    whole = go(prepared(given(quick, "prune", *options), model))
    kept = len(list((whole.path / "deltas").glob("0*.safetensors")))
    assert 0 < kept < 6, "some are kept as factors, the others in the weights"
    made = prepared(given(quick, "prune", *options, f"paths.outputs={tmp_path / 'killed'}"), model)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        made_until(prune.Prune, 5, patch)
        go(made)
    run = go(made)
    assert records(run) == records(whole) and run.delta().digest() == whole.delta().digest()
    names = list(whole.delta().terms)
    with model.held(names):
        whole.replay(model)
        walked = {n: model.matrix(n).clone() for n in names}
    with model.held(names):
        model.add(whole.delta())
        assert all(torch.allclose(model.matrix(n), walked[n], atol=1e-5) for n in names)
