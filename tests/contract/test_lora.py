"""LoRA: adapters of peft become a change of low rank, and leave nothing behind."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bench import apart
from helpers.runs import CommandLine, KilledError, go, made_until, override, prepared, records
from helpers.small import SmallTask, left_as_found, relative

from edit_robust.core import Delta, LowRank, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.language.lora import ADAPTER, Lora
from edit_robust.models.language.causal_lm import CausalLM

pytest.importorskip("peft")

TinyModel = Callable[[str], CausalLM]
REQUESTS = SmallTask(6).requests()


def start(editor: Lora, model: CausalLM, layers: list[int], seed: int = 0) -> State:
    names = [model.layer_at(i).name for i in layers]
    return editor.prepare(model, names, SmallTask(6), Workspace(Path("nowhere"), seed=seed))  # type: ignore[arg-type]


def nll(model: CausalLM, which: int) -> float:
    question = [e for e in SmallTask(6).examples() if e.id == f"{which}/0"]
    return -float(model.score(question).logp[0, 0])


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama", "qwen2", "bloom"])
def test_a_change_of_low_rank_at_the_chosen_projections(kind: str, tiny_model: TinyModel) -> None:
    model, editor = tiny_model(kind), Lora(rank=3, num_steps=15, lr=2e-2)
    state = start(editor, model, [2, 0])
    modules = dict(model.net.named_modules())
    random = torch.get_rng_state()
    with left_as_found(model):
        edit = editor.edit(model, REQUESTS[:1], state)
    assert torch.equal(torch.get_rng_state(), random), "nobody else's random numbers are touched"
    assert dict(model.net.named_modules()) == modules and not hasattr(model.net, "peft_config")
    assert not edit.refused and edit.delta.base == model.base
    assert set(edit.delta.terms) == {model.layer_at(i).weight_name for i in (0, 2)} == set(state.changes(model))
    for name, term in edit.delta.terms.items():
        assert isinstance(term, LowRank) and term.u.shape[1] == 3
        assert term.shape == tuple(model.matrix(name).shape) and term.norm() > 0
        assert int((torch.linalg.svdvals(term.dense().double()) > 1e-6 * term.norm()).sum()) <= 3
    before = nll(model, 0)
    with model.patched(edit.delta):
        assert nll(model, 0) < before - 1e-2


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_change_is_what_merging_the_adapters_gives(kind: str, tiny_model: TinyModel) -> None:
    model, editor = tiny_model(kind), Lora(rank=2, lora_alpha=7.0)
    state, ids = start(editor, model, [0, 1]), torch.tensor([model.text.encode("Ada plays the piano")])
    layers = [model.layers[n] for n in state.layers]
    generator = torch.Generator().manual_seed(1)
    with left_as_found(model), editor._adapted(model, layers, seed=3) as adapters:
        assert all(not b.any() for _, b in adapters.values()), "an adapter starts as no change"
        with torch.no_grad():
            for _, b in adapters.values():
                b.copy_(torch.randn(b.shape, generator=generator))
        adapted: Any = [model.net.get_submodule(n) for n in state.layers]
        want = [x.get_delta_weight(ADAPTER).detach() for x in adapted]
        logits = model.net(input_ids=ids).logits.detach()
        terms = {
            x.weight_name: LowRank(7 / 2 * b.detach(), a.detach().T)
            for x, (a, b) in zip(layers, adapters.values(), strict=True)
        }
    for layer, delta in zip(layers, want, strict=True):
        assert relative(terms[layer.weight_name].dense(), layer.matrix(delta)) < 1e-6
    with model.patched(Delta(terms, model.position)):
        assert relative(model.net(input_ids=ids).logits, logits) < 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "bloom"])
def test_fast_is_plain(kind: str, tiny_model: TinyModel) -> None:
    model, editor = tiny_model(kind), Lora(rank=2, num_steps=5)
    state = start(editor, model, [1])
    fast = editor.edit(model, REQUESTS[:2], state).delta
    model.fast = False
    try:
        plain = editor.edit(model, REQUESTS[:2], state).delta
    finally:
        model.fast = True
    assert apart(fast, plain) < 1e-3


def test_single_batch_and_sequence(tiny_model: TinyModel) -> None:
    model, editor = tiny_model("gpt2"), Lora(rank=4, num_steps=30, lr=2e-2, batch_size=2)
    state = start(editor, model, [1, 2])
    each = editor.edit_each(model, REQUESTS[:3], state)
    alone = [editor.edit(model, [r], state) for r in REQUESTS[:3]]
    assert [a.delta.digest() for a in each] == [b.delta.digest() for b in alone], "the same seed gives the same bits"
    with left_as_found(model):
        batch = editor.edit(model, REQUESTS[:3], state)
    before = [nll(model, i) for i in range(3)]
    with model.patched(batch.delta):
        assert all(nll(model, i) < before[i] for i in range(3)) and len(batch.info) == 3
    with left_as_found(model), model.patched(alone[0].delta):
        second = editor.edit(model, REQUESTS[1:2], state.after(alone[0]))
        assert second.delta.base == model.position != model.base
        assert apart(second.delta, alone[1].delta) > 1e-3, "a new adapter at the weights as they are now"
    other = editor.edit(model, REQUESTS[:1], start(editor, model, [1, 2], seed=1))
    assert apart(other.delta, alone[0].delta) > 1e-2, "another seed draws another A"


def test_training_ends_when_it_is_good_enough(tiny_model: TinyModel) -> None:
    model, editor = tiny_model("gpt2"), Lora(rank=8, num_steps=200, lr=2e-2)
    state = start(editor, model, [0, 1, 2, 3])
    edit = editor.edit(model, REQUESTS[:1], state)
    assert edit.info[0]["edit_loss"] < 1e-2 and edit.info[0]["edit_steps"] < 200
    with model.patched(edit.delta):
        nothing = editor.edit(model, REQUESTS[:1], state)
    assert nothing.delta.norm() == 0.0 and not nothing.refused


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, checkpoint: Callable[[str], Path], tiny_model: TinyModel) -> None:
    """Adapters are float32; what an edit gains is about what it gains in float32."""
    half = CausalLM(str(checkpoint("llama")), device="cpu", dtype=dtype)
    gained = []
    for model in (tiny_model("llama"), half):
        editor = Lora(rank=4, num_steps=10, lr=1e-2)
        with left_as_found(model):
            edit = editor.edit(model, REQUESTS[:1], start(editor, model, [0, 1]))
        assert all(t.u.dtype == t.v.dtype == torch.float32 for t in edit.delta.terms.values())  # type: ignore[union-attr]
        before = nll(model, 0)
        with model.patched(edit.delta):
            gained.append(before - nll(model, 0))
    assert gained[0] > 0.5 and abs(gained[0] - gained[1]) < 0.2


def test_what_fails_leaves_the_model_as_found(tiny_model: TinyModel) -> None:
    model, editor = tiny_model("gpt2"), Lora(num_steps=3)
    state, modules = start(editor, model, [1]), dict(model.net.named_modules())

    def fail(*args: Any) -> None:
        raise ZeroDivisionError("on purpose")

    hook = model.anatomy.blocks[3].register_forward_pre_hook(fail)
    try:
        with left_as_found(model), pytest.raises(ZeroDivisionError):
            editor.edit(model, REQUESTS[:1], state)
    finally:
        hook.remove()
    assert dict(model.net.named_modules()) == modules
    exploding = Lora(num_steps=3, lr=1e30)
    with left_as_found(model):
        assert exploding.edit(model, REQUESTS[:1], state).refused


def test_bad_options(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"editor\.rank=0 must be above 0"):
        Lora(rank=0)
    with pytest.raises(UserError, match=r"editor\.rank=100 is more than a matrix of 48 x 192 has"):
        start(Lora(rank=100), tiny_model("gpt2"), [0])
    monkeypatch.setattr("edit_robust.editors.language.lora.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package peft: pip install 'edit-robust\[lora\]'"):
        Lora()
    assert importlib.util.find_spec("peft") is not None


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(
    quick: Callable[..., list[str]], tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2")
    few = [o for o in quick("ft") if not o.startswith("editor.")]
    given = override(few, "editor=lora", "editor.rank=2", "editor.num_steps=3", "task.n_requests=4")
    whole = go(prepared(given, model))
    made = prepared(override(given, f"paths.outputs={tmp_path / 'killed'}"), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(Lora, 2, patch)
        go(made)
    run = go(made)
    assert records(run) == records(whole) and run.delta().digest() == whole.delta().digest()
    assert all(isinstance(t, LowRank) for t in run.delta().terms.values()), "its changes are kept as factors"


def test_the_extra_is_named_on_the_command_line(say: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edit_robust.editors.language.lora.find_spec", lambda name: None)
    said = say("run", "editor=lora", "task.n_requests=2", "tracker=none")
    assert said.code == 2 and "edit-robust[lora]" in said.line
