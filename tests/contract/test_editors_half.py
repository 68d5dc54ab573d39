"""Models in half precision: edits do what they do in float32, and changes are told in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.half import gains
from helpers.small import SmallTask, left_as_found

from edit_robust.core.work import Workspace
from edit_robust.editors.helpers.masters import Masters
from edit_robust.editors.language.fine_tune import FineTune
from edit_robust.evaluate.statistics.weights import drift
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow

Checkpoint = Callable[[str], Path]
TinyModel = Callable[[str], CausalLM]
#: In nats of the target's log-probability: how far rounding moves what an edit gains (bfloat16 has 8 bits).
TOLERANCE = {"bfloat16": 0.2, "float16": 0.05}


@pytest.fixture(scope="module")
def half(checkpoint: Checkpoint) -> Callable[[str, str], CausalLM]:
    made: dict[tuple[str, str], CausalLM] = {}

    def get(kind: str, dtype: str) -> CausalLM:
        if (kind, dtype) not in made:
            made[kind, dtype] = CausalLM(str(checkpoint(kind)), name=kind, device="cpu", dtype=dtype)
        return made[kind, dtype]

    return get


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", ["rome", "memit", "ft", "ft-unconstrained"])
@pytest.mark.parametrize("kind", ["gpt2", pytest.param("llama", marks=pytest.mark.thorough)])
def test_edits_gain_what_they_gain_in_float32(
    kind: str, name: str, dtype: str, tiny_model: TinyModel, half: Callable[[str, str], CausalLM], tmp_path: Path
) -> None:
    want = gains(tiny_model(kind), tiny_model(kind), name, tmp_path)
    found = gains(half(kind, dtype), tiny_model(kind), name, tmp_path)
    assert want.max() > 0.2, "nothing to compare"
    assert np.abs(found - want).max() < TOLERANCE[dtype], (found, want)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_small_steps_are_not_rounded_away(dtype: str, half: Callable[[str, str], CausalLM], tmp_path: Path) -> None:
    """A ball of 5e-5, as the released FT-C has it for GPT-J: the change reaches its surface nearly everywhere."""
    model, eps = half("gpt2", dtype), 5e-5
    editor = FineTune(lr=5e-4, num_steps=3, norm_constraint=eps)
    state = editor.prepare(model, [model.layer_at(1).name], SmallTask(1), Workspace(tmp_path))  # type: ignore[arg-type]
    with left_as_found(model):
        edit = editor.edit(model, SmallTask(1).requests(), state)
    assert not edit.refused
    change = edit.delta.terms[model.layer_at(1).weight_name].dense()
    assert change.dtype == torch.float32 and float(change.abs().max()) <= eps * 1.01
    assert float((change.abs() > 0.9 * eps).float().mean()) > 0.9


def test_copies_are_rounded_into_the_model(half: Callable[[str, str], CausalLM]) -> None:
    model = half("gpt2", "bfloat16")
    names = model.parameter_names([model.layer_at(0).name])
    with left_as_found(model), model.scratch(names) as scratch:
        trained = Masters.of(model, scratch.before)
        with torch.no_grad():
            for value in trained.values.values():
                value += 1e-3 * torch.randn(value.shape)
        trained.write()
        change = trained.change()
        for n in names:
            assert (
                torch.equal(model.param(n), trained.values[n].bfloat16()) and trained.values[n].dtype == torch.float32
            )
        rounded = {n: model.param(n).detach().clone() for n in names}
    with left_as_found(model), model.patched(change):
        assert all(torch.equal(model.param(n), rounded[n]) for n in names), "applied, the change gives the same weights"


def test_parameters_in_float32_are_trained_themselves(tiny_model: TinyModel) -> None:
    model = tiny_model("gpt2")
    names = model.parameter_names([model.layer_at(0).name])
    with model.scratch(names) as scratch:
        trained = Masters.of(model, scratch.before)
        assert all(trained.values[n] is model.param(n) for n in names)


def test_distances_are_told_in_double(half: Callable[[str, str], CausalLM]) -> None:
    """Of half-precision weights, whose own norm would overflow or lose its digits."""
    model = half("gpt2", "float16")
    name = model.layer_at(0).weight_name
    with model.held([name]) as before:
        with torch.no_grad():
            model.param(name).add_(300.0)
        moved, was = model.matrix(name), model.as_matrix(name, before.values[name])
        found = drift(moved, was)["drift_fro"]
        want = float(np.linalg.norm(moved.double().numpy() - was.double().numpy()))
        assert found == pytest.approx(want, rel=1e-12)
        assert model.difference(before).norm() == pytest.approx(want, rel=1e-6)
