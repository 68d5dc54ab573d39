"""How questions become token rows, and rows answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.small import SmallTask

from edit_robust.core import Example, UserError
from edit_robust.models.language.causal_lm import CausalLM


@pytest.fixture
def model(tiny_model: Callable[[str], CausalLM]) -> CausalLM:
    return tiny_model("gpt2")


def test_rows_are_shared_between_choices_and_questions(model: CausalLM) -> None:
    long = "New Haven and Paris"
    questions = [
        Example("0", "Ada was born in", (" London", " Paris", f" {long}")),
        Example("1", "Ada was", (" born in Paris",)),
    ]
    scorer = model.scorer(questions)
    prompt, whole = model.text.encode("Ada was born in"), model.text.encode(f"Ada was born in {long}")
    assert whole[:-1] in scorer.rows
    assert all(not (a != b and b[: len(a)] == a) for a in scorer.rows for b in scorer.rows), "a row begins another"
    assert [len(r.targets) for r in scorer.by_example[0]][2] == len(whole) - len(prompt)
    got = scorer.score()
    ids = torch.tensor([whole])
    out = model.net(input_ids=ids).logits[0].log_softmax(-1)
    want = [float(out[p - 1, whole[p]]) for p in range(len(prompt), len(whole))]
    assert got.logp[0, 2] == pytest.approx(np.mean(want), abs=1e-5)
    assert got.tokens[0, 2] == len(want)


def test_absent_choices_are_nan(model: CausalLM) -> None:
    questions = [Example("0", "Ada plays", (" flute", " piano", " violin"), 2), Example("1", "Ada plays", (" flute",))]
    got = model.score(questions)
    assert np.isnan(got.logp[1, 1:]).all() and np.isnan(got.hits[1, 1:]).all() and (got.tokens[1, 1:] == 0).all()
    assert got.logp[1, 0] == got.logp[0, 0] and got.target.tolist() == [2, 0]


def test_whole_texts(model: CausalLM, tiny_model: Callable[[str], CausalLM]) -> None:
    """For perplexity: every token but the first, which nothing predicts; behind a begin-of-text token every one."""
    text = "Ada Valdoran plays the flute"
    for m in (model, tiny_model("llama")):
        ids = m.text.encode(text)
        got = m.score([Example("0", "", (text,))])
        out = m.net(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        want = [float(out[p - 1, ids[p]]) for p in range(1, len(ids))]
        assert got.tokens[0, 0] == len(ids) - 1
        assert got.logp[0, 0] == pytest.approx(np.mean(want), abs=1e-5)


def test_long_texts_are_cut(model: CausalLM) -> None:
    text = "Ada plays the flute. " * 60
    assert model.score([Example("0", "", (text,))]).tokens[0, 0] == model.max_tokens - 1


def test_nothing_to_predict(model: CausalLM) -> None:
    """A text of one token, or one whose prompt fills the window: an absent choice, alone and among others."""
    one = Example("0", "", ("A",))
    assert len(model.text.encode("A")) == 1
    full = Example("1", "Ada plays the flute. " * 60, (" Paris",))
    other = Example("2", "Ada plays the", (" flute",))
    for fast in (True, False):
        model.fast = fast
        try:
            alone, among = model.score([one]), model.score([other, one, full])
        finally:
            model.fast = True
        assert np.isnan(alone.logp[0, 0]) and alone.tokens[0, 0] == 0
        assert np.isfinite(among.logp[0, 0]) and np.isnan(among.logp[1:, 0]).all() and (among.tokens[1:] == 0).all()


def test_no_questions(model: CausalLM) -> None:
    assert len(model.score([])) == 0
    scorer = model.scorer(SmallTask(2).examples(), [model.layer_at(0).weight_name])
    assert len(scorer.score([])) == 0


def test_a_target_without_tokens(model: CausalLM) -> None:
    with pytest.raises(UserError, match="no token after"):
        model.score([Example("0", "Ada plays", ("",))])


def test_without_memory_for_the_layers_below(model: CausalLM) -> None:
    examples = SmallTask(3).examples()
    kept, model.cache_gb = model.cache_gb, 0.0
    try:
        scorer = model.scorer(examples, [model.layer_at(2).weight_name])
    finally:
        model.cache_gb = kept
    assert scorer.kept is None
    assert (
        np.abs(scorer.score().logp - model.scorer(examples, [model.layer_at(2).weight_name]).score().logp).max() < 1e-5
    )


def test_taking_rows(model: CausalLM) -> None:
    s = model.score(SmallTask(2).examples())
    some = s.take([3, 0])
    assert np.array_equal(some.logp, s.logp[[3, 0]]) and len(some) == 2
    mask = np.zeros(len(s), dtype=bool)
    mask[[0, 3]] = True
    assert np.array_equal(s.take(mask).tokens, s.tokens[[0, 3]])
    assert len(replace(s, target=s.target)) == len(s)
