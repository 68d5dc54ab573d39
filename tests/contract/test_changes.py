"""What is computed once and kept follows the parameters that may change: every case against whole forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from helpers.plain import ROWS_TEXT, plainly_scored
from helpers.small import SmallTask, left_as_found, relative

from edit_robust.core import Delta, Dense, UserError
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.entry import AtBlock, AtProjection, Entry, entry_for

Get = Callable[[str], CausalLM]
KINDS = ["gpt2", "gptj", "gpt_neox", "llama", "qwen3"]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny_model: Get) -> CausalLM:
    return tiny_model(request.param)


def change_of(model: CausalLM, names: Sequence[str], scale: float = 1.0) -> Delta:
    draw = torch.Generator().manual_seed(1)
    found = {}
    for n in names:
        m = model.matrix(n)
        found[n] = Dense(scale * float(m.abs().mean()) * torch.randn(m.shape, generator=draw))
    return Delta(found)


def follows(model: CausalLM, changes: Sequence[str], changed: Sequence[str] | None = None) -> Entry | None:
    """Score with what is kept for `changes` while `changed` of them are changed; where it started from."""
    examples = SmallTask(3).examples()[:5]
    scorer = model.scorer(examples, changes)
    before = scorer.score()
    assert np.abs(before.logp - plainly_scored(model, examples)[0]).max() < 1e-4
    with left_as_found(model), model.patched(change_of(model, changes if changed is None else changed)):
        want, _ = plainly_scored(model, examples)
        after = scorer.score()
    assert np.abs(want - before.logp).max() > 2e-2, f"{changed or changes}: the change shows nowhere"
    assert np.abs(after.logp - want).max() < 1e-4, f"{changed or changes}: kept too much"
    assert np.array_equal(scorer.score().logp, before.logp)
    return scorer.kept.entry if scorer.kept else None


def parameters_of(model: CausalLM, module: torch.nn.Module) -> list[str]:
    mine = {id(p) for p in module.parameters()}
    return [n for n, p in model.net.named_parameters() if id(p) in mine]


@pytest.mark.slow
def test_every_parameter_of_a_block(model: CausalLM) -> None:
    """The down-projection is entered at its inputs, anything else of its block at the block's beginning."""
    for index in (1, 0):
        block, layer = model.anatomy.blocks[index], model.layer_at(index)
        names = parameters_of(model, block)
        assert len(names) > 5
        for name in names if index else names[:2]:
            entry = follows(model, [name])
            if name in (layer.weight_name, layer.bias_name):
                assert isinstance(entry, AtProjection) and entry.start == index + 1
            else:
                assert isinstance(entry, AtBlock) and entry.start == index


def test_norm_head_and_embeddings(model: CausalLM) -> None:
    norm = parameters_of(model, model.anatomy.after[0])
    for name in norm:
        entry = follows(model, [name])
        assert isinstance(entry, AtBlock) and entry.start == model.n_layers
    head = next(n for n, m in model.net.named_modules() if m is model.anatomy.head)
    embedding = next(n for n, m in model.net.named_modules() if m is model.net.get_input_embeddings())
    assert follows(model, [f"{embedding}.weight"]) is None
    tied = model.param(f"{head}.weight") is model.param(f"{embedding}.weight")
    assert tied == (model.name == "gpt2")
    entry = follows(model, [f"{head}.weight"])
    assert entry is None if tied else isinstance(entry, AtBlock) and entry.start == model.n_layers
    if model.name == "gpt2":
        assert follows(model, ["transformer.wpe.weight"]) is None


def test_several_parameters_start_at_the_lowest(model: CausalLM) -> None:
    low, high = model.layer_at(1), model.layer_at(2)
    inside = next(n for n in parameters_of(model, model.anatomy.blocks[1]) if n != low.weight_name)
    above = next(n for n in parameters_of(model, model.anatomy.blocks[2]) if n != high.weight_name)
    norm = parameters_of(model, model.anatomy.after[0])[0]
    at = follows(model, [above, norm, low.weight_name])
    assert isinstance(at, AtProjection) and at.start == 2
    at = follows(model, [high.weight_name, inside])
    assert isinstance(at, AtBlock) and at.start == 1
    at = follows(model, [low.weight_name, inside, high.weight_name], [low.weight_name])
    assert isinstance(at, AtBlock) and at.start == 1, "what may change counts, not what does"


def test_nothing_is_kept_when_nothing_is_said(model: CausalLM) -> None:
    name = parameters_of(model, model.anatomy.blocks[0])[0]
    examples = SmallTask(3).examples()[:5]
    scorer = model.scorer(examples)
    assert scorer.kept is None and entry_for(model, []) is None
    with model.patched(change_of(model, [name])):
        assert np.abs(scorer.score().logp - plainly_scored(model, examples)[0]).max() < 1e-4
    with pytest.raises(UserError, match=r"no parameter 'mlp\.weight'"):
        model.scorer(examples, ["mlp.weight"])


def test_training_follows_the_changes(model: CausalLM) -> None:
    """Logits and gradients of the function that starts late are those of the whole network, for every kind of start."""
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    reads = [(0, 2), (1, 4), (2, len(rows[2]) - 1)]
    layer = model.layer_at(1)
    inside = next(n for n in parameters_of(model, model.anatomy.blocks[1]) if n != layer.weight_name)
    norm = parameters_of(model, model.anatomy.after[0])[0]
    embedding = next(n for n, m in model.net.named_modules() if m is model.net.get_input_embeddings())
    weight = torch.randn(3, model.vocabulary, generator=torch.Generator().manual_seed(3))
    for names in ([layer.weight_name], [inside, layer.weight_name], [norm], [f"{embedding}.weight"]):
        found: list[list[torch.Tensor]] = []
        for fast in (True, False):
            model.fast = fast
            try:
                with left_as_found(model), model.scratch(names):
                    logits = model.trainable(rows, reads, names)
                    for _ in range(2):  # the second time after a step: what is kept must not have been touched
                        out = logits()
                        (out.log_softmax(-1) * weight).sum().backward()
                        with torch.no_grad():
                            model.param(names[0]).mul_(1.1)
                    found.append([out.detach(), *(model.param(n).grad.clone() for n in names)])  # type: ignore[union-attr]
            finally:
                model.fast = True
        for a, b in zip(*found, strict=True):
            assert relative(a, b) < 1e-4, names


def test_an_embedding_that_decides_how_blocks_are_called(tiny_model: Get) -> None:
    """Nothing recorded earlier is used when embeddings may change: positions made from them would be stale."""
    model = tiny_model("gpt2")
    scorer = model.scorer(SmallTask(3).examples()[:5], ["transformer.wte.weight"])
    want = scorer.score()
    kept = dict(model._calls)
    try:
        model._calls.clear()
        model._calls.update({width: [] for width in kept})  # replaying these would fail
        assert np.array_equal(scorer.score().logp, want.logp)
    finally:
        model._calls.clear()
        model._calls.update(kept)
