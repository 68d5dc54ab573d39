"""EMMET, MEMIT-Seq, ENCORE and AlphaEdit: what every editor keeps to, and their equations in the edited model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.bench import Bench, apart
from helpers.runs import KilledError, go, made_until, override, prepared, records
from helpers.small import TEMPLATES, left_as_found, relative

from edit_robust.core import Delta, LowRank, UserError
from edit_robust.editors.base import State
from edit_robust.editors.language.alphaedit import AlphaEdit
from edit_robust.editors.language.emmet import Emmet
from edit_robust.editors.language.encore import Encore
from edit_robust.editors.language.helpers.family import LayerEditor, mean_keys
from edit_robust.editors.language.helpers.solves import alphaedit_dense, emmet_dense, memit_dense
from edit_robust.editors.language.memit import Memit
from edit_robust.editors.language.memit_seq import MemitSeq
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs.reader import Run

Quick = Callable[..., list[str]]
TinyModel = Callable[[str], CausalLM]

SLOW = pytest.mark.slow
GROUPS = [["{}"], TEMPLATES[1:]]
#: Of the made-up second moments, this leaves about half of the inputs.
THRESHOLD = 1.0
EDITORS: dict[str, tuple[type[LayerEditor], dict[str, Any]]] = {
    "emmet": (Emmet, {"mom2_update_weight": 10.0}),
    "memit-seq": (MemitSeq, {"mom2_update_weight": 10.0}),
    "encore": (Encore, {"mom2_update_weight": 10.0, "l2": 1.0}),
    "alphaedit": (AlphaEdit, {"nullspace_threshold": THRESHOLD, "l2": 1.0}),
}
WITH_STATE = ["memit-seq", "encore", "alphaedit"]


def make(bench: Bench, name: str, **more: Any) -> Any:
    kind, own = EDITORS[name]
    return kind(**bench.options(**{"v_num_grad_steps": 4, **own, **more}))


@pytest.fixture(scope="module", params=["gpt2", *(pytest.param(k, marks=SLOW) for k in ("gptj", "llama", "qwen3"))])
def bench(request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tiny_model(request.param), tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def gpt2(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tiny_model("gpt2"), tmp_path_factory.mktemp("bench"))


def moment(bench: Bench, index: int) -> torch.Tensor:
    with np.load(bench.mom2) as f:
        return torch.from_numpy(f[f"layer{index}"])


def in_sequence(bench: Bench, editor: Any, state: State, batches: list[slice]) -> tuple[list[Any], State]:
    """Edits on top of each other; the model is left as found."""
    model, made = bench.model, []
    with model.held(state.changes(model)):
        for some in batches:
            made.append(editor.edit(model, bench.requests[some], state))
            model.add(made[-1].delta)
            state = state.after(made[-1])
    return made, state


ONE_BY_ONE = [slice(i, i + 1) for i in range(3)]


@pytest.mark.parametrize("name", EDITORS)
def test_the_model_is_left_as_found(bench: Bench, name: str) -> None:
    editor, model = make(bench, name), bench.model
    state = bench.start(editor)
    with left_as_found(model):
        each = editor.edit_each(model, bench.requests[:2], state)
        alone = editor.edit(model, bench.requests[1:2], state)
    assert not any(e.refused for e in each) and alone.delta.norm() > 0 and alone.delta.base == model.base
    assert apart(each[1].delta, alone.delta) < 1e-4
    assert alone.info[0]["delta_norm"] == pytest.approx(alone.delta.norm(), rel=1e-5)
    assert set(alone.delta.terms) == {model.layers[n].weight_name for n in state.layers}
    assert set(alone.carry) == (set(state.layers) if name in WITH_STATE else set())


@SLOW
@pytest.mark.parametrize("name", EDITORS)
def test_half_precision(name: str, checkpoint: Callable[[str], Path], tiny_model: TinyModel, tmp_path: Path) -> None:
    """In bfloat16 the change is that of float32 but for rounding; keys are kept in float32."""
    found = []
    for model in (
        CausalLM(str(checkpoint("llama")), name="llama", device="cpu", dtype="bfloat16"),
        tiny_model("llama"),
    ):
        bench = Bench(model, tmp_path)
        editor = make(bench, name)
        edit = editor.edit(model, bench.requests[:2], bench.start(editor))
        assert not edit.refused and all(k.dtype == torch.float32 for k in edit.carry.values())
        found.append(edit.delta)
    assert apart(found[0], found[1]) < 0.2


@pytest.mark.parametrize("name", EDITORS)
def test_the_solve_is_that_of_the_formula(bench: Bench, name: str) -> None:
    """One layer, two edits of two requests: dW of the second from keys read by hand, densely solved."""
    editor, model = make(bench, name), bench.model
    state = bench.start(editor, [1])
    (layer,) = state.layers
    c, past, wanted = moment(bench, 1), torch.zeros(bench.model.layers[layer].shape[1:] * 2).double(), []
    values, vectors = torch.linalg.eigh(c)
    p = vectors[:, values < THRESHOLD] @ vectors[:, values < THRESHOLD].T
    assert 0.2 < float(p.trace()) / len(p) < 0.8
    with model.held(state.changes(model)):
        for some in (slice(0, 2), slice(2, 4)):
            requests = bench.requests[some]
            edit = editor.edit(model, requests, state)
            z, _ = editor.targets(model, requests, state)
            residual = editor.residual(model, requests, z, state, 1).double().T
            k = mean_keys(model, layer, requests, GROUPS).double().T
            v = {
                "emmet": lambda k=k: emmet_dense(c, k, 10.0, 0.1),
                "memit-seq": lambda k=k, past=past: memit_dense(c, k, 10.0, past),
                "encore": lambda k=k, past=past: memit_dense(c + 0.1 * torch.eye(len(c)), k, 10.0, past),
                "alphaedit": lambda k=k, past=past: alphaedit_dense(p, k, 1.0, past),
            }[name]()
            wanted.append(relative(edit.delta.terms[model.layers[layer].weight_name].dense(), residual @ v.T))
            model.add(edit.delta)
            state, past = state.after(edit), past + k @ k.T
    assert max(wanted) < 1e-5


@pytest.mark.parametrize("name", WITH_STATE)
def test_keys_of_the_solve_are_those_after_the_edit(bench: Bench, name: str) -> None:
    """A layer's keys depend on the writes below it alone: reading them again when all is written gives the same."""
    editor, model = make(bench, name), bench.model
    state = bench.start(editor, [0, 1, 2])
    edit = editor.edit(model, bench.requests[:2], state)
    with model.patched(edit.delta):
        for layer in state.layers:
            assert relative(edit.carry[layer], mean_keys(model, layer, bench.requests[:2], GROUPS)) < 1e-5
    assert relative(edit.carry[layer], mean_keys(model, layer, bench.requests[:2], GROUPS)) > 1e-4


def test_emmet_keeps_its_constraint(bench: Bench) -> None:
    """Without ridge dW K = R: after the last layer the values are there."""
    editor, model = make(bench, "emmet", ridge=0.0), bench.model
    state = bench.start(editor, [0, 1])
    edit = editor.edit(model, bench.requests[:3], state)
    assert all(isinstance(t, LowRank) and t.u.shape[1] == 3 for t in edit.delta.terms.values())
    z, _ = editor.targets(model, bench.requests[:3], state)
    last, k = model.layers[state.layers[-1]], None
    with model.patched(Delta({n: t for n, t in edit.delta.terms.items() if n != last.weight_name})):
        k = mean_keys(model, last.name, bench.requests[:3], GROUPS)
        residual = editor.residual(model, bench.requests[:3], z, state, 1)
    assert relative(k.double() @ edit.delta.terms[last.weight_name].dense().double().T, residual) < 1e-4


def test_emmet_has_no_ridge_for_one(gpt2: Bench) -> None:
    made = {}
    for name, more in {"one": {}, "other weight": {"mom2_update_weight": 3.0}, "ridge": {"ridge_single": True}}.items():
        editor = make(gpt2, "emmet", **more)
        made[name] = editor.edit(gpt2.model, gpt2.requests[:1], gpt2.start(editor, [1])).delta
    assert apart(made["one"], made["other weight"]) < 1e-5 < 1e-3 < apart(made["one"], made["ridge"])


def test_limits_of_editors_with_past_keys(gpt2: Bench) -> None:
    """The first edit of MEMIT-Seq is MEMIT's; without past keys all are. ENCORE without its two additions is MEMIT-Seq,
    and with an enormous gamma writes nothing."""
    first = {}
    memit = Memit(**gpt2.options(v_num_grad_steps=4, mom2_update_weight=10.0))
    for name, editor in {
        "memit": memit,
        "seq": make(gpt2, "memit-seq"),
        "public": make(gpt2, "memit-seq", mode="public"),
        "encore": make(gpt2, "encore", l2=0.0, prob_cutoff=None),
        "stiff": make(gpt2, "encore", l2=1e12),
    }.items():
        first[name] = [e.delta for e in in_sequence(gpt2, editor, gpt2.start(editor), ONE_BY_ONE)[0]]
    assert apart(first["seq"][0], first["memit"][0]) < 1e-5
    assert max(apart(a, b) for a, b in zip(first["public"], first["memit"], strict=True)) < 1e-5
    assert apart(first["seq"][2], first["memit"][2]) > 1e-2, "past keys do not count"
    assert max(apart(a, b) for a, b in zip(first["encore"], first["seq"], strict=True)) < 1e-5
    assert max(d.norm() for d in first["stiff"]) < 1e-6 * first["seq"][0].norm()


def test_alphaedit_stays_in_the_null_space(bench: Bench) -> None:
    editor = make(bench, "alphaedit")
    state = bench.start(editor)
    made, _ = in_sequence(bench, editor, state, ONE_BY_ONE)
    for layer in state.layers:
        basis = state.given.pasts[layer].basis
        for edit in made:
            w = edit.delta.terms[bench.model.layers[layer].weight_name].dense().double()
            assert relative(w @ basis @ basis.T, w) < 1e-6


def test_alphaedit_wants_a_null_space(gpt2: Bench) -> None:
    with pytest.raises(UserError, match=r"leaves nothing in the null space of .* the nearest threshold"):
        gpt2.start(make(gpt2, "alphaedit", nullspace_threshold=1e-6))
    with pytest.raises(UserError, match=r"leaves all \d+ directions in the null space"):
        gpt2.start(make(gpt2, "alphaedit", nullspace_threshold=1e6))


@pytest.mark.parametrize("name", WITH_STATE)
def test_a_refused_edit_leaves_no_keys(gpt2: Bench, name: str) -> None:
    editor = make(gpt2, name)
    state = gpt2.start(editor)
    bad = torch.full((1, gpt2.model.layers[state.layers[0]].shape[0]), float("nan"))
    edit = editor.spread(gpt2.model, gpt2.requests[:1], bad, [{}], state)
    assert edit.refused and not edit.carry and len(state.after(edit).carried) == 0


@SLOW
@pytest.mark.parametrize("name", WITH_STATE)
def test_killed_and_gone_on_with(
    name: str, quick: Quick, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same records and changes to the bit, whether past keys were gathered edit by edit or read from disk."""
    model, kind = tiny_model("gpt2"), EDITORS[name][0]
    own = "editor.nullspace_threshold=0.1" if name == "alphaedit" else "editor.mom2_update_weight=10"
    given = override(quick("rome"), f"editor={name}", own, "task.n_requests=6", "trajectory.batch_size=2")
    whole = go(prepared(given, model))
    assert len(list((whole.path / "state").glob("0*.safetensors"))) == 3
    made = prepared(override(given, f"paths.outputs={tmp_path / 'killed'}"), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(kind, 2, patch)
        go(made)
    assert not Run(made.outputs / "runs" / made.run_id).complete
    again = go(prepared(override(given, f"paths.outputs={tmp_path / 'killed'}"), model))
    assert records(again) == records(whole)
    assert [d.digest() for d in again.deltas()] == [d.digest() for d in whole.deltas()]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("emmet", {"ridge": -0.1}, "editor.ridge=-0.1 must be 0 or more"),
        ("emmet", {"mom2_update_weight": 0.0}, "editor.mom2_update_weight=0.0 must be above 0"),
        ("memit-seq", {"mom2_update_weight": 0.0}, "editor.mom2_update_weight=0.0 must be above 0"),
        ("alphaedit", {"l2": 0.0}, "editor.l2=0.0 must be above 0"),
        ("alphaedit", {"nullspace_threshold": -1.0}, "editor.nullspace_threshold=-1.0 must be above 0"),
        ("encore", {"mom2_update_weight": 0.0, "l2": 0.0}, "are both 0"),
        ("encore", {"prob_cutoff": -2.5}, "editor.prob_cutoff=-2.5 is neither a whole number below 0"),
        ("encore", {"prob_cutoff": 0.0}, "editor.prob_cutoff=0.0 is neither"),
        ("encore", {"prob_cutoff": 2.0}, "editor.prob_cutoff=2.0 is neither"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        EDITORS[name][0](**options)
