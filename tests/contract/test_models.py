"""What every causal language model must keep to: the fast paths are the plain one, the parts are found by what they
do, and a checkpoint that cannot be used ends in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.small import SmallTask, left_as_found, relative
from helpers.tiny import KINDS, tiny_config

from edit_robust.core import Delta, Dense, Example, UserError
from edit_robust.models.language.anatomy import hidden_of
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.injection import PlainSite, TailSite

Get = Callable[[str], CausalLM]
DOWN = {
    "gpt2": ("transformer.h.{}.mlp.c_proj", "conv1d", (48, 192)),
    "gptj": ("transformer.h.{}.mlp.fc_out", "linear", (64, 256)),
    "gpt_neox": ("gpt_neox.layers.{}.mlp.dense_4h_to_h", "linear", (32, 80)),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral"), ("model.layers.{}.mlp.down_proj", "linear", (32, 80))),
}
ROWS_TEXT = [
    "Ada Valdoran plays the",
    "On stage Boris Kestrin plays the flute",
    "People hire Greta Moreth as a teacher",
]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny_model: Get) -> CausalLM:
    return tiny_model(request.param)


def plain_logits(model: CausalLM, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.net(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def plainly_scored(model: CausalLM, examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-probability and share of argmax tokens, by whole forward passes over one choice at a time."""
    logp, hits = [], []
    for e in examples:
        for c in e.choices:
            (ids, n), *_ = model.text.pairs([(e.x, c)])
            out = plain_logits(model, ids)[n - 1 : -1].log_softmax(-1)
            want = torch.tensor(ids[n:])
            logp.append(float(out.gather(1, want[:, None]).mean()))
            hits.append(float((out.argmax(-1) == want).double().mean()))
    k = len(examples[0].choices)
    return np.array(logp).reshape(-1, k), np.array(hits).reshape(-1, k)


def test_parts_are_found_by_what_they_do(model: CausalLM) -> None:
    name, kind, shape = DOWN[model.name]
    assert [layer.name for layer in model.anatomy.layers] == [name.format(i) for i in range(model.n_layers)]
    assert {layer.kind for layer in model.anatomy.layers} == {kind}
    assert all(layer.shape == shape for layer in model.anatomy.layers)
    assert model.anatomy.additive and model.splits and model.fast
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
    scorer = model.scorer(examples, layers)
    assert scorer.below is not None and scorer.below.block == 1
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
def test_both_sites_are_one(model: CausalLM, where: str, at: str) -> None:
    """Logits and gradients, for prefixes of different lengths, none at all among them."""
    index = {"first": 0, "middle": 1, "last": model.n_layers - 1}[at]
    name = model.layer_at(index).name
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    start = 1 if rows[0][0] == model.text.tokenizer.bos_token_id else 0
    positions = [start, len(rows[1]) - 2, 5]
    reads = [(0, start), (0, len(rows[0]) - 1), (1, len(rows[1]) - 1), (2, 5), (2, 8)]
    plain, tail = (kind(model, name, where, rows, positions, reads) for kind in (PlainSite, TailSite))
    assert relative(tail.keys, plain.keys) < 1e-4 and relative(tail.out, plain.out) < 1e-4
    delta = 0.5 * torch.randn(plain.out.shape, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(len(reads), int(model.config.vocab_size), generator=torch.Generator().manual_seed(3))
    found = []
    for site in (plain, tail):
        d = delta.clone().requires_grad_(True)
        logp = site.read(d).log_softmax(-1)
        (gradient,) = torch.autograd.grad((logp * weight).sum(), d)
        found.append((logp.detach(), gradient))
    (logp, gradient), (logp_tail, gradient_tail) = found
    assert (logp - logp_tail).abs().max() < 1e-4
    assert relative(gradient_tail, gradient) < 1e-4
    assert torch.equal(tail.read(delta), tail.read(delta)), "a site must stay as it is when it is read"
    unmoved = tail.read(torch.zeros_like(delta)).log_softmax(-1)
    whole = torch.stack([plain_logits(model, rows[r])[p] for r, p in reads]).log_softmax(-1)
    assert (unmoved - whole).abs().max() < 1e-4


def test_sites_without_any_prefix(tiny_model: Get) -> None:
    model = tiny_model("gpt2")
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    reads = [(i, len(r) - 1) for i, r in enumerate(rows)]
    name = model.layer_at(0).name
    plain, tail = (kind(model, name, "mlp", rows, [0, 0, 0], reads) for kind in (PlainSite, TailSite))
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
                logits = model.trainable(rows, reads, layers)
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
        with_layers = half.scorer(some, [half.layer_at(1).name]).score()
        assert np.isfinite(with_layers.logp).all()


# -- other families, and what is refused ---------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "vocab_size": 431,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
WIDE = {**SMALL, "intermediate_size": 80}


@pytest.fixture
def variant(checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[Any], Path]:
    """A folder with the byte-level tokenizer and a random model of another config."""

    def make(config: Any) -> Path:
        folder = tmp_path / config.model_type
        shutil.copytree(checkpoint("qwen2"), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        config.initializer_range = 0.2
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    ("config", "fast"),
    [
        (transformers.OPTConfig, True),  # flattens the tokens of a batch in its MLP
        (transformers.FalconConfig, True),  # adds to the MLP's output in place
        (transformers.BloomConfig, False),  # what blocks are given depends on the batch
        (transformers.Gemma2Config, False),  # a norm after the MLP
    ],
)
def test_other_families_fall_back_where_they_must(
    variant: Callable[[Any], Path], task: SmallTask, config: Any, fast: bool
) -> None:
    options = {
        transformers.OPTConfig: {**SMALL, "ffn_dim": 80, "word_embed_proj_dim": 32},
        transformers.FalconConfig: SMALL,
        transformers.BloomConfig: {"vocab_size": 431, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        transformers.Gemma2Config: {**WIDE, "num_key_value_heads": 2, "head_dim": 8},
    }[config]
    model = CausalLM(str(variant(config(**options))), device="cpu")
    assert model.fast == fast
    examples = task.examples()[:6]
    want, _ = plainly_scored(model, examples)
    assert np.abs(model.scorer(examples, [model.layer_at(0).name]).score().logp - want).max() < 1e-4
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    asked = {"rows": rows, "positions": [2, 4, 1], "reads": [(0, 3), (1, 6), (2, 5)]}
    name = model.layer_at(1).name
    plain = PlainSite(model, name, "mlp", **asked)  # type: ignore[arg-type]
    fastest = model.site(name, "mlp", plain=False, **asked)  # type: ignore[arg-type]
    assert isinstance(fastest, TailSite if fast else PlainSite)
    assert relative(fastest.out, plain.out) < 1e-4
    assert relative(fastest.read(plain.out), plain.read(plain.out)) < 1e-4


def test_no_tail_where_attention_is_a_window(variant: Callable[[Any], Path]) -> None:
    config = transformers.MistralConfig(**WIDE, num_key_value_heads=2, sliding_window=6)
    model = CausalLM(str(variant(config)), device="cpu")
    name, long, short = model.layer_at(0).name, [list(range(9))], [[1, 2, 3, 4]]
    assert isinstance(model.site(name, "mlp", long, [7], [(0, 8)]), PlainSite)
    assert isinstance(model.site(name, "mlp", short, [2], [(0, 3)]), TailSite)


def test_square_projections_are_no_puzzle(checkpoint: Callable[[str], Path], tmp_path: Path, task: SmallTask) -> None:
    """GPT-2 with an inner width of its hidden size: Conv1D's orientation cannot be guessed from the shape."""
    folder = tmp_path / "square"
    shutil.copytree(checkpoint("gpt2"), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = transformers.GPT2Config(vocab_size=431, n_embd=32, n_inner=32, n_layer=2, n_head=4, n_positions=128)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model = CausalLM(str(folder), device="cpu")
    layer = model.layer_at(1)
    assert layer.shape == (32, 32) and layer.kind == "conv1d"
    rows, at = [model.text.encode(ROWS_TEXT[0])], [2]
    key = model.trace(rows, at, [layer.name])[layer.name][0]
    out = PlainSite(model, layer.name, "mlp", rows, at, [(0, 2)]).out[0]
    bias = model.param(str(layer.bias_name)).detach()
    assert relative(layer.matrix() @ key + bias, out) < 1e-5
    assert torch.equal(layer.native(layer.matrix()), layer.weight)


def one_line(path: Path | str, *words: str, **options: Any) -> None:
    with pytest.raises(UserError) as e:
        CausalLM(str(path), **{"device": "cpu", **options})
    text = str(e.value)
    assert "\n" not in text and len(text) < 500, text
    assert all(w in text for w in words), text


def test_models_that_cannot_be_edited_are_refused(variant: Callable[[Any], Path]) -> None:
    one_line(variant(transformers.BertConfig(**WIDE)), "not a causal language model")
    experts = transformers.MixtralConfig(**WIDE, num_key_value_heads=2, num_local_experts=4)
    one_line(variant(experts), "mixture of experts")
    shared = transformers.Qwen2MoeConfig(
        **WIDE, num_key_value_heads=2, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=32
    )
    one_line(variant(shared), "mixture of experts")


def test_a_decoder_that_reads_both_ways_is_refused(variant: Callable[[Any], Path]) -> None:
    """A Llama with `is_causal` taken away looks like a decoder in every other respect."""
    from edit_robust.models.language.anatomy import dissect

    net = transformers.AutoModelForCausalLM.from_config(tiny_config("gpt_neox", 431, 0, 0)).eval()
    stack = net.gpt_neox
    plain = stack.forward
    stack.forward = lambda input_ids, **k: plain(  # what stands first comes to see what stands last
        inputs_embeds=net.get_input_embeddings()(input_ids) + net.get_input_embeddings()(input_ids).mean(1), **k
    )
    with pytest.raises(UserError, match="reads from both sides"):
        dissect(net, 32)


def test_broken_checkpoints_end_in_one_line(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(checkpoint("gpt2"), tmp_path / name))

    one_line(tmp_path / "nowhere", "does not exist")
    one_line(checkpoint("gpt2"), "model.dtype=float31", dtype="float31")
    one_line(checkpoint("gpt2"), "device=toaster", device="toaster")

    folder = copy("no_config")
    (folder / "config.json").unlink()
    one_line(folder, "no config.json")

    folder = copy("no_weights")
    (folder / "model.safetensors").unlink()
    one_line(folder, "cannot be loaded")

    folder = copy("truncated")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    one_line(folder, "truncated or damaged")

    folder = copy("other_config")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"n_layer": 4', '"n_layer": 5'))
    one_line(folder, "not those of its config.json")

    folder = copy("other_width")
    (folder / "config.json").write_text(text.replace('"n_embd": 48', '"n_embd": 64'))
    one_line(folder)

    folder = copy("no_tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    one_line(folder, "tokenizer")

    folder = copy("broken_config")
    (folder / "config.json").write_text("{")
    one_line(folder)

    folder = copy("no_kind")
    (folder / "config.json").write_text("{}")
    one_line(folder)


def test_texts_that_are_too_long_are_refused(tiny_model: Get) -> None:
    with pytest.raises(UserError, match="longer than the 128"):
        tiny_model("gpt2").tokens([[1] * 129])
