"""Injecting a vector: what changes, and what must not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.small import left_as_found, relative

from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.injection import PlainInjection, TailInjection

Get = Callable[[str], CausalLM]


@pytest.mark.parametrize("kind", [PlainInjection, TailInjection])
def test_a_delta_moves_its_own_row_from_its_position_on(tiny_model: Get, kind: type) -> None:
    model = tiny_model("gpt2")
    rows, positions = [[5, 6, 7, 8, 9, 10], [11, 12, 13]], [2, 1]
    reads = [(0, 2), (0, 5), (1, 1), (1, 2)]
    with left_as_found(model):
        injection = kind(model, model.layer_at(1).name, "mlp", rows, positions, reads)
        still = injection.read(torch.zeros(2, 48))
        moved = injection.read(torch.stack([torch.ones(48).cumsum(0) / 10, torch.zeros(48)]))
    changed = (moved - still).abs().amax(dim=1)
    assert (changed[:2] > 1e-2).all() and (changed[2:] < 1e-5).all()


def test_the_plain_one_is_a_hook_on_the_projection(tiny_model: Get) -> None:
    model = tiny_model("llama")
    ids, at = [1, 40, 50, 60, 70], 2
    layer = model.layer_at(1)
    delta = torch.randn(32)
    for where, module in (("mlp", layer.module), ("block", model.anatomy.blocks[1])):
        injection = PlainInjection(model, layer.name, where, [ids], [at], [(0, 4)])

        def add(m: object, args: object, out: torch.Tensor) -> torch.Tensor:
            out = out.clone()
            out[0, at] += delta
            return out

        hook = module.register_forward_hook(add)
        want = model.net(input_ids=torch.tensor([ids])).logits[0, 4]
        hook.remove()
        assert relative(injection.read(delta[None])[0], want) < 1e-5


def test_rows_of_other_lengths_do_not_touch_each_other(tiny_model: Get) -> None:
    """A row's logits are the same alone and beside longer ones: the gap and the padding are invisible."""
    model = tiny_model("qwen3")
    name = model.layer_at(0).name
    short, long = [9, 8, 7], list(range(20, 50))
    delta = torch.randn(1, 32)
    alone = TailInjection(model, name, "block", [short], [1], [(0, 2)]).read(delta)
    beside = TailInjection(model, name, "block", [short, long, long], [1, 25, 3], [(0, 2), (1, 29), (2, 20)])
    assert relative(beside.read(delta.expand(3, -1))[0], alone[0]) < 1e-4


def test_reads_before_the_row_ends_cut_it(tiny_model: Get) -> None:
    model = tiny_model("gpt2")
    injection = TailInjection(model, model.layer_at(0).name, "mlp", [list(range(30))], [3], [(0, 5)])
    assert injection.stream.shape[1] == 3
    none = TailInjection(model, model.layer_at(0).name, "mlp", [list(range(30)), [4, 5]], [3, 1], [(1, 1)])
    assert none.read(torch.zeros(2, 48)).shape == (1, int(model.config.vocab_size))
