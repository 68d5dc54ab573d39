"""RECT, PRUNE, PMET and NSE on tiny models: what every editor keeps to; and what RECT and PRUNE are known by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bench import Bench, apart
from helpers.small import SmallTask, left_as_found, relative

from edit_robust.core import Dense, LowRank, UserError
from edit_robust.editors.base import Edit, State
from edit_robust.editors.language.helpers.spectrum import pruned_values
from edit_robust.editors.language.memit import Memit
from edit_robust.editors.language.nse import Nse
from edit_robust.editors.language.pmet import Pmet
from edit_robust.editors.language.prune import Prune
from edit_robust.editors.language.rect import Rect, largest_ratios
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow
TinyModel = Callable[[str], CausalLM]

MAKE: dict[str, Callable[..., Any]] = {"rect": Rect, "prune": Prune, "pmet": Pmet, "nse": Nse}


KINDS = ["gpt2", "llama", *(pytest.param(k, marks=pytest.mark.thorough) for k in ("gptj", "qwen3"))]


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tiny_model(getattr(request, "param", "llama")), tmp_path_factory.mktemp("bench"))


@pytest.fixture
def gpt2(tiny_model: TinyModel, tmp_path: Path) -> Bench:
    return Bench(tiny_model("gpt2"), tmp_path)


def editor_of(bench: Bench, name: str, **more: Any) -> Any:
    return MAKE[name](**bench.options(**{"mom2_update_weight": 10.0, **more}))


# -- what every editor keeps to ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bench", KINDS, indirect=True)
@pytest.mark.parametrize("name", list(MAKE))
def test_edits_leave_the_model_as_found(bench: Bench, name: str) -> None:
    editor, model = editor_of(bench, name), bench.model
    with left_as_found(model):
        state = bench.start(editor)
        edit = editor.edit(model, bench.requests[:2], state)
        each = editor.edit_each(model, bench.requests[:2], state)
    assert not edit.refused and edit.delta.base == model.base and edit.delta.norm() > 0
    assert set(edit.delta.terms) == {model.layers[n].weight_name for n in state.layers}
    assert len(edit.info) == 2 and all(isinstance(v, float) for i in edit.info for v in i.values())
    assert edit.info[0]["delta_norm"] == pytest.approx(edit.delta.norm(), rel=1e-5)
    for request, side in zip(bench.requests, each, strict=False):
        assert apart(side.delta, editor.edit(model, [request], state).delta) < 1e-3
    with left_as_found(model), model.patched(edit.delta):
        second = editor.edit(model, bench.requests[2:3], state.after(edit))
        assert second.delta.base == model.position != model.base


@pytest.mark.parametrize("bench", ["gptj", "qwen3"], indirect=True)
@pytest.mark.parametrize("name", list(MAKE))
def test_an_edit_does_what_it_is_for(bench: Bench, name: str) -> None:
    editor = editor_of(bench, name, v_num_grad_steps=15, log_base=1.2) if name == "prune" else None
    editor = editor or editor_of(bench, name, v_num_grad_steps=15)
    question = SmallTask(5).probes(bench.requests[:1])[0].examples
    edit = editor.edit(bench.model, bench.requests[:1], bench.start(editor))
    before = bench.model.score(question).logp[0, 0]
    with bench.model.patched(edit.delta):
        assert bench.model.score(question).logp[0, 0] > before + 1e-3


@pytest.mark.parametrize("bench", ["gptj", "qwen3"], indirect=True)
@pytest.mark.parametrize("name", list(MAKE))
def test_fast_edits_are_plain_edits(bench: Bench, name: str) -> None:
    fast, plain = (editor_of(bench, name, fast=f) for f in (True, False))
    state = bench.start(fast)
    a, b = (e.edit(bench.model, bench.requests[:1], state).delta for e in (fast, plain))
    assert apart(a, b) < (2e-2 if name == "rect" else 1e-3), "an entry at RECT's cut may change sides"


@pytest.mark.parametrize("name", list(MAKE))
def test_half_precision(name: str, checkpoint: Callable[[str], Path], gpt2: Bench) -> None:
    """An edit in bfloat16 gains what it gains in float32, up to rounding, and its change is told in float32."""
    half = CausalLM(str(checkpoint("gpt2")), name="gpt2", device="cpu", dtype="bfloat16")
    question = SmallTask(5).probes(gpt2.requests[:1])[0].examples
    gained = []
    for model in (gpt2.model, half):
        gpt2.model = model
        editor = editor_of(gpt2, name, v_num_grad_steps=15)
        with left_as_found(model):
            edit = editor.edit(model, gpt2.requests[:1], gpt2.start(editor))
        assert not edit.refused
        assert {x.dtype for t in edit.delta.terms.values() for x in t.tensors().values()} == {torch.float32}
        before = model.score(question).logp[0, 0]
        with model.patched(edit.delta):
            gained.append(model.score(question).logp[0, 0] - before)
    assert gained[0] > 0.1 and abs(gained[1] - gained[0]) < 0.2, gained


@pytest.mark.parametrize("name", list(MAKE))
def test_edits_of_a_broken_model_are_refused(gpt2: Bench, name: str) -> None:
    model, editor = gpt2.model, editor_of(gpt2, name)
    state = gpt2.start(editor)
    gain = model.anatomy.after[0].weight
    kept = gain.detach().clone()
    with torch.no_grad():
        gain.fill_(float("nan"))
    try:
        edits = [editor.edit(model, gpt2.requests[:2], state), *editor.edit_each(model, gpt2.requests[:2], state)]
    finally:
        with torch.no_grad():
            gain.copy_(kept)
    assert all(e.refused and e.delta.terms == {} and not e.carry and e.info[0]["refused"] == 1.0 for e in edits)
    assert state.after(edits[0]) is state


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("rect", {"keep": 0.0}, r"editor\.keep=0.0"),
        ("rect", {"keep": 1.5}, r"editor\.keep=1.5"),
        ("prune", {"log_base": 1.0}, r"editor\.log_base=1.0"),
        ("nse", {"alpha": -1.0}, r"editor\.alpha=-1.0"),
        ("nse", {"alpha": 3.0, "ub": 2.0}, r"editor\.ub=2.0 must be above editor\.alpha=3.0"),
        ("nse", {"p": 0.0}, r"editor\.p=0.0"),
        ("nse", {"max_iterations": 1}, r"editor\.max_iterations=1"),
        ("nse", {"mom2_update_weight": 0.0}, r"editor\.mom2_update_weight=0.0"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        MAKE[name](**options)


# -- RECT ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "keep", "stay"), [(10, 0.4, 5), (10, 0.7, 8), (7, 0.5, 5), (10, 0.95, 10), (10, 1.0, 10)]
)
def test_how_many_entries_stay(n: int, keep: float, stay: int) -> None:
    """N - floor((1 - keep) N) + 1 of N, the largest ratios; all where nothing is to be cut."""
    change, w = torch.randn(2, n).double()[:, None]
    kept = largest_ratios(change, w, keep)
    assert int(kept.sum()) == stay
    ratio = (change / (w + 1e-8)).abs()
    assert stay == n or float(ratio[kept].min()) > float(ratio[~kept].max())
    assert bool(largest_ratios(torch.ones(1, 3), torch.tensor([[0.0, 1.0, 2.0]]), 0.4)[0, 0]), "a weight of 0"


@pytest.mark.parametrize("mode", ["corrected", "public"])
def test_kept_entries_are_memits(bench: Bench, mode: Any) -> None:
    model = bench.model
    state = bench.start(memit := editor_of_memit(bench))
    dense = memit.edit(model, bench.requests[:2], state).delta
    cut = editor_of(bench, "rect", mode=mode).edit(model, bench.requests[:2], state).delta
    lowest = model.layers[state.layers[0]].weight_name
    for name in dense.terms if mode == "public" else [lowest]:
        whole, kept = dense.terms[name].dense(), cut.terms[name].dense()
        stay = largest_ratios(whole.double(), model.matrix(name), 0.4)
        assert int((kept != 0).sum()) == int(stay.sum()) == whole.numel() - int(0.6 * whole.numel()) + 1
        assert relative(kept, torch.where(stay, whole, 0.0)) < 1e-5
        assert isinstance(cut.terms[name], Dense)
    all_of_it = editor_of(bench, "rect", mode=mode, keep=1.0).edit(model, bench.requests[:2], state).delta
    assert all_of_it.digest() == dense.digest()


def test_later_layers_are_fitted_to_what_stays(gpt2: Bench) -> None:
    """`corrected` ends nearer to the value than `public`, which reads what it then takes away."""
    left = {}
    for mode in ("corrected", "public"):
        editor = editor_of(gpt2, "rect", mode=mode, keep=0.2, mom2_update_weight=1e-3)
        state = gpt2.start(editor)
        targets, infos = editor.targets(gpt2.model, gpt2.requests[:1], state)
        edit = editor.spread(gpt2.model, gpt2.requests[:1], targets, infos, state)
        with gpt2.model.patched(edit.delta):
            left[mode] = float(editor.residual(gpt2.model, gpt2.requests[:1], targets, state, 1).norm())
    assert left["corrected"] < 0.9 * left["public"]


def editor_of_memit(bench: Bench, **more: Any) -> Memit:
    return Memit(**bench.options(**{"mom2_update_weight": 10.0, **more}))


# -- PRUNE ---------------------------------------------------------------------------------------------------------


def walked(bench: Bench, editor: Any, state: State[Any], n: int = 3) -> tuple[dict[str, torch.Tensor], list[Edit]]:
    """n edits on top of each other: the whole change, and the edits."""
    edits: list[Edit] = []
    model = bench.model
    with model.held(state.changes(model)) as before:
        for request in bench.requests[:n]:
            edits.append(editor.edit(model, [request], state))
            model.add(edits[-1].delta)
            state = state.after(edits[-1])
        change = model.difference(before)
        return {n: change.terms[n].dense().double() for n in edits[0].delta.terms}, edits


def held_to(state: State[Any], top: float) -> State[Any]:
    """The state with another largest singular value for all weights."""
    return replace(state, given=replace(state.given, tops=dict.fromkeys(state.given.tops, top)))


def test_nothing_is_pruned_below_the_weights_own_size(bench: Bench) -> None:
    prune, memit = editor_of(bench, "prune"), editor_of_memit(bench)
    state = held_to(bench.start(prune), 1e6)
    _, ours = walked(bench, prune, state)
    _, theirs = walked(bench, memit, bench.start(memit))
    assert [e.delta.digest() for e in ours] == [e.delta.digest() for e in theirs]
    assert all(e.info[0]["pruned_directions"] == 0 for e in ours)


@pytest.mark.parametrize("mode", ["corrected", "public"])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["as matrices", "as factors"])
def test_the_model_stands_at_the_pruned_sum(bench: Bench, mode: Any, share: float, monkeypatch: Any) -> None:
    """W0 + F(Delta) after every edit, Delta the sum that MEMIT makes, with its singular vectors."""
    monkeypatch.setattr("edit_robust.editors.language.prune._FACTORED", share)
    prune, memit = editor_of(bench, "prune", mode=mode, log_base=2.0), editor_of_memit(bench)
    state, sums = bench.start(prune), walked(bench, memit, bench.start(memit))[0]
    top = 0.3 * min(float(torch.linalg.svdvals(m)[1]) for m in sums.values())
    stands, edits = walked(bench, prune, held_to(state, top))
    assert edits[-1].info[0]["pruned_directions"] >= 2 * len(sums)
    kinds = {type(t) for t in edits[-1].delta.terms.values()}
    assert kinds == ({LowRank} if share else {Dense})
    for name, whole in sums.items():
        a, s, b = torch.linalg.svd(whole, full_matrices=False)
        pruned = a @ torch.diag(pruned_values(s.clamp_min(1e-12), top, 2.0)) @ b
        assert relative(stands[name], pruned + whole if mode == "public" else pruned) < 1e-3


def test_what_was_taken_away_is_the_same_computed_again(gpt2: Bench) -> None:
    """From the pieces alone, as when a run goes on: the same bits as from the memory of the last edit."""
    editor = editor_of(gpt2, "prune", log_base=2.0)
    state, model = held_to(gpt2.start(editor), 1e-3), gpt2.model
    first = editor.edit(model, gpt2.requests[:2], state)
    with model.patched(first.delta):
        after = state.after(first)
        second = editor.edit(model, gpt2.requests[2:4], after)
        copied = replace(first, carry={k: x.clone() for k, x in first.carry.items()})
        fresh = held_to(gpt2.start(editor), 1e-3).after(copied)
        again = editor.edit(model, gpt2.requests[2:4], fresh)
        twice = editor.edit(model, gpt2.requests[2:4], after)
    assert second.delta.digest() == again.delta.digest() == twice.delta.digest()
    assert all(torch.equal(second.carry[k], again.carry[k]) for k in second.carry)
