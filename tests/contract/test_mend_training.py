"""MEND's training: what it adds up is what it says, it goes on after a kill to the same bits, and is done once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.mend import QUICK, TrainableTask, drawn, identity, targets_of
from helpers.runs import CommandLine
from helpers.small import left_as_found, relative
from helpers.tiny import tiny_texts

from edit_robust.core import Delta, UserError
from edit_robust.core.pace import Pace
from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.language.helpers import mend_schedule
from edit_robust.editors.language.helpers.edited_passes import EditedPasses, Store
from edit_robust.editors.language.helpers.factors import edit_texts, factors_of, together
from edit_robust.editors.language.helpers.hypernetwork import Hypernetwork, Statistics
from edit_robust.editors.language.helpers.mend_plan import Plan
from edit_robust.editors.language.helpers.mend_training import Iteration, Material, Training
from edit_robust.editors.language.mend import Mend
from edit_robust.models.language.causal_lm import CausalLM

TinyModel = Callable[[str], CausalLM]
TASK = TrainableTask()


def prepare(model: CausalLM, folder: Path, task: Any = TASK, seed: int = 0, **options: Any) -> State:
    editor = Mend(**{**QUICK, **options})
    names = [model.layer_at(i).name for i in editor.auto_layers(model.n_layers)]
    return editor.prepare(model, names, task, Workspace(folder, seed=seed))


def material(model: CausalLM) -> Material:
    requests = TASK.training_requests()[:6]
    texts = [model.text.encode(t)[: 5 + i % 4] for i, t in enumerate(tiny_texts()[:8])]
    rephrasings = [model.text.pairs([(p, f" {r.target}") for p in r.paraphrases]) for r in requests]  # type: ignore[attr-defined]
    return Material(edit_texts(model, requests), rephrasings, texts)


def tensors_of(hypernetwork: Hypernetwork) -> list[torch.Tensor]:
    networks = hypernetwork.networks.values()
    statistics = [x for n in networks for x in (n.statistics.mean, n.statistics.squares)]
    return [hypernetwork.rates, *(p for n in networks for p in n.parameters.values()), *statistics]


# -- the network ---------------------------------------------------------------------------------------------------


def test_the_kink_lets_zeros_learn(tiny_model: TinyModel) -> None:
    """All pre-activations start at exactly 0: U, b and o get a gradient there, and V and s once U has moved."""
    hypernetwork = identity(targets_of(tiny_model("gpt2"), [3]))
    (network,) = [n for s, n in hypernetwork.networks.items() if s == (48, 192)]
    for tensor in network.parameters.values():
        tensor.requires_grad_()
    z = torch.randn(5, 240)
    out = network(z, torch.zeros(5, dtype=torch.long))
    assert torch.equal(out, z)
    out.pow(3).sum().backward()
    for name, tensor in network.parameters.items():
        moves = any(name.endswith(p) for p in (".u", "bias", "mode_shift.weight"))
        assert bool(tensor.grad.any()) == moves, name  # type: ignore[union-attr]


def test_statistics_that_follow() -> None:
    rows = torch.randn(20, 3, dtype=torch.float64) * 1e-3 + 5
    parts = [rows[:1], rows[1:8], rows[8:8], rows[8:]]
    found = Statistics.none(3).follow(parts)
    assert [s.count for s in found] == [1, 8, 8, 20]
    for statistic in (found[1], found[3], found[1].follow([rows[8:]])[0]):
        seen = rows[: statistic.count]
        assert relative(statistic.mean, seen.mean(0)) < 1e-12 and relative(statistic.std(), seen.std(0)) < 1e-7
    with pytest.raises(ValueError, match="1 rows have no standard deviation"):
        found[0].std()


# -- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom", "gemma2"])
@pytest.mark.parametrize("fast", [True, False])
def test_losses_are_those_of_the_edited_models(kind: str, fast: bool, tiny_model: TinyModel) -> None:
    """Two edits side by side, against the model with each of the changes in its weights."""
    model = tiny_model(kind)
    hypernetwork, held = drawn(targets_of(model, [1, 2])), material(model)
    seen = [together(factors_of(model, [held.edits[i]], hypernetwork.targets)) for i in (0, 1)]
    transformed = hypernetwork.transform(seen)
    rates = dict(zip((t.name for t in hypernetwork.targets), hypernetwork.rates, strict=True))
    changes = [{n: t.scale(rates[n]) for n, t in one.items()} for one in transformed]
    texts, others = [held.rephrasings[i][j] for i in (0, 1) for j in (0, 1)], [held.locality[i] for i in (0, 5, 2, 3)]
    before = model.fast
    model.fast = fast
    try:
        with left_as_found(model):
            passes = EditedPasses(model, hypernetwork.targets, Store(1.0))
            nll, kl = passes.nll(texts, changes), passes.divergence(others, changes)
            again = EditedPasses(model, hypernetwork.targets, Store(0.0)).divergence(others, changes)
    finally:
        model.fast = before
    assert relative(again, kl) < 1e-5
    for i, one in enumerate(transformed):
        delta = Delta(hypernetwork.terms(one, hypernetwork.rates), model.position)
        rows = others[2 * i : 2 * i + 2]
        was = torch.cat([model.net(input_ids=torch.tensor([r])).logits[0].log_softmax(-1) for r in rows])
        with model.patched(delta):
            now = torch.cat([model.net(input_ids=torch.tensor([r])).logits[0].log_softmax(-1) for r in rows])
            losses = []
            for ids, n in texts[2 * i : 2 * i + 2]:
                logp = model.net(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                losses += [-logp[at - 1, ids[at]] for at in range(n, len(ids))]
        assert float(nll[i]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-3)
        assert float(kl[i]) == pytest.approx(float((was.exp() * (was - now)).sum(-1).mean()), rel=1e-3, abs=1e-6)
        assert float(kl[i]) > 1e-4, "nothing to compare"


def test_gradients_are_those_of_the_loss(tiny_model: TinyModel) -> None:
    """Against differences of the loss when single numbers of the network are moved; and parts add up to the whole."""
    model = tiny_model("gpt2")
    start, recipe = drawn(targets_of(model, [2, 3])), Mend(**QUICK).recipe
    iterations = [Iteration((0,), (1,), (0, 3)), Iteration((4,), (0,), (6, 1)), Iteration((2,), (1,), (7, 7))]
    training = Training(model, start, material(model), recipe)
    training.accumulate(iterations)
    gradients = [p.grad.clone() for p in training.parameters]  # type: ignore[union-attr]
    budget, model.batch_tokens = model.batch_tokens, 16
    try:
        parts = Training(model, start, material(model), recipe)
        parts.accumulate(iterations)
    finally:
        model.batch_tokens = budget
    assert len(parts._parts(iterations)) == 1
    assert all(relative(p.grad, g) < 1e-3 for p, g in zip(parts.parameters, gradients, strict=True) if g.norm() > 1e-4)

    def loss() -> float:
        losses = training.total(Training.accumulate(other, iterations)).sum() / recipe.accumulation
        return float(losses)

    largest = [int(g.abs().argmax()) for g in gradients]
    for i in (0, 1, 2, 3, len(gradients) - 1):
        values = []
        step = 1e-3 * max(1.0, float(training.parameters[i].detach().abs().max()))
        for sign in (1, -1):
            other = Training(model, start, material(model), recipe)
            with torch.no_grad():
                other.parameters[i].view(-1)[largest[i]] += sign * step
            values.append(loss())
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(gradients[i].view(-1)[largest[i]]), rel=0.1), i


def test_an_iteration_that_is_not_finite_adds_nothing(tiny_model: TinyModel) -> None:
    model, recipe = tiny_model("gpt2"), Mend(**QUICK).recipe
    held = material(model)
    good, bad = Iteration((0,), (0,), (0, 1)), Iteration((1,), (0,), (2, 3))
    start = drawn(targets_of(model, [3]))
    alone, both = (Training(model, start, held, recipe) for _ in range(2))
    alone.accumulate([good])
    losses = EditedPasses.divergence

    def broken(self: Any, texts: Any, changes: Any) -> torch.Tensor:
        marked = torch.tensor(
            [
                float("nan") if list(held.locality[2]) in list(texts)[2 * i : 2 * i + 2] else 1.0
                for i in range(len(changes))
            ]
        )
        return losses(self, texts, changes) * marked

    both.passes.divergence = broken.__get__(both.passes)  # type: ignore[method-assign]
    both.accumulate([good, bad])
    assert both.skipped == 1
    for a, b in zip(alone.parameters, both.parameters, strict=True):
        assert relative(b.grad, a.grad) < 1e-4 or a.grad.norm() == 0  # type: ignore[arg-type, union-attr]


# -- a whole training ----------------------------------------------------------------------------------------------


def test_training_learns_and_is_done_once(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2")
    recipe = {"lr": 3e-3, "lr_lr": 1e-3, "edit_lr": 1e-4, "max_iterations": 61, "validate_every": 20}
    with left_as_found(model):
        state = prepare(model, tmp_path, **recipe)
    found = state.given.hypernetwork
    assert all(n.statistics.count > 100 for n in found.networks.values())
    requests = TASK.training_requests()
    held = Material(edit_texts(model, requests), [[t] for t in edit_texts(model, requests)], material(model).locality)
    asked = [Iteration((i,), (0,), (0, 1)) for i in range(len(requests))]
    untrained = Hypernetwork.start(found.targets, 4, 1, 1e-4, 0).with_statistics(found.statistics)
    options = Mend(**QUICK).recipe
    before, after = (Training(model, h, held, options).evaluate(asked).edit.mean() for h in (untrained, found))
    assert after < before - 0.1, "what it was trained on, edits make likelier"
    kept = list((tmp_path / "mend").glob("*.safetensors"))
    assert len(kept) == 1 and not list((tmp_path / "mend").glob("*.training.*"))
    monkeypatch.setattr(mend_schedule, "train", None)
    again = prepare(model, tmp_path, **recipe).given.hypernetwork
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(found), tensors_of(again), strict=True))
    editor = Mend(hypernetwork=str(kept[0]))
    read = editor.prepare(model, list(state.layers), None, Workspace(tmp_path)).given.hypernetwork  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(found), tensors_of(read), strict=True))
    with pytest.raises(UserError, match="was trained on another model"):
        other = tiny_model("llama")
        editor.prepare(other, [x.name for x in list(other.layers.values())[-3:]], None, Workspace(tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_training_goes_on_to_the_same_bits(
    at: int, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2")
    whole = prepare(model, tmp_path / "whole").given.hypernetwork
    monkeypatch.setattr(Pace, "due", lambda self, worked: True)
    steps, step = [], Training.step

    def dies(self: Training) -> float:
        steps.append(1)
        if len(steps) == at + 1:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "step", dies)
        prepare(model, tmp_path / "killed")
    assert len(list((tmp_path / "killed" / "mend").glob("*.training.safetensors"))) == 1
    steps.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", lambda self: steps.append(1) or step(self))
        found = prepare(model, tmp_path / "killed").given.hypernetwork
    assert len(steps) == 4 - at, "the steps before the kill are not made again"
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(whole), tensors_of(found), strict=True))
    assert not list((tmp_path / "killed" / "mend").glob("*.training.*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind, dtype", [("gptj", "float32"), ("qwen2", "bfloat16"), ("llama", "bfloat16")])
def test_training_on_other_networks(kind: str, dtype: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The hypernetwork is float32 and finite whatever the model's numbers are, and its edits are made."""
    model = CausalLM(str(checkpoint(kind)), name=kind, device="cpu", dtype=dtype)
    with left_as_found(model):
        state = prepare(model, tmp_path, max_iterations=5, lr=1e-4)
        edits = Mend(**QUICK).edit_each(model, TASK.requests()[:2], state)
    assert all(t.dtype in (torch.float32, torch.float64) for t in tensors_of(state.given.hypernetwork))
    assert not any(e.refused for e in edits) and all(e.delta.norm() > 0 for e in edits)


def test_what_an_iteration_sees() -> None:
    recipe = replace(Mend(**QUICK).recipe, n_edits=2, n_loc=3)
    plan = Plan(7, (3, 1, 2, 1, 1, 1, 1, 2, 2, 1), 50, recipe, seed=1)
    seen = [plan.iteration(i) for i in range(70)]
    used = [e for i in seen for e in i.edits]
    assert all(sorted(used[k : k + 7]) == list(range(7)) for k in range(0, 140, 7)), "all once before one again"
    assert used[:7] != used[7:14]
    assert {r for i in seen for e, r in zip(i.edits, i.rephrasings, strict=True) if e == 0} == {0, 1, 2}
    assert {k for i in seen for k in i.locality} <= set(range(45)) and seen[5] == plan.iteration(5)
    assert plan.iteration(5) != replace(plan, seed=2).iteration(5)
    validation = plan.validation()
    assert [i.edits for i in validation] == [(7, 8)] and all(45 <= k < 50 for i in validation for k in i.locality)
    assert len(validation[0].locality) == recipe.n_val_loc


def test_seeds_and_texts_make_other_networks(tiny_model: TinyModel, tmp_path: Path) -> None:
    model, text = tiny_model("gpt2"), tmp_path / "text.txt"
    text.write_text("\n\n".join(tiny_texts()[:30]))
    found = [prepare(model, tmp_path, seed=s).given.hypernetwork for s in (0, 1)]
    found.append(prepare(model, tmp_path, locality_dataset=str(text)).given.hypernetwork)
    rates = [h.rates.tolist() for h in found]
    assert rates[0] != rates[1] and rates[0] != rates[2] and len(list((tmp_path / "mend").glob("*.json"))) == 3


def test_too_little_to_train_on(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    for n, options in ((5, {}), (0, {}), (30, {"n_edits": 14})):
        with pytest.raises(
            UserError, match=f"has too few training requests: small leaves {n} beside those to edit"
        ) as e:
            prepare(model, tmp_path, TrainableTask(n_training=n), **options)
        assert "\n" not in str(e.value)
    task = TrainableTask()
    task.corpus_key, task.corpus = None, lambda: [""]  # type: ignore[assignment, method-assign]
    with pytest.raises(UserError, match=r"is empty: give editor\.locality_dataset=FILE"):
        prepare(model, tmp_path, task)
    task.corpus = None  # type: ignore[assignment, method-assign]
    with pytest.raises(UserError, match=r"no text to train MEND's locality on: give editor\.locality_dataset=FILE"):
        prepare(model, tmp_path, task)


def test_too_few_requests_on_the_command_line(quick: Callable[..., list[str]], say: CommandLine) -> None:
    few = [o for o in quick("ft") if not o.startswith("editor") and not o.startswith("task.n_requests")]
    said = say("run", *few, "editor=mend", "task.n_requests=8")
    assert said.code == 2 and "too few training requests: counterfact leaves 2 beside those to edit" in said.line
