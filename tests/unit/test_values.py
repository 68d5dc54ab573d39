"""The value optimisation's small print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.small import TEMPLATES, SmallTask, relative

from edit_robust.core import Request
from edit_robust.editors.language.helpers.values import optimise_values, spread, subject_rows, sums_of, value_rows
from edit_robust.models.language.causal_lm import CausalLM

OPTIONS: dict[str, Any] = {"lr": 0.5, "steps": 6, "weight_decay": 0.5, "clamp": 4.0, "kl_factor": 0.0625}


@pytest.fixture
def model(tiny_model: Callable[[str], CausalLM]) -> CausalLM:
    return tiny_model("gpt2")


def run(model: CausalLM, requests: list[Request], **options: Any) -> Any:
    return optimise_values(model, model.layer_at(1).name, "mlp", requests, TEMPLATES, **{**OPTIONS, **options})


def test_rows_and_reads(model: CausalLM) -> None:
    r = Request("0", "The birthplace of {} is", "New Haven", "Rome", "Ada Valdoran")
    rows = value_rows(model, [r, r], TEMPLATES)
    goal = model.text.encode(" New Haven")
    assert len(rows.tokens) == 2 * 4 + 2 and rows.owner == [0] * 4 + [1] * 4 + [0, 1]
    assert rows.targets == goal * 8 and len(rows.reads) == 8 * len(goal) + 2
    assert sum(rows.weights) == pytest.approx(2.0)
    for i, t in enumerate(TEMPLATES):
        text = t.replace("{}", r.prompt)
        prompt = model.text.encode(text)
        assert rows.tokens[i] == prompt + goal[:-1]
        assert [p for row, p in rows.reads if row == i] == [len(prompt) - 1 + j for j in range(len(goal))]
        assert model.text.decode(rows.tokens[i][: rows.positions[i] + 1]) == text[: text.index(" is")]
    kl = rows.tokens[-1]
    assert model.text.decode(kl) == "Ada Valdoran is a" and rows.reads[-1] == (9, rows.positions[9])
    assert model.text.decode(kl[: rows.positions[-1] + 1]) == "Ada Valdoran"


def test_the_last_iteration_takes_no_step(model: CausalLM) -> None:
    r = SmallTask(2).requests()
    assert [i["edit_steps"] for i in run(model, r, steps=6).info] == [5.0, 5.0]
    one = run(model, r, steps=1)
    assert float(one.delta.norm()) == 0.0 and torch.equal(one.value, one.init)


def test_adam_is_torchs(model: CausalLM) -> None:
    """Its first step is lr in every coordinate with a gradient, whatever the gradient's size."""
    two = run(model, SmallTask(1).requests(), steps=2, clamp=1e9)
    assert torch.allclose(two.delta.abs(), torch.full_like(two.delta, 0.5), atol=1e-4)


def test_rows_stop_on_their_own(model: CausalLM) -> None:
    """A row that is good enough stands still, and gives what it gives alone."""
    # the subject stands last, so that what is added to it in the last block goes straight to the logits
    words = [w for w in ("Paris", "London", "Rome", "piano", "flute") if len(model.text.encode(f" {w}")) == 1]
    requests = [Request(w, "Here is {}", w, None, s) for w, s in zip(words, ("Ada", "Boris", "Clara"), strict=False)]
    options = {**OPTIONS, "steps": 40, "kl_factor": 0.0, "weight_decay": 0.0, "clamp": 1e9, "lr": 2.0}

    def last(some: list[Request]) -> Any:
        return optimise_values(model, model.layer_at(-1).name, "block", some, ["{}", "Today. {}"], **options)

    together = last(requests)
    steps = [i["edit_steps"] for i in together.info]
    assert len(set(steps)) > 1, "all stop at once: this test says nothing"
    for n, r in enumerate(requests):
        alone = last([r])
        assert alone.info[0]["edit_steps"] == steps[n]
        assert relative(together.value[n], alone.value[0]) < 1e-3
        if steps[n] < 39:
            assert together.info[n]["edit_loss"] < 0.05
            assert together.info[n]["target_probability"] > 0.95


def test_each_part_of_the_loss_counts(model: CausalLM) -> None:
    r = SmallTask(1).requests()
    plain = run(model, r).value
    for change in ({"kl_factor": 10.0}, {"weight_decay": 1e4}, {"clamp": 0.05}, {"lr": 0.1}):
        assert relative(run(model, r, **change).value, plain) > 1e-3, change
    held = run(model, r, kl_factor=0.0, weight_decay=1e6, steps=20)
    assert float(held.delta.norm()) < 0.5 * float(run(model, r, kl_factor=0.0, weight_decay=0.0, steps=20).delta.norm())


def test_keys_are_a_row_a_context(model: CausalLM) -> None:
    requests = SmallTask(3).requests()
    values = run(model, requests, steps=1)
    name = model.layer_at(1).name
    keys = model.trace(*subject_rows(model, requests, TEMPLATES), [name])[name]
    assert relative(values.keys.flatten(0, 1), keys) < 1e-5
    assert relative(values.key_bare, keys[:: len(TEMPLATES)]) < 1e-5
    weight, bias = model.matrix(f"{name}.weight"), model.param(f"{name}.bias")
    assert relative(values.out.flatten(0, 1), keys @ weight.T + bias) < 1e-5


def test_sums_are_those_of_one_thread_in_order() -> None:
    """To the bit those of index_add and of indexing on one thread; and the same on four."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 110, 1, 40])
    x = torch.rand(154, generator=g).requires_grad_()
    by_index = torch.zeros(4).index_add(0, torch.repeat_interleave(torch.arange(4), lengths), x)
    assert torch.equal(sums_of(x, lengths), by_index)
    weights = torch.rand(4, generator=g)
    grads = [torch.autograd.grad((s * weights).sum(), x)[0] for s in (sums_of(x, lengths), by_index)]
    assert torch.equal(*grads)

    delta, owner = torch.rand(2, 1600, generator=g).requires_grad_(), torch.tensor([0] * 60 + [1] * 60 + [0, 1])
    above = torch.randn(122, 1600, generator=g)
    assert torch.equal(spread(delta, owner), delta[owner])
    (want,) = torch.autograd.grad(delta[owner], delta, above)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = [torch.autograd.grad(spread(delta, owner), delta, above)[0] for _ in range(20)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(f, want) for f in found)


def test_the_values_do_not_depend_on_the_run(model: CausalLM) -> None:
    """Four threads, eight requests side by side, twice: the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        one, two = (run(model, SmallTask(8).requests()) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one.value, two.value)
