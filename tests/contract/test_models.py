"""What every causal language model must keep to: the fast paths are the plain one, and the parts are found by what they
do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plain import ROWS_TEXT, plain_logits, plainly_scored
from helpers.small import SmallTask, left_as_found, relative
from helpers.tiny import KINDS

from edit_robust.core import Delta, Dense, UserError
from edit_robust.models.language.anatomy import hidden_of
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.injection import PlainInjection, TailInjection

Get = Callable[[str], CausalLM]
DOWN = {
    "gpt2": ("transformer.h.{}.mlp.c_proj", "conv1d", (48, 192)),
    "gptj": ("transformer.h.{}.mlp.fc_out", "linear", (64, 256)),
    "gpt_neox": ("gpt_neox.layers.{}.mlp.dense_4h_to_h", "linear", (32, 80)),
    "bloom": ("transformer.h.{}.mlp.dense_4h_to_h", "linear", (48, 192)),
    **dict.fromkeys(
        ("llama", "qwen2", "qwen3", "mistral", "gemma2"), ("model.layers.{}.mlp.down_proj", "linear", (32, 80))
    ),
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny_model: Get) -> CausalLM:
    return tiny_model(request.param)


def test_parts_are_found_by_what_they_do(model: CausalLM) -> None:
    name, kind, shape = DOWN[model.name]
    assert [layer.name for layer in model.anatomy.layers] == [name.format(i) for i in range(model.n_layers)]
    assert {layer.kind for layer in model.anatomy.layers} == {kind}
    assert all(layer.shape == shape for layer in model.anatomy.layers)
    assert model.anatomy.additive == (model.name != "gemma2")
    assert len(model.anatomy.after) == 1 and model.anatomy.head is model.net.get_output_embeddings()
    assert model.layer_at(-1) is model.anatomy.layers[-1]
    with pytest.raises(UserError, match="has layers 0 to"):
        model.layer_at(model.n_layers)


def test_scores_are_those_of_whole_forward_passes(model: CausalLM, task: SmallTask) -> None:
    examples = task.examples()[:18]
    want_logp, want_hits = plainly_scored(model, examples)
    ours = model.score(examples)
    assert np.abs(ours.logp - want_logp).max() < 1e-4
    assert ((ours.logp[:, 0] > ours.logp[:, 1]) == (want_logp[:, 0] > want_logp[:, 1])).all()
    assert (ours.hits == want_hits).all()
    model.fast = False
    try:
        plain = model.score(examples)
    finally:
        model.fast = True
    assert np.abs(plain.logp - want_logp).max() < 1e-5 and (plain.hits == want_hits).all()
    assert (plain.tokens == ours.tokens).all() and (ours.tokens > 0).all()


def test_prepared_questions_follow_the_edits(model: CausalLM, task: SmallTask) -> None:
    examples = task.examples()[:18]
    layers = [model.layer_at(1).name, model.layer_at(2).name]
    scorer = model.scorer(examples, model.parameter_names(layers))
    assert scorer.kept is not None and scorer.kept.entry.start == (2 if model.anatomy.additive else 1)
    unedited = scorer.score()
    draw = torch.Generator().manual_seed(1)
    change = {}
    for n in model.parameter_names(layers):
        m = model.matrix(n)
        change[n] = Dense(0.3 * float(m.std()) * torch.randn(m.shape, generator=draw))
    with model.patched(Delta(change)):
        want, _ = plainly_scored(model, examples)
        after = scorer.score()
        some = scorer.score([7, 2, 11])
    assert np.abs(after.logp - want).max() < 1e-4
    assert np.abs(after.logp - unedited.logp).max() > 1e-2, "the change shows nowhere: this test tests nothing"
    assert np.abs(some.logp - after.logp[[7, 2, 11]]).max() < 1e-5 and (some.target == after.target[[7, 2, 11]]).all()
    assert np.array_equal(scorer.score().logp, unedited.logp)


def test_small_batches_give_the_same_scores(model: CausalLM, task: SmallTask) -> None:
    examples = task.examples()[:12]
    want = model.score(examples)
    kept, model.batch_tokens = model.batch_tokens, 30
    try:
        assert np.abs(model.score(examples).logp - want.logp).max() < 1e-5
    finally:
        model.batch_tokens = kept


@pytest.mark.parametrize("where", ["mlp", "block"])
@pytest.mark.parametrize("at", ["first", "middle", "last"])
def test_both_injections_are_one(model: CausalLM, where: str, at: str) -> None:
    """Logits and gradients, for prefixes of different lengths, none at all among them."""
    index = {"first": 0, "middle": 1, "last": model.n_layers - 1}[at]
    name = model.layer_at(index).name
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    start = 1 if rows[0][0] == model.text.tokenizer.bos_token_id else 0
    positions = [start, len(rows[1]) - 2, 5]
    reads = [(0, start), (0, len(rows[0]) - 1), (1, len(rows[1]) - 1), (2, 5), (2, 8)]
    plain, tail = (kind(model, name, where, rows, positions, reads) for kind in (PlainInjection, TailInjection))
    assert relative(tail.keys, plain.keys) < 1e-4 and relative(tail.out, plain.out) < 1e-4
    delta = 0.5 * torch.randn(plain.out.shape, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(len(reads), int(model.config.vocab_size), generator=torch.Generator().manual_seed(3))
    found = []
    for injection in (plain, tail):
        d = delta.clone().requires_grad_(True)
        logp = injection.read(d).log_softmax(-1)
        (gradient,) = torch.autograd.grad((logp * weight).sum(), d)
        found.append((logp.detach(), gradient))
    (logp, gradient), (logp_tail, gradient_tail) = found
    assert (logp - logp_tail).abs().max() < 1e-4
    assert relative(gradient_tail, gradient) < 1e-4
    assert torch.equal(tail.read(delta), tail.read(delta)), "an injection must stay as it is when it is read"
    unmoved = tail.read(torch.zeros_like(delta)).log_softmax(-1)
    whole = torch.stack([plain_logits(model, rows[r])[p] for r, p in reads]).log_softmax(-1)
    assert (unmoved - whole).abs().max() < 1e-4


def test_injections_without_any_prefix(tiny_model: Get) -> None:
    model = tiny_model("gpt2")
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    reads = [(i, len(r) - 1) for i, r in enumerate(rows)]
    name = model.layer_at(0).name
    plain, tail = (kind(model, name, "mlp", rows, [0, 0, 0], reads) for kind in (PlainInjection, TailInjection))
    delta = torch.randn(plain.out.shape)
    assert (plain.read(delta) - tail.read(delta)).abs().max() < 1e-3
    assert relative(tail.read(delta), plain.read(delta)) < 1e-5


def test_trained_logits_start_at_the_layer(model: CausalLM) -> None:
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    reads = [(0, 2), (1, 4), (2, len(rows[2]) - 1)]
    layers = [model.layer_at(1).name, model.layer_at(2).name]
    names = model.parameter_names(layers)
    weight = torch.randn(3, int(model.config.vocab_size), generator=torch.Generator().manual_seed(3))
    found: list[list[torch.Tensor]] = []
    for fast in (True, False):
        model.fast = fast
        try:
            with left_as_found(model), model.scratch(names):
                logits = model.trainable(rows, reads, names)
                with torch.no_grad():  # the function looks at the present weights
                    model.param(names[0]).mul_(1.1)
                out = logits()
                (out.log_softmax(-1) * weight).sum().backward()
                found.append([out.detach(), *(model.param(n).grad.clone() for n in names)])  # type: ignore[union-attr]
        finally:
            model.fast = True
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < 1e-4


def test_traced_keys_are_what_hooks_see(model: CausalLM) -> None:
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    positions = [2, len(rows[1]) - 1, 4]
    names = [layer.name for layer in model.anatomy.layers]
    kept, model.batch_tokens = model.batch_tokens, len(rows[1])
    try:
        ours = model.trace(rows, positions, names)
        streams = {n: model.block_output(n, rows, positions) for n in names}
    finally:
        model.batch_tokens = kept
    for i, (ids, p) in enumerate(zip(rows, positions, strict=True)):
        seen: dict[str, torch.Tensor] = {}
        hooks = [
            layer.module.register_forward_pre_hook(lambda m, a, n=layer.name, seen=seen: seen.update({n: a[0][0]}))
            for layer in model.anatomy.layers
        ]
        hooks += [
            block.register_forward_hook(lambda m, a, o, n=n, seen=seen: seen.update({f"{n}>": hidden_of(o)[0]}))
            for n, block in zip(names, model.anatomy.blocks, strict=True)
        ]
        model.net(input_ids=torch.tensor([ids]))
        for h in hooks:
            h.remove()
        for n in names:
            assert relative(ours[n][i], seen[n][p]) < 1e-5
            assert relative(streams[n][i], seen[f"{n}>"][p]) < 1e-5


def test_sampling_follows_its_generator(tiny_model: Get) -> None:
    for kind in ("gpt2", "llama"):
        model = tiny_model(kind)
        a, b, c = (model.sample("", 4, 8, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert a == b and a != c and len(a) == 4
        torch.manual_seed(5)
        before = torch.get_rng_state()
        model.sample("I", 2, 5, torch.Generator().manual_seed(0))
        assert torch.equal(before, torch.get_rng_state())
        assert all(t.startswith("Ada") for t in model.sample("Ada", 3, 9, torch.Generator().manual_seed(0), top_k=1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_loads_and_scores(
    checkpoint: Callable[[str], Path], tiny_model: Get, task: SmallTask, dtype: str
) -> None:
    for kind in ("gpt2", "llama"):
        half = CausalLM(str(checkpoint(kind)), dtype=dtype, device="cpu")
        assert half.layer_at(0).weight.dtype == getattr(torch, dtype)
        some = task.examples()[:12]
        assert np.abs(half.score(some).logp - tiny_model(kind).score(some).logp).max() < 0.6
        with_layers = half.scorer(some, [half.layer_at(1).weight_name]).score()
        assert np.isfinite(with_layers.logp).all()
