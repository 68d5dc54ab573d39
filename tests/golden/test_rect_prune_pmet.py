"""RECT, PRUNE and PMET against recorded outputs of their public code (`../shared/golden/later-editors`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.later import OPTIONS, Later, leading, needs_later, off, walk

from edit_robust.core import Delta, LowRank
from edit_robust.editors.language.helpers.spectrum import excess, largest_singular_value
from edit_robust.editors.language.pmet import Pmet
from edit_robust.editors.language.prune import Prune
from edit_robust.editors.language.rect import Rect

pytestmark = [pytest.mark.slow, needs_later]

#: Differences of an NLL in nats, and relative ones of a change, beyond which two implementations are not the same.
NLL, CHANGE = 2e-2, 1e-2


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Later:
    return Later(tmp_path_factory.mktemp("later"))


def compare(later: Later, change: dict[str, torch.Tensor], run: str, tag: str, want: dict[str, Any]) -> None:
    """A change against the recorded norm, singular values and leading pair of every weight."""
    arrays = later.arrays(run)
    kind = "delta" if "delta_norm" in want else "total"
    assert set(change) == set(want[f"{kind}_norm"])
    for name, m in change.items():
        assert float(m.double().norm()) == pytest.approx(want[f"{kind}_norm"][name], rel=CHANGE)
        values = torch.linalg.svdvals(m.double())[:3].tolist()
        largest = want[f"{kind}_{'sv'}" if kind == "total" else "sv"][name]
        assert values == pytest.approx(largest, rel=CHANGE, abs=1e-5 * largest[0])
        assert off(m, leading(arrays, tag, name)) < CHANGE, name


@pytest.mark.parametrize(("mode", "run"), [("corrected", "rect_layerwise_single"), ("public", "rect_public_single")])
def test_rect_single(later: Later, mode: Any, run: str) -> None:
    editor = Rect(keep=0.4, mode=mode, **later.options)
    state = later.start(editor)
    recorded = later.expected[run][:6]
    edits = editor.edit_each(later.model, later.requests[:6], state)
    for i, (edit, want) in enumerate(zip(edits, recorded, strict=True)):
        change = {n: t.dense() for n, t in edit.delta.terms.items()}
        compare(later, change, run, str(i), want)
        for name, m in change.items():
            assert abs(int((m != 0).sum()) - want["kept"][name]) <= 2, "entries at the cut may change sides"
        with later.model.patched(edit.delta):
            assert np.abs(later.nlls([i]) - later.recorded_nlls([want["post"]])).max() < NLL


@pytest.mark.parametrize(("mode", "run"), [("corrected", "rect_layerwise_b5"), ("public", "rect_public_b5")])
def test_rect_first_steps(later: Later, mode: Any, run: str) -> None:
    """Two batches on top of each other; further on rounding decides which entries stay."""
    steps = later.expected[run]["steps"]
    with later.model.held(later.model.parameter_names(later.names)):
        editor = Rect(mode=mode, **later.options)
        state = later.start(editor)
        for t, some in enumerate((range(5), range(5, 10))):
            edit = editor.edit(later.model, [later.requests[i] for i in some], state)
            compare(later, {n: x.dense() for n, x in edit.delta.terms.items()}, run, str(t), steps[t])
            later.model.add(edit.delta)
            assert np.abs(later.nlls(some) - later.recorded_nlls(steps[t]["post"])).max() < NLL


@pytest.mark.parametrize(
    ("size", "more", "variant"), [("b1", {}, "log_e"), ("b5", {"mode": "public"}, "public_added_on_top")]
)
def test_prune(later: Later, size: str, more: dict[str, Any], variant: str) -> None:
    """Where the model stands at the end, and all recorded variants as functions of the sum of the edits before.

    The edits go on from unpruned weights: their sum is MEMIT's, whatever is looked at in between.
    """
    run = f"prune_{size}"
    batches = [range(i, i + int(size[1:])) for i in range(0, 20, int(size[1:]))]
    want = later.expected[run]["variants"]
    with later.model.held(later.model.parameter_names(later.names)) as before:
        state = walk(later, Prune(**later.options, **more), batches)
        stands = later.model.difference(before)
        compare(later, {n: stands.terms[n].dense() for n in later.weights}, run, variant, want[variant])
        assert np.abs(later.nlls(range(20)) - later.recorded_nlls(want[variant]["post"])).max() < NLL
    recorded = later.expected[f"memit_{size}"]["final"]["total_norm"]
    change: dict[str, dict[str, torch.Tensor]] = {v: {} for v in want}
    for n in later.weights:
        edits = [LowRank(piece[f"{n}|u"], piece[f"{n}|v"]) for piece in state.carried]
        whole, last = Delta.chain([Delta({n: e}) for e in edits]).terms[n], edits[-1]
        assert isinstance(whole, LowRank) and whole.norm() == pytest.approx(recorded[n], rel=1e-3)
        w = later.model.matrix(n)
        for name, base in (("log_e", math.e), ("log_1.2", 1.2), ("log_2", 2.0)):
            change[name][n] = whole.dense() - excess(whole, largest_singular_value(w), base)[0].dense()
        change["public_added_on_top"][n] = whole.dense() + change["log_e"][n]
        earlier = w + whole.dense() - last.dense()  # taken for the unedited weights there, by mistake
        pruned = last.dense() - excess(last, largest_singular_value(earlier), math.e)[0].dense()
        change["public_last_batch_only"][n] = whole.dense() + pruned
    for name, found in change.items():
        compare(later, found, run, name, want[name])


def test_pmet_single(later: Later) -> None:
    options = {**later.options, "v_lr": 0.2, "v_num_grad_steps": 30, "kl_factor": 1.0}
    editor, run = Pmet(**options), "pmet_single"
    state, arrays = later.start(editor), later.arrays(run)
    requests = later.requests[:10]
    targets, infos = editor.targets(later.model, requests, state)
    for i, want in enumerate(later.expected[run]):
        edit = editor.spread(later.model, [requests[i]], targets[i : i + 1], [infos[i]], state)
        z = arrays[f"{i}:z_mlp"]
        assert float((targets[i] - z).norm() / z.norm()) < CHANGE
        compare(later, {n: t.dense() for n, t in edit.delta.terms.items()}, run, str(i), want)
        with later.model.patched(edit.delta):
            assert np.abs(later.nlls([i]) - later.recorded_nlls([want["post"]])).max() < NLL


def test_settings_are_the_recorded_ones(later: Later) -> None:
    for run in ("rect_public_single", "prune_b1"):
        told = later.expected["settings"][run]["hparams"]
        assert {k: told[k] for k in OPTIONS} == {k: pytest.approx(v) for k, v in OPTIONS.items()}
