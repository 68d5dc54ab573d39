"""Every architecture takes the fast paths in every type of number, and where one cannot be taken, batches remain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plain import ROWS_TEXT, plainly_scored
from helpers.small import SmallTask, relative
from helpers.tiny import KINDS
from torch import nn

from edit_robust.models.language import fast_paths
from edit_robust.models.language.abilities import Abilities
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.injection import PlainInjection, TailInjection

pytestmark = pytest.mark.slow

Get = Callable[[str], CausalLM]
DTYPES = ["float32", "bfloat16", "float16"]
#: What every architecture can do; Gemma-2 normalises what its MLPs give before it adds it to the stream.
EVERYTHING = {"reads", "blocks", "projections", "narrow", "tails", "recorded"}


@pytest.fixture(scope="module", params=[(k, d) for k in KINDS for d in DTYPES], ids=lambda p: "-".join(p))
def typed(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> CausalLM:
    kind, dtype = request.param
    return CausalLM(str(checkpoint(kind)), name=kind, dtype=dtype, device="cpu")


def can(abilities: Abilities) -> set[str]:
    return {name for name in EVERYTHING if getattr(abilities, name)}


def test_every_architecture_in_every_type_takes_the_fast_paths(typed: CausalLM) -> None:
    missing = {"projections"} if typed.name == "gemma2" else set()
    assert typed.fast and can(typed.abilities) == EVERYTHING - missing
    assert set(typed.abilities.missing) == missing
    assert typed.abilities.through_net == (typed.name == "gemma2"), "logits are capped"
    assert typed.abilities.calls_by_batch == (typed.name == "bloom"), "positions are a bias a row"


def test_fast_scores_are_the_plain_ones_in_every_type(typed: CausalLM) -> None:
    """From what is kept of the layers below, and from nothing: within rounding of the type."""
    examples = SmallTask(2).examples()[:6]
    want, _ = plainly_scored(typed, examples)
    close = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.03}[typed.dtype]
    scorer = typed.scorer(examples, [typed.layer_at(1).weight_name])
    assert scorer.kept is not None and isinstance(scorer.kept.entry, fast_paths.AtProjection) == typed.anatomy.additive
    assert np.abs(scorer.score().logp - want).max() < close
    assert np.abs(typed.score(examples).logp - want).max() < close
    for how, model_fast in ((f"from the {scorer.kept.entry.name} on", True), ("one choice at a time", False)):
        typed.fast = model_fast
        try:
            assert typed.scorer(examples, [typed.layer_at(1).weight_name]).how.startswith(how)
        finally:
            typed.fast = True


def test_injections_run_tails_in_every_type(typed: CausalLM) -> None:
    rows = [typed.text.encode(t) for t in ROWS_TEXT]
    asked: Any = (rows, [2, 4, 1], [(0, 3), (1, 6), (2, 5)])
    name = typed.layer_at(1).name
    close = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}[typed.dtype]
    for where in ("mlp", "block"):
        plain, tail = (typed.injection(name, where, *asked, plain=p) for p in (True, False))
        assert isinstance(plain, PlainInjection) and isinstance(tail, TailInjection)
        assert relative(tail.unmoved, plain.unmoved) < close
        assert relative(tail.read(plain.out), plain.read(plain.out)) < close


@contextmanager
def abilities(model: CausalLM, **lacks: Any) -> Iterator[None]:
    before = model.abilities
    model.abilities = replace(before, **lacks)
    try:
        yield
    finally:
        model.abilities = before


@pytest.mark.parametrize("lacks", ["projections", "blocks", "reads"])
def test_without_an_entry_questions_are_asked_in_batches(tiny_model: Get, lacks: str) -> None:
    """And never one choice at a time; the scorer says how, and why."""
    model = tiny_model("gpt2")
    examples = SmallTask(4).examples()
    want, _ = plainly_scored(model, examples)
    names = ["projections", "narrow"] + ["blocks"] * (lacks != "projections") + ["reads"] * (lacks == "reads")
    with abilities(model, **dict.fromkeys(names, False), missing={lacks: "it was told so"}):
        scorer = model.scorer(examples, [model.layer_at(1).weight_name])
        expected = (
            "from the block 1 on: it was told so" if lacks == "projections" else "ordinary batches: it was told so"
        )
        assert scorer.how == expected
        scorer.score()  # how blocks are called is noted the first time
        forwards: list[int] = []
        hook = model.anatomy.blocks[-1].register_forward_hook(lambda m, a, o: forwards.append(1))
        try:
            found = scorer.score()
        finally:
            hook.remove()
    assert np.abs(found.logp - want).max() < 1e-4
    batches = len(model.batches([len(r) for r in scorer.rows]))
    assert len(forwards) == batches < len(examples) / 4


def test_without_tails_the_value_optimisation_reads_logits_where_needed(tiny_model: Get) -> None:
    model = tiny_model("llama")
    rows = [model.text.encode(t) for t in ROWS_TEXT]
    asked: Any = (model.layer_at(1).name, "mlp", rows, [2, 4, 1], [(0, 3), (1, 6), (2, 5)])
    plain = model.injection(*asked, plain=True)
    with abilities(model, tails=False):
        ordinary = model.injection(*asked)
        assert isinstance(ordinary, PlainInjection)
        sizes: list[tuple[int, ...]] = []
        hook = model.anatomy.head.register_forward_hook(lambda m, a, o: sizes.append(tuple(o.shape)))
        try:
            assert relative(ordinary.read(plain.out), plain.read(plain.out)) < 1e-5
        finally:
            hook.remove()
    assert sizes[0][:-1] == (3,) and sizes[1][:-1] == (3, max(map(len, rows)))


class Sum(nn.Module):
    """A head that adds something the hidden states do not tell."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.weight = head, head.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) + x.mean(dim=-2, keepdim=True).sum(-1, keepdim=True) * torch.linspace(
            0, 1, len(self.weight)
        )


def test_what_cannot_be_split_is_found_out_and_said(
    checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose blocks look at what stands beside them cannot be entered; one warning says what is done."""
    folder = str(checkpoint("llama"))
    real = fast_paths.AtBlock.resume

    def shifted(self: Any, kept: Any) -> torch.Tensor:
        return real(self, kept) + 0.1 * kept[0].roll(1, -1)

    monkeypatch.setattr(fast_paths.AtBlock, "resume", shifted)
    with caplog.at_level(logging.WARNING):
        model = CausalLM(folder, name="odd", dtype="bfloat16", device="cpu")
    assert can(model.abilities) == {"reads"}
    assert caplog.messages == [
        f"odd: every forward pass starts at the tokens, in ordinary batches: {model.abilities.missing['blocks']}"
    ]
    assert "% off" in model.abilities.missing["blocks"]
    examples = SmallTask(2).examples()[:6]
    assert np.abs(model.score(examples).logp - plainly_scored(model, examples)[0]).max() < 0.2


def test_a_head_that_mixes_positions_is_read_whole(tiny_model: Get) -> None:
    loaded = tiny_model("gpt_neox")
    net = type(loaded.net)(loaded.net.config)
    net.load_state_dict(loaded.net.state_dict())
    net.lm_head = Sum(net.lm_head)
    net.get_output_embeddings = lambda: net.lm_head.head
    model = CausalLM(net=net, tokenizer=loaded.text.tokenizer)
    assert not model.abilities.reads and model.abilities.missing["reads"]
    examples = SmallTask(2).examples()[:4]
    scorer = model.scorer(examples, [model.layer_at(1).weight_name])
    assert scorer.how.startswith("ordinary batches: its numbers would be")


def test_a_cache_that_holds_some_rows_is_used_for_them(tiny_model: Get) -> None:
    model = tiny_model("gpt2")
    examples = SmallTask(4).examples()
    whole = model.scorer(examples, [model.layer_at(1).weight_name])
    assert whole.kept is not None and set(whole.kept.starts) == set(range(len(whole.rows)))
    size = sum(t.numel() * t.element_size() for t in whole.kept.tensors)
    kept, model.cache_gb = model.cache_gb, 0.5 * size / 2**30
    try:
        partly = model.scorer(examples, [model.layer_at(1).weight_name])
    finally:
        model.cache_gb = kept
    assert partly.kept is not None
    share = len(partly.kept.starts) / len(partly.rows)
    assert 0.3 < share < 0.7 and f"for {100 * share:.0f} % of the rows (model.cache_gb=" in partly.how
    assert partly.reads[0].row in partly.kept.starts, "what is asked first is kept first"
    assert np.abs(partly.score().logp - whole.score().logp).max() < 1e-5
