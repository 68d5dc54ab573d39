"""What PMET and NSE are known by, on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.bench import Bench, apart
from helpers.small import left_as_found, relative

from edit_robust.editors.language.helpers.family import mean_keys
from edit_robust.editors.language.helpers.pair_values import optimise_pairs
from edit_robust.editors.language.helpers.values import subject_rows
from edit_robust.editors.language.memit_seq import MemitSeq
from edit_robust.editors.language.nse import Nse, most_active
from edit_robust.editors.language.pmet import Pmet
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow
TinyModel = Callable[[str], CausalLM]


@pytest.fixture(scope="module", params=["gptj", "llama"])
def bench(request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tiny_model(request.param), tmp_path_factory.mktemp("bench"))


@pytest.fixture
def gpt2(tiny_model: TinyModel, tmp_path: Path) -> Bench:
    return Bench(tiny_model("gpt2"), tmp_path)


def editor_of(bench: Bench, name: str, **more: Any) -> Any:
    return {"pmet": Pmet, "nse": Nse}[name](**bench.options(**{"mom2_update_weight": 10.0, **more}))


# -- PMET ----------------------------------------------------------------------------------------------------------


def test_one_layer_is_memits_solve(bench: Bench) -> None:
    """dW = R K^T (lambda C + K K^T)^-1 with R = z - MLP output, by a dense solve."""
    editor, model = editor_of(bench, "pmet"), bench.model
    state = bench.start(editor, [1])
    name, requests = state.layers[0], bench.requests[:3]
    targets, infos = editor.targets(model, requests, state)
    edit = editor.spread(model, requests, targets, infos, state)
    k = mean_keys(model, name, requests, state.given.groups).double().T
    r = (targets - mlp_output(model, name, requests)).double().T
    c = state.given.inverses[name].factor
    want = r @ k.T @ torch.linalg.inv(10.0 * c @ c.T + k @ k.T)
    assert relative(edit.delta.terms[model.layers[name].weight_name].dense(), want) < 1e-4


def test_the_mlp_gives_the_value(bench: Bench) -> None:
    """With the bare prompt alone and next to no penalty the last layer's MLP then gives z; layers share by sqrt."""
    editor = editor_of(bench, "pmet", context_templates="bare", mom2_update_weight=1e-9)
    state, model, requests = bench.start(editor, [0, 1]), bench.model, bench.requests[:2]
    targets, infos = editor.targets(model, requests, state)
    whole = editor.residual(model, requests, targets, state, 1)
    assert relative(whole, targets - mlp_output(model, state.layers[-1], requests)) < 1e-4
    assert relative(editor.residual(model, requests, targets, state, 2), whole / 2**0.5) < 1e-9
    edit = editor.spread(model, requests, targets, infos, state)
    with model.patched(edit.delta):
        assert relative(mlp_output(model, state.layers[-1], requests), targets) < 1e-3


def test_both_vectors_stay_in_their_balls(bench: Bench) -> None:
    editor = editor_of(bench, "pmet", clamp_norm_factor=0.1, v_lr=0.5)
    state = bench.start(editor)
    targets, infos = editor.targets(bench.model, bench.requests, state)
    start = mlp_output(bench.model, state.layers[-1], bench.requests)
    assert ((targets - start).norm(dim=1) <= 0.1 * start.norm(dim=1) * (1 + 1e-4)).all()
    assert all(i["attention_value_norm"] > 0 and i["value_norm"] > 0 for i in infos)


def test_values_of_a_fixed_norm(gpt2: Bench) -> None:
    """`norm_rescale: nas`: PMET's value is the MLP's own output, so that z itself has the norm m."""
    editor = editor_of(gpt2, "pmet")
    state = gpt2.start(editor)
    free, _ = editor.targets(gpt2.model, gpt2.requests[:2], state)
    m = 0.8 * float(free.norm(dim=1).min())
    held = replace(state, given=replace(state.given, mean_norm=m))
    targets, infos = editor.targets(gpt2.model, gpt2.requests[:2], held)
    assert targets.norm(dim=1).tolist() == pytest.approx([m, m], rel=1e-5)
    assert relative(targets / m, free / free.norm(dim=1, keepdim=True)) < 1e-5
    assert [i["output_norm"] for i in infos] == pytest.approx(free.norm(dim=1).tolist(), rel=1e-4)


def test_pmet_without_the_bare_prompt(gpt2: Bench) -> None:
    """Templates without "{}": the bare prompt lends its outputs and takes no part in the loss."""
    editor = editor_of(gpt2, "pmet")
    name, templates = gpt2.model.layer_at(1).name, ["Today. {}", "Paris. {}"]
    found = optimise_pairs(gpt2.model, name, gpt2.requests[:2], templates, **editor.optimisation)
    beside = optimise_pairs(gpt2.model, name, gpt2.requests[:2], ["{}", *templates], **editor.optimisation)
    assert relative(found.init, beside.init) < 1e-5 and found.keys.shape[1] == 2 and beside.keys.shape[1] == 3
    assert relative(found.delta, beside.delta) > 1e-3


# -- NSE -----------------------------------------------------------------------------------------------------------


def test_one_pass_over_all_neurons_is_memit_seq(bench: Bench) -> None:
    """With the values fixed, edit after edit."""
    nse, seq = editor_of(bench, "nse", max_iterations=2), MemitSeq(**bench.options(mom2_update_weight=10.0))
    model, ours, theirs = bench.model, bench.start(nse), bench.start(seq)
    with model.held(ours.changes(model)):
        for request in bench.requests[:3]:
            targets, infos = nse.targets(model, [request], ours)
            a = nse.spread(model, [request], targets, infos, ours)
            b = seq.spread(model, [request], targets, infos, theirs)
            assert apart(a.delta, b.delta) < 1e-6 and a.info[0]["passes"] == 1
            assert all(relative(a.carry[n], b.carry[n]) < 1e-5 for n in a.carry)
            model.add(a.delta)
            ours, theirs = ours.after(a), theirs.after(replace(b, carry=a.carry))


def test_values_are_the_unedited_models(bench: Bench) -> None:
    nse = editor_of(bench, "nse")
    state, model = bench.start(nse), bench.model
    before, _ = nse.targets(model, bench.requests[:2], state)
    edit = nse.edit(model, bench.requests[2:], state)
    with model.patched(edit.delta):
        with left_as_found(model):
            after, _ = nse.targets(model, bench.requests[:2], state.after(edit))
        assert torch.equal(before, after)
        assert relative(MemitSeq.targets(nse, model, bench.requests[:2], state)[0], before) > 1e-3  # type: ignore[arg-type]


def test_who_is_written(gpt2: Bench) -> None:
    """Those whose distance is between alpha and ub; what an edit writes of others is nothing, their keys stay."""
    free = editor_of(gpt2, "nse")
    state, requests = gpt2.start(free), gpt2.requests[:3]
    far = [i["value_distance"] for i in free.edit(gpt2.model, requests, state).info]
    order = sorted(range(3), key=far.__getitem__)
    between = {"alpha": (far[order[0]] + far[order[1]]) / 2, "ub": (far[order[1]] + far[order[2]]) / 2}
    one = editor_of(gpt2, "nse", max_iterations=2, **between)
    edit = one.edit(gpt2.model, requests, state)
    assert [i["passes"] for i in edit.info] == [float(i == order[1]) for i in range(3)]
    alone = editor_of(gpt2, "nse", max_iterations=2).edit(gpt2.model, [requests[order[1]]], state)
    assert apart(edit.delta, alone.delta) < 1e-4
    assert all(len(k) == 3 for k in edit.carry.values()), "past keys are those of all"
    none = editor_of(gpt2, "nse", alpha=1e6).edit(gpt2.model, requests, state)
    assert not none.refused and none.delta.norm() == 0.0 and len(state.after(none).carried) == 1
    with left_as_found(gpt2.model):
        gpt2.model.add(none.delta)
        gpt2.model.position = gpt2.model.base


def test_a_second_pass_comes_nearer(gpt2: Bench) -> None:
    left = []
    for passes in (1, 2, 4):
        editor = editor_of(gpt2, "nse", max_iterations=passes + 1, mom2_update_weight=3.0)
        state, requests = gpt2.start(editor), gpt2.requests[:2]
        targets, infos = editor.targets(gpt2.model, requests, state)
        edit = editor.spread(gpt2.model, requests, targets, infos, state)
        assert edit.info[0]["passes"] == passes
        with gpt2.model.patched(edit.delta):
            left.append(float(editor.residual(gpt2.model, requests, targets, state, 1).norm()))
    assert left[0] > left[1] > left[2]


def test_only_active_neurons_are_written(bench: Bench) -> None:
    """The solve restricted to them, by dense algebra, past keys included."""
    editor = editor_of(bench, "nse", p=0.7, max_iterations=2)
    state, model = bench.start(editor, [1]), bench.model
    first = editor.edit(model, bench.requests[:2], state)
    name = state.layers[0]
    with model.patched(first.delta):
        state = state.after(first)
        requests = bench.requests[2:4]
        targets, infos = editor.targets(model, requests, state)
        r = editor.residual(model, requests, targets, state, 1).T
        k = mean_keys(model, name, requests, state.given.groups).double().T
        edit = editor.spread(model, requests, targets, infos, state)
    some = most_active(k, 0.7)
    assert 1 < len(some) < len(k) and float(k[some].abs().sum()) <= 0.7 * float(k.abs().sum())
    c, past = bench_moment(bench, name), first.carry[name].double().T
    m = (10.0 * c + past @ past.T + k @ k.T)[some][:, some]
    want = torch.zeros(r.shape[0], len(k), dtype=torch.float64)
    want[:, some] = r @ k[some].T @ torch.linalg.inv(m)
    assert relative(edit.delta.terms[model.layers[name].weight_name].dense(), want) < 1e-4


def mlp_output(model: CausalLM, layer: str, requests: Any) -> torch.Tensor:
    """What the projection gives at the subject's last token of the bare prompts, by a hook."""
    seen: list[torch.Tensor] = []
    hook = model.layers[layer].module.register_forward_hook(lambda m, a, o: seen.append(o))
    found = []
    try:
        for ids, at in zip(*subject_rows(model, requests, ["{}"]), strict=True):
            model.net(input_ids=torch.tensor([ids]))
            found.append(seen[-1].reshape(len(ids), -1)[at])
    finally:
        hook.remove()
    return torch.stack(found)


def bench_moment(bench: Bench, name: str) -> torch.Tensor:
    with np.load(bench.mom2) as held:
        return torch.from_numpy(held[f"layer{bench.model.layers[name].index}"]).double()


def test_at_least_one_neuron() -> None:
    assert most_active(torch.tensor([[1.0], [5.0], [-2.0]]), 0.1).tolist() == [1]
    assert most_active(torch.tensor([[1.0], [5.0], [-2.0]]), 0.9).tolist() == [1, 2]
