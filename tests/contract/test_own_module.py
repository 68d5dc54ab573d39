"""A module of one's own as a model, and networks that cannot be edited: refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.small import SmallTask, every_editor, layers_for, left_as_found, statistics_file, templates_file
from helpers.tiny import tiny_config, tiny_tokenizer
from torch import nn

from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.models.language.causal_lm import CausalLM

Get = Callable[[str], CausalLM]


class HouseGPT(nn.Module):
    """A small decoder of one's own: no config, no base class of transformers, only its calling convention."""

    def __init__(self, vocabulary: int, d: int = 24, n: int = 2) -> None:
        super().__init__()
        self.body = HouseBody(vocabulary, d, n)
        self.out = nn.Linear(d, vocabulary, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.3)

    def get_output_embeddings(self) -> nn.Module:
        return self.out

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        return SimpleNamespace(logits=self.out(self.body(input_ids)[0]))


class HouseBody(nn.Module):
    def __init__(self, vocabulary: int, d: int, n: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, d), nn.Embedding(64, d)
        self.blocks = nn.ModuleList(HouseBlock(d) for _ in range(n))
        self.norm = nn.LayerNorm(d)

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> tuple[torch.Tensor]:
        x = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return (self.norm(x),)


class HouseBlock(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.qkv, self.join = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 3 * d), nn.Linear(3 * d, d)
        self.first, self.second = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.first(x)).chunk(3, -1)
        x = x + self.join(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.down(torch.relu(self.up(self.second(x))))


def test_a_transformers_module_without_a_path(tiny_model: Get) -> None:
    """The same numbers as from its checkpoint, from the module as it stands in memory."""
    loaded = tiny_model("llama")
    own = CausalLM(net=copy.deepcopy(loaded.net).train().requires_grad_(True), tokenizer=loaded.text.tokenizer)
    assert own.name == "llamaforcausallm" and own.abilities == loaded.abilities and own.base == loaded.base
    assert not own.net.training and not any(p.requires_grad for p in own.net.parameters())
    examples = SmallTask(3).examples()
    assert np.array_equal(own.score(examples).logp, loaded.score(examples).logp)
    half = CausalLM(net=own.net, tokenizer=loaded.text.tokenizer, dtype="bfloat16", name="half")
    assert half.name == "half" and half.dtype == torch.bfloat16


def test_a_module_that_transformers_does_not_know(tmp_path: Path) -> None:
    """It has no caches: the value optimisation runs whole sequences in batches, and edits do what they are for."""
    tokenizer = tiny_tokenizer("gpt2")
    torch.manual_seed(3)
    net = HouseGPT(len(tokenizer))
    model = CausalLM(net=net, tokenizer=tokenizer)
    assert model.name == "housegpt" and model.n_layers == 2 and model.layer_at(1).name == "body.blocks.1.down"
    assert model.hidden_size == 24 and model.vocabulary == len(tokenizer) and not model.abilities.tails
    task = SmallTask(2)
    question = task.probes(task.requests()[:1])[0].examples
    before = model.score(question).logp[0, 0]
    editors = every_editor(str(statistics_file(tmp_path, model)), str(templates_file(tmp_path)), steps=15)
    for name in ("rome", "memit", "ft"):
        with left_as_found(model):
            state = editors[name].prepare(model, layers_for(editors[name], model), task, Workspace(tmp_path))
            edit = editors[name].edit(model, task.requests()[:1], state)
        with model.patched(edit.delta):
            assert model.score(question).logp[0, 0] > before + 1e-3, name
    assert len(model.generate(["Ada plays the"], 3)) == 1


def refused(*words: str, **options: Any) -> None:
    with pytest.raises(UserError) as e:
        CausalLM(**options)
    text = str(e.value)
    assert "\n" not in text and len(text) < 300 and all(w in text for w in words), text


def test_a_path_or_a_module() -> None:
    net, tokenizer = HouseGPT(40), tiny_tokenizer("gpt2")
    refused("either a path", "or a module")
    refused("either a path", "not both", path="builtin:fact-gpt", net=net, tokenizer=tokenizer)
    refused("needs its tokenizer", net=net)
    refused("no fast tokenizer", net=net, tokenizer=SimpleNamespace(is_fast=False))
    refused("model.dtype=float31", net=net, tokenizer=tokenizer, dtype="float31")


@pytest.fixture
def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=431, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def test_quantised_modules_are_named(gpt2: Any) -> None:
    tokenizer = tiny_tokenizer("gpt2")
    kind = type("Linear8bitLt", (nn.Linear,), {})
    broken = copy.deepcopy(gpt2)
    broken.transformer.h[1].mlp.c_proj = kind(64, 16)
    refused("transformer.h.1.mlp.c_proj", "quantised (Linear8bitLt)", net=broken, tokenizer=tokenizer)
    broken = copy.deepcopy(gpt2)
    broken.transformer.h[0].attn.c_attn.weight = nn.Parameter(torch.zeros(16, 48, dtype=torch.int8), False)
    refused("transformer.h.0.attn.c_attn.weight", "int8", net=broken, tokenizer=tokenizer)


def test_offloaded_weights_are_named(gpt2: Any) -> None:
    gpt2.transformer.h[1].to("meta")
    refused("transformer.h.1.ln_1.weight", "offloaded", net=gpt2, tokenizer=tiny_tokenizer("gpt2"))


def test_unusual_heads_are_named(gpt2: Any) -> None:
    tokenizer = tiny_tokenizer("gpt2")
    for head in (nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 431)), nn.AdaptiveLogSoftmaxWithLoss(16, 431, [50])):
        other = copy.deepcopy(gpt2)
        other.lm_head = head
        other.get_output_embeddings = lambda head=head: head
        refused("lm_head", type(head).__name__, "one linear map", net=other, tokenizer=tokenizer)
    gpt2.score = nn.Linear(16, 2)
    gpt2.get_output_embeddings = lambda: gpt2.score
    refused("score gives 2 values", "431 tokens", net=gpt2, tokenizer=tokenizer)
    config = tiny_config("gpt2", 431, 0, 0)
    config.pad_token_id = 0
    classifier = transformers.GPT2ForSequenceClassification(config)
    refused("no output head", "score", net=classifier, tokenizer=tokenizer)


def test_packed_weights_are_refused_before_they_are_moved(gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes' modules raise when they are moved; what is wrong must be said before that."""
    gpt2.transformer.h[0].mlp.c_fc = type("Linear4bit", (nn.Linear,), {})(16, 64)

    def unmovable(*args: Any, **kwargs: Any) -> None:
        raise ValueError("`.to` is not supported for `4-bit` models")

    monkeypatch.setattr(gpt2, "to", unmovable)
    refused("transformer.h.0.mlp.c_fc", "Linear4bit", net=gpt2, tokenizer=tiny_tokenizer("gpt2"), device="cpu")


def test_experts_are_named(gpt2: Any) -> None:
    experts = nn.ModuleList(copy.deepcopy(gpt2.transformer.h[1].mlp) for _ in range(3))
    gpt2.transformer.h[1].experts = experts
    refused("block 1", "experts, ModuleList", net=gpt2, tokenizer=tiny_tokenizer("gpt2"))
