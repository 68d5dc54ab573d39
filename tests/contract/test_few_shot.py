"""Few-shot prompts: the fast path says and scores what generating and scoring apart do, at any weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small import left_as_found

from edit_robust.core import UserError
from edit_robust.models.language import few_shot, generation
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow

Get = Callable[[str], CausalLM]
SHOTS = "Ada Valdoran plays the piano.\n\nBoris Kestrin works as a teacher.\n\n"
PROMPTS = ["By trade Clara Moreth is a", "By trade Hugo", "By trade, as they say in New Haven, Elsa Quillan is a"]
OPTIONS = [[" teacher", " tax lawyer"], [" violin", " London", " New Haven"], [" painter", " flute"]]


@contextmanager
def changed(model: CausalLM, layer: int, size: float) -> Iterator[list[str]]:
    """Inside the block a projection is another one; gives the names of its parameters."""
    weight = model.layer_at(layer).weight
    before = weight.detach().clone()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(layer))
    try:
        weight.data += (size * before.float().std() * noise).to(weight.dtype)
        yield []
    finally:
        weight.data.copy_(before)


def plainly(model: CausalLM, prefix: str = SHOTS) -> tuple[list[str], np.ndarray]:
    """Generated and scored apart, one prompt at a time, by the whole network."""
    model.fast = False
    try:
        said = model.few_shot(PROMPTS, OPTIONS, 3, prefix=prefix).ask()
    finally:
        model.fast = True
    return list(said.texts), said.logp


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama", "qwen2", "mistral", "bloom", "gemma2"])
def test_it_says_and_scores_what_the_plain_path_does(tiny_model: Get, kind: str) -> None:
    """Unedited, slightly changed, and changed beyond recognition; prefix or none."""
    model = tiny_model(kind)
    told: list[str] = []
    for prefix in (SHOTS, ""):
        changes = model.parameter_names([model.layer_at(1).name])
        with left_as_found(model):
            asked = model.few_shot(PROMPTS, OPTIONS, 3, prefix=prefix, changes=changes)
        for size in (0.0, 0.05, 3.0, 0.0):
            with changed(model, 1, size):
                texts, logp = plainly(model, prefix)
                found = asked.ask()
            assert list(found.texts) == texts
            np.testing.assert_allclose(found.logp, logp, rtol=1e-4, atol=1e-4)
            assert found.tokens[1, 2] > 1 and found.tokens[0, 2] == 0
            told += texts
    assert len(set(told)) > 6, "the texts are nearly the same: this test says little"


def test_at_the_unedited_weights_one_pass_tells_everything(tiny_model: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing below the changed projection runs, but for the prefix."""
    model = tiny_model("gpt2")
    changes = model.parameter_names([model.layer_at(2).name])
    asked = model.few_shot(PROMPTS, OPTIONS, 3, prefix=SHOTS, changes=changes)
    seen: list[int] = []
    hook = model.anatomy.blocks[0].register_forward_pre_hook(lambda m, a: seen.append(a[0].shape[0] * a[0].shape[1]))
    try:
        asked.ask()
    finally:
        hook.remove()
    assert seen == [asked.shared] and asked.shared >= len(model.text.encode(SHOTS)) - 1


def test_what_does_not_fit_into_the_cache_is_read_in_full(tiny_model: Get) -> None:
    model = tiny_model("llama")
    changes = model.parameter_names([model.layer_at(1).name])
    small = model.few_shot(PROMPTS, OPTIONS, 3, prefix=SHOTS, changes=changes, cache_gb=0.0)
    whole = model.few_shot(PROMPTS, OPTIONS, 3, prefix=SHOTS, changes=changes)
    assert all(b.kept is None for b in small.batches) and all(b.kept is not None for b in whole.batches)
    with changed(model, 1, 0.5):
        a, b = small.ask(), whole.ask()
    assert a.texts == b.texts
    np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)


def test_embeddings_may_change(tiny_model: Get) -> None:
    """Then nothing is kept, and what the unedited model said is a guess that is checked all the same."""
    model = tiny_model("gpt2")
    name = next(n for n, _ in model.net.named_parameters() if "wte" in n)
    asked = model.few_shot(PROMPTS, OPTIONS, 3, prefix=SHOTS, changes=[name])
    weight = model.param(name)
    before = weight.detach().clone()
    try:
        weight.data += 0.3 * before.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
        texts, logp = plainly(model)
        found = asked.ask()
    finally:
        weight.data.copy_(before)
    assert list(found.texts) == texts
    np.testing.assert_allclose(found.logp, logp, atol=1e-4)


def test_the_end_of_a_text_is_part_of_what_is_said(tiny_model: Get) -> None:
    """A model that ended its text and one that goes on are told apart, both ways."""
    model = tiny_model("gpt2")
    config: Any = model.config
    kept = config.eos_token_id
    ids = model.text.encode(SHOTS + PROMPTS[0])
    with torch.no_grad():
        second = int(model.whole(model.tokens([ids]))[0, -1].argmax())
    changes = model.parameter_names([model.layer_at(1).name])
    for unedited, later in (([kept, second], [kept]), ([kept], [kept, second])):
        config.eos_token_id = unedited
        try:
            asked = model.few_shot(PROMPTS, OPTIONS, 3, prefix=SHOTS, changes=changes)
            config.eos_token_id = later
            asked.limits = replace(asked.limits, ends=generation.end_tokens(model))
            assert list(asked.ask().texts) == plainly(model)[0]
        finally:
            config.eos_token_id = kept


def test_answers_do_not_depend_on_what_was_asked_before(tiny_model: Get) -> None:
    """A run that goes on asks a prompt that it has not asked at earlier weights: the same bits come out."""
    model = tiny_model("qwen2")
    changes = model.parameter_names([model.layer_at(1).name])
    old, new = (model.few_shot(PROMPTS, OPTIONS, 3, prefix=SHOTS, changes=changes) for _ in range(2))
    for size in (0.1, 2.0):
        with changed(model, 1, size):
            old.ask()
    with changed(model, 1, 0.7):
        a, b = old.ask(), new.ask()
    assert a.texts == b.texts and np.array_equal(a.logp, b.logp, equal_nan=True)


def test_bfloat16(checkpoint: Callable[[str], Path]) -> None:
    model = CausalLM(str(checkpoint("gptj")), device="cpu", dtype="bfloat16")
    changes = model.parameter_names([model.layer_at(0).name])
    asked = model.few_shot(PROMPTS, OPTIONS, 3, prefix=SHOTS, changes=changes)
    with changed(model, 0, 0.5):
        _, logp = plainly(model)
        found = asked.ask()
    np.testing.assert_allclose(found.logp, logp, rtol=0.05, atol=0.2)


def test_a_prompt_too_long_is_one_line(tiny_model: Get) -> None:
    model = tiny_model("gpt2")
    with pytest.raises(UserError, match="leaves no room for 3 more in the 128 of gpt2; take fewer shots"):
        model.few_shot([PROMPTS[0] * 30], [[" a"]], 3)
    assert few_shot.FewShot(model, [], [], 3).ask().texts == ()
