"""ROME and MEMIT: their equations hold in the edited model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bench import KINDS, Bench, apart
from helpers.small import TEMPLATES, left_as_found, relative

from edit_robust.core import Delta, LowRank, UserError
from edit_robust.editors.base import State
from edit_robust.editors.language.helpers.values import optimise_values, subject_rows
from edit_robust.editors.language.memit import Memit
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM


@pytest.fixture(scope="module", params=KINDS)
def bench(
    request: pytest.FixtureRequest, tiny_model: Callable[[str], CausalLM], tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    return Bench(tiny_model(request.param), tmp_path_factory.mktemp("bench"))


@pytest.fixture
def gpt2(tiny_model: Callable[[str], CausalLM], tmp_path: Path) -> Bench:
    return Bench(tiny_model("gpt2"), tmp_path)


# -- ROME and its repairs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "keys"), [("rome", "mean-bare"), ("r-rome", "mean"), ("p-rome", "bare")])
def test_rome_writes_its_value(bench: Bench, name: str, keys: Any) -> None:
    """W' k + b = v at the method's own key: the bare one for ROME and p-ROME, the mean one for r-ROME."""
    model, r = bench.model, bench.requests[1]
    editor = Rome(name, keys=keys, **bench.options())
    state = bench.start(editor, [1])
    (layer,) = state.layers
    values = optimise_values(model, layer, "mlp", [r], TEMPLATES, **editor.optimisation)
    v = values.value[0].double()
    edit = editor.edit(model, [r], state)
    term = edit.delta.terms[model.layers[layer].weight_name]
    assert isinstance(term, LowRank) and term.u.shape[1] == 1
    templates = TEMPLATES if keys == "mean" else ["{}"]
    k = bench.keys(layer, r, templates).mean(0)
    before = bench.outputs(layer, r, templates).mean(0)
    with model.patched(edit.delta):
        after = bench.outputs(layer, r, templates).mean(0)
        bias = model.layers[layer].bias_name
        by_hand = model.matrix(model.layers[layer].weight_name).double() @ k
        by_hand += model.param(bias).double() if bias else 0
    assert relative(after, v) < 1e-4 and relative(by_hand, v) < 1e-4
    assert relative(before, v) > 1e-2, "the value hardly differs from what was there: this test says nothing"
    # the direction is C^-1 k of the mean key, of the bare one for p-ROME
    with_key = bench.keys(layer, r, ["{}"] if keys == "bare" else TEMPLATES).mean(0)
    c = _moment(bench, 1)
    direction = torch.linalg.solve(c, with_key)
    assert relative(term.v[:, 0], direction / direction.norm()) < 1e-5
    bare, mean = bench.keys(layer, r, ["{}"])[0], bench.keys(layer, r, TEMPLATES).mean(0)
    top = {"mean-bare": bare, "mean": mean, "bare": bare}[keys] @ direction
    assert edit.info[0]["division_factor"] == pytest.approx(float(top / direction.norm()), rel=1e-4)
    assert edit.info[0]["key_ratio"] == pytest.approx(float(top / (with_key @ direction)), rel=1e-4)
    if keys != "mean-bare":
        assert edit.info[0]["key_ratio"] == pytest.approx(1.0, abs=1e-6)


def _moment(bench: Bench, index: int) -> torch.Tensor:
    import numpy as np

    with np.load(bench.mom2) as f:
        return torch.from_numpy(f[f"layer{index}"])


def test_rome_without_statistics(gpt2: Bench) -> None:
    editor = Rome(mom2_adjustment=False, **gpt2.options())
    state = gpt2.start(editor, [1])
    (term,) = editor.edit(gpt2.model, gpt2.requests[:1], state).delta.terms.values()
    k = gpt2.keys(state.layers[0], gpt2.requests[0], TEMPLATES).mean(0)
    assert isinstance(term, LowRank) and relative(term.v[:, 0], k / k.norm()) < 1e-5


def test_the_three_romes_are_one_without_contexts(gpt2: Bench) -> None:
    found = []
    for keys in ("mean-bare", "mean", "bare"):
        editor = Rome(keys=keys, **gpt2.options(context_templates="bare"))  # type: ignore[arg-type]
        found.append(editor.edit(gpt2.model, gpt2.requests[:1], gpt2.start(editor, [1])).delta)
    assert apart(found[0], found[1]) < 1e-5 and apart(found[0], found[2]) < 1e-5


def test_near_disabling_edits_are_refused_on_demand(gpt2: Bench) -> None:
    model, r = gpt2.model, gpt2.requests[:1]
    for least, refused in ((1e9, True), (-1e9, False)):
        editor = Rome(min_key_ratio=least, **gpt2.options())
        with left_as_found(model):
            edit = editor.edit(model, r, gpt2.start(editor, [1]))
        assert edit.refused == refused and edit.info[0]["refused"] == float(refused)
        if refused:
            assert edit.delta.terms == {} and edit.delta.info["refused"].startswith("guard: key_ratio")
            assert edit.info[0]["key_ratio"] < least, "what was measured stays on record"


def test_rome_wants_one_fact_and_one_layer(gpt2: Bench) -> None:
    editor = gpt2.editors["rome"]
    with pytest.raises(UserError, match="one fact at a time"):
        editor.edit(gpt2.model, gpt2.requests[:2], gpt2.start(editor))
    with pytest.raises(UserError, match="one layer"):
        gpt2.start(editor, [0, 1])


# -- MEMIT ---------------------------------------------------------------------------------------------------------


def memit_parts(bench: Bench, state: State, editor: Memit) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys [d_in, n] of the only layer, and z - z_cur [d, n]."""
    (layer,) = state.layers
    groups = [["{}"], TEMPLATES[1:]]
    keys = [sum(bench.keys(layer, r, g).mean(0) for g in groups) / 2 for r in bench.requests]
    values = optimise_values(bench.model, layer, "block", bench.requests, TEMPLATES, **editor.optimisation)
    return torch.stack(keys, 1), (values.value - values.init).double().T  # type: ignore[arg-type]


def test_memit_interpolates_where_nothing_is_kept(bench: Bench) -> None:
    """lambda -> 0: dW K = R, one layer."""
    editor = Memit(mom2_update_weight=1e-9, **bench.options())
    state = bench.start(editor, [1])
    k, residual = memit_parts(bench, state, editor)
    (term,) = editor.edit(bench.model, bench.requests, state).delta.terms.values()
    assert relative(term.dense().double() @ k, residual) < 1e-3


def test_memit_is_the_dense_solve(bench: Bench) -> None:
    """Woodbury's form against (lambda C + K K^T)^-1 K in float64."""
    editor = Memit(mom2_update_weight=0.7, **bench.options())
    state = bench.start(editor, [1])
    k, residual = memit_parts(bench, state, editor)
    want = residual @ torch.linalg.solve(0.7 * _moment(bench, 1) + k @ k.T, k).T
    (term,) = editor.edit(bench.model, bench.requests, state).delta.terms.values()
    assert isinstance(term, LowRank) and term.u.shape[1] == 5
    assert relative(term.dense(), want) < 1e-4


def test_memit_spreads_over_layers(bench: Bench) -> None:
    """Each layer takes its share of what is left after those below: with lambda -> 0 the last one closes the gap."""
    editor = Memit(mom2_update_weight=1e-9, **bench.options(context_templates="bare"))
    model, requests = bench.model, bench.requests[:2]
    state = bench.start(editor, [0, 1, 2])
    last = state.layers[-1]
    values = optimise_values(model, last, "block", requests, ["{}"], **editor.optimisation)
    delta = editor.edit(model, requests, state).delta
    places = subject_rows(model, requests, ["{}"])
    before = model.block_output(last, *places)
    first = Delta({model.layers[n].weight_name: delta.terms[model.layers[n].weight_name] for n in state.layers[:1]})
    with model.patched(first):
        keys = model.trace(*places, [state.layers[0]])[state.layers[0]]
        moved = keys @ delta.terms[model.layers[state.layers[0]].weight_name].dense().T
    assert relative(moved, (values.value - before) / 3) < 1e-3
    with model.patched(delta):
        assert relative(model.block_output(last, *places), values.value) < 1e-3


def test_memit_batches(bench: Bench) -> None:
    """A batch of one is a single edit; the size of the optimisation's batches changes nothing."""
    state = bench.start(bench.editors["memit"])
    one = bench.editors["memit"].edit(bench.model, bench.requests[2:3], state)
    each = bench.editors["memit"].edit_each(bench.model, bench.requests[:3], state)[2]
    assert apart(one.delta, each.delta) < 1e-4
    small = Memit(mom2_update_weight=10.0, value_batch=2, **bench.options(v_num_grad_steps=4))
    a = bench.editors["memit"].edit(bench.model, bench.requests, state)
    b = small.edit(bench.model, bench.requests, state)
    assert apart(a.delta, b.delta) < 1e-4 and len(a.info) == 5
