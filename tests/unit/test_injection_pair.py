"""Injecting two vectors: where they go, and that no more is run than they can change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.small import left_as_found, relative

from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.injection import PlainInjection
from edit_robust.models.language.injection_pair import PlainPair, TailPair, attention_projection, pair_injection

Get = Callable[[str], CausalLM]

WHERE = {
    "gpt2": "attn.c_proj",
    "gptj": "attn.out_proj",
    "gpt_neox": "attention.dense",
    "llama": "self_attn.o_proj",
    "qwen3": "self_attn.o_proj",
    "bloom": "self_attention.dense",
    "gemma2": "self_attn.o_proj",
}
ROWS, POSITIONS, READS = [[5, 6, 7, 8, 9, 10], [11, 12, 13]], [2, 1], [(0, 2), (0, 5), (1, 2)]


@pytest.mark.parametrize("kind", list(WHERE))
def test_attention_is_found_by_structure(tiny_model: Get, kind: str) -> None:
    model = tiny_model(kind)
    names = {m: n for n, m in model.net.named_modules()}
    for layer in model.layers.values():
        found = names[attention_projection(model, layer.name)]
        block = names[model.anatomy.blocks[layer.index]]
        assert found == f"{block}.{WHERE[kind]}"


@pytest.mark.parametrize("kind", list(WHERE))
@pytest.mark.parametrize("index", [0, -1])
def test_tails_give_what_whole_sequences_give(tiny_model: Get, kind: str, index: int) -> None:
    model = tiny_model(kind)
    name = model.layer_at(index % model.n_layers).name
    delta = torch.randn(2, 2 * model.hidden_size)
    with left_as_found(model):
        fast, plain = (pair_injection(model, name, ROWS, POSITIONS, READS, p) for p in (False, True))
        assert isinstance(plain, PlainPair) and isinstance(fast, TailPair) == model.abilities.tails
        assert fast.out.shape == delta.shape and relative(fast.out, plain.out) < 1e-4
        assert relative(fast.keys, plain.keys) < 1e-4 and relative(fast.unmoved, plain.unmoved) < 1e-4
        assert relative(plain.read(torch.zeros_like(delta)), plain.unmoved) < 1e-5
        assert relative(fast.read(delta), plain.read(delta)) < 1e-4
        assert relative(plain.read(delta), plain.unmoved) > 1e-2


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_each_vector_goes_to_its_own_place(tiny_model: Get, kind: str) -> None:
    """The MLP's alone is what one vector at the MLP does; attention's also reaches the block's own MLP."""
    model, name = tiny_model(kind), tiny_model(kind).layer_at(1).name
    pair = PlainPair(model, attention_projection(model, name), name, ROWS, POSITIONS, READS)
    single = PlainInjection(model, name, "mlp", ROWS, POSITIONS, READS)
    a, b = torch.randn(2, 2, model.hidden_size)
    none = torch.zeros_like(a)
    assert relative(pair.out[:, model.hidden_size :], single.out) < 1e-6
    assert relative(pair.read(torch.cat([none, b], 1)), single.read(b)) < 1e-5
    assert relative(pair.read(torch.cat([a, none], 1)), single.read(a)) > 1e-3


def test_parallel_blocks_add_both(tiny_model: Get) -> None:
    """Where attention and MLP read the same stream side by side, it does not matter which of them a vector joins."""
    model, name = tiny_model("gptj"), tiny_model("gptj").layer_at(1).name
    pair = TailPair(model, attention_projection(model, name), name, ROWS, POSITIONS, READS)
    single = PlainInjection(model, name, "mlp", ROWS, POSITIONS, READS)
    a, b = torch.randn(2, 2, model.hidden_size)
    assert relative(pair.read(torch.cat([a, b], 1)), single.read(a + b)) < 1e-5
