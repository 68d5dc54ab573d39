"""Gradients with respect to projections' outputs: with the inputs they make the weights' own gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers.plain import ROWS_TEXT
from helpers.small import left_as_found, relative

from edit_robust.models.language.causal_lm import CausalLM

Get = Callable[[str], CausalLM]


@pytest.fixture(params=["gpt2", "llama", "gptj"])
def model(request: pytest.FixtureRequest, tiny_model: Get) -> CausalLM:
    return tiny_model(request.param)


def asked(model: CausalLM) -> tuple[list[list[int]], list[tuple[int, int]], list[int], list[float]]:
    rows = [model.text.encode(t) for t in (*ROWS_TEXT, "Ada")]
    reads = [(2, 4), (0, 1), (0, len(rows[0]) - 1), (1, 3)]  # of the last row nothing is read
    return rows, reads, [5, 6, 7, 8], [1.0, 0.5, 2.0, 0.25]


def by_autograd(model: CausalLM, names: list[str]) -> dict[str, torch.Tensor]:
    """Gradients of the parameters, one whole row at a time."""
    rows, reads, targets, weights = asked(model)
    with model.scratch(names):
        for (row, at), target, share in zip(reads, targets, weights, strict=True):
            logits = model.net(input_ids=torch.tensor([rows[row]]), use_cache=False).logits[0, at]
            (-share * logits.log_softmax(-1)[target]).backward()
        return {n: model.as_matrix(n, model.param(n).grad.clone()) for n in names}  # type: ignore[union-attr]


@pytest.mark.parametrize("plain", [False, True])
def test_they_make_the_gradient_of_the_weight(model: CausalLM, plain: bool) -> None:
    rows, reads, targets, weights = asked(model)
    layers = [model.layer_at(0), model.layer_at(2)]
    names = [n for layer in layers for n in model.parameter_names([layer.name])]
    want = by_autograd(model, names)
    kept, able = model.batch_tokens, model.abilities
    model.batch_tokens = 2 * max(len(r) for r in rows)  # several batches
    model.abilities = replace(able, reads=not plain)
    try:
        with left_as_found(model):
            found = model.output_gradients(rows, reads, targets, [x.name for x in layers], weights)
    finally:
        model.batch_tokens, model.abilities = kept, able
    tokens = sum(len(r) for r in rows)
    for layer in layers:
        u, delta = found[layer.name].inputs, found[layer.name].gradients
        d_out, d_in = layer.shape
        assert u.shape == (tokens, d_in) and delta.shape == (tokens, d_out)
        assert want[layer.weight_name].norm() > 1e-3
        assert relative(delta.T @ u, want[layer.weight_name]) < 1e-5
        if layer.bias_name:
            assert relative(delta.sum(0)[:, None], want[layer.bias_name]) < 1e-5
        assert (delta[-len(rows[-1]) :] == 0).all(), "of the last row nothing was read"
        starts = [0, len(rows[0])]
        assert (delta[starts[1] + 4 : starts[1] + len(rows[1])] == 0).all(), "tokens behind the last read have no part"


def test_inputs_are_those_of_a_trace(model: CausalLM) -> None:
    rows, reads, targets, _ = asked(model)
    name = model.layer_at(1).name
    found = model.output_gradients(rows, reads, targets, [name])[name]
    start = 0
    for row in rows:
        for at in (0, len(row) - 1):
            assert relative(found.inputs[start + at], model.trace([row], [at], [name])[name][0]) < 1e-5
        start += len(row)


def test_weights_default_to_one(model: CausalLM) -> None:
    rows, reads, targets, _ = asked(model)
    name = model.layer_at(1).name
    one = model.output_gradients(rows, reads, targets, [name])[name]
    two = model.output_gradients(rows, reads, targets, [name], [2.0] * len(reads))[name]
    assert relative(two.gradients, 2 * one.gradients) < 1e-5
