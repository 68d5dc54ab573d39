"""Checkpoints of other families, and of none: what falls back to the plain path, and what ends in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.plain import ROWS_TEXT, plainly_scored
from helpers.small import SmallTask, relative
from helpers.tiny import tiny_config

from edit_robust.core import UserError
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.injection import PlainInjection, TailInjection

Get = Callable[[str], CausalLM]

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
    ("config", "projections"),
    [
        (transformers.OPTConfig, True),  # flattens the tokens of a batch in its MLP
        (transformers.FalconConfig, True),  # adds to the MLP's output in place
        (transformers.BloomConfig, True),  # what blocks are given depends on the batch
        (transformers.Gemma2Config, False),  # a norm after the MLP
    ],
)
def test_other_families_start_as_late_as_they_can(
    variant: Callable[[Any], Path], task: SmallTask, config: Any, projections: bool
) -> None:
    options = {
        transformers.OPTConfig: {**SMALL, "ffn_dim": 80, "word_embed_proj_dim": 32},
        transformers.FalconConfig: SMALL,
        transformers.BloomConfig: {"vocab_size": 431, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        transformers.Gemma2Config: {**WIDE, "num_key_value_heads": 2, "head_dim": 8},
    }[config]
    model = CausalLM(str(variant(config(**options))), device="cpu")
    assert model.abilities.blocks and model.abilities.tails and model.abilities.projections == projections
    examples = task.examples()[:6]
    want, _ = plainly_scored(model, examples)
    assert np.abs(model.scorer(examples, [model.layer_at(0).weight_name]).score().logp - want).max() < 1e-4
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    asked = {"rows": rows, "positions": [2, 4, 1], "reads": [(0, 3), (1, 6), (2, 5)]}
    name = model.layer_at(1).name
    plain = PlainInjection(model, name, "mlp", **asked)  # type: ignore[arg-type]
    fastest = model.injection(name, "mlp", plain=False, **asked)  # type: ignore[arg-type]
    assert isinstance(fastest, TailInjection)
    assert relative(fastest.out, plain.out) < 1e-4
    assert relative(fastest.read(plain.out), plain.read(plain.out)) < 1e-4


def test_no_tail_where_attention_is_a_window(variant: Callable[[Any], Path]) -> None:
    config = transformers.MistralConfig(**WIDE, num_key_value_heads=2, sliding_window=6)
    model = CausalLM(str(variant(config)), device="cpu")
    name, long, short = model.layer_at(0).name, [list(range(9))], [[1, 2, 3, 4]]
    assert isinstance(model.injection(name, "mlp", long, [7], [(0, 8)]), PlainInjection)
    assert isinstance(model.injection(name, "mlp", short, [2], [(0, 3)]), TailInjection)


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
    out = PlainInjection(model, layer.name, "mlp", rows, at, [(0, 2)]).out[0]
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
        dissect(net)


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
