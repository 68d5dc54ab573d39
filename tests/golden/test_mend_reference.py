"""MEND against what the public implementation gave (../shared/golden/mend; skipped where that folder is absent)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.golden import WHOLE
from helpers.small import as_examples, as_request, left_as_found, relative

from edit_robust.core import Delta, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.language.helpers.factors import edit_texts, factors_of
from edit_robust.editors.language.helpers.hypernetwork import Hypernetwork
from edit_robust.editors.language.helpers.mend_training import Iteration, Material, Training
from edit_robust.editors.language.mend import Mend
from edit_robust.models.language.causal_lm import CausalLM

MEND = WHOLE / "mend"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MEND / "expected.json").is_file(), reason="the recorded folder is not here"),
]
PROMPTS = ("rewrite_prompts", "paraphrase_prompts", "neighborhood_prompts")
#: The record's two kinds of projection, by [d_in, d_out].
KINDS = {(512, 128): "c_proj", (128, 512): "c_fc"}


class Recorded:
    """The recorded runs, and our model and questions for them."""

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self.expected = json.loads((MEND / "expected.json").read_text())
        self.records = json.loads((WHOLE / "requests.json").read_text())
        self.requests = [as_request(r) for r in self.records]
        self.model = CausalLM(str(WHOLE / "model"), device="cpu")
        self.layers = [self.model.layer_at(i).name for i in (3, 4, 5)]
        examples = [e for r in self.records for e in as_examples(r)]
        changes = [p for n in self.layers for p in (n.replace("c_proj", "c_fc") + ".weight", n + ".weight")]
        self.scorer = self.model.scorer(examples, changes)

    def start(self, **options: Any) -> tuple[Mend, Any]:
        editor = Mend(hypernetwork=str(MEND / "hypernetwork.npz"), **options)
        return editor, editor.prepare(self.model, self.layers, None, self.work)  # type: ignore[arg-type]

    def says(self, i: int, post: dict[str, Any]) -> None:
        """The edited model's answers to request i's questions: within 2e-2 nats of the recorded ones."""
        found = -self.scorer.score(range(13 * i, 13 * i + 13)).logp
        wanted = np.array([nll for p in PROMPTS for nll in post[f"{p}_probs"]])
        assert np.abs(found - wanted).max() < 2e-2, f"request {i}"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(Workspace(tmp_path_factory.mktemp("mend")))


def same_size(delta: Delta, norms: dict[str, float], values: dict[str, list[float]] | None = None) -> None:
    """Norms, and the first three singular values, to 1e-4 of the largest."""
    assert set(delta.terms) == set(norms)
    for name, term in delta.terms.items():
        assert term.norm() == pytest.approx(norms[name], rel=1e-4), name
        if values is not None:
            found = torch.linalg.svdvals(term.dense().double())[:3]
            assert float((found - torch.tensor(values[name]).double()).abs().max()) < 1e-4 * values[name][0], name


def test_single_edits(recorded: Recorded) -> None:
    editor, state = recorded.start()
    assert state.parameters == tuple(recorded.expected["mend_single"][0]["rows"]), "the same projections, in order"
    with left_as_found(recorded.model):
        edits = editor.edit_each(recorded.model, recorded.requests, state)
    for i, (edit, want) in enumerate(zip(edits, recorded.expected["mend_single"], strict=True)):
        assert edit.info[0]["edit_loss"] == pytest.approx(want["edit_loss"], abs=1e-4)
        assert {n: t.u.shape[1] for n, t in edit.delta.terms.items()} == want["rows"]  # type: ignore[union-attr]
        same_size(edit.delta, want["delta_norm"], want["sv"])
        with recorded.model.patched(edit.delta):
            recorded.says(i, want["post"])


def test_factors_before_and_behind_the_network(recorded: Recorded) -> None:
    _, state = recorded.start()
    hypernetwork = state.given.hypernetwork
    (seen,) = factors_of(recorded.model, edit_texts(recorded.model, recorded.requests[:1]), hypernetwork.targets)
    out = hypernetwork.transform([seen.tokens])[0]  # one target token: its loss is the mean
    with np.load(MEND / "factors_first.npz") as kept:
        for target in hypernetwork.targets:
            name = f"h{target.layer.index}.{KINDS[target.shape]}"
            given = [torch.from_numpy(kept[f"{name}/{part}"]) for part in ("x", "delta")]
            rows = (given[0] != 0).any(-1) & (given[1] != 0).any(-1)
            assert relative(seen.tokens[target.name].u, given[0][rows]) < 1e-4
            assert relative(seen.tokens[target.name].delta, given[1][rows]) < 1e-4
            assert relative(out[target.name].u, torch.from_numpy(kept[f"{name}/x_out"])) < 1e-4
            assert relative(out[target.name].delta, torch.from_numpy(kept[f"{name}/delta_out"])) < 1e-4


def test_a_batch_of_ten(recorded: Recorded) -> None:
    editor, state = recorded.start()
    edit, want = editor.edit(recorded.model, recorded.requests[:10], state), recorded.expected["mend_batch10"]
    losses = [i["edit_loss"] for i in edit.info]
    assert len(set(losses)) == 10 and np.mean(losses) == pytest.approx(want["edit_loss"], abs=1e-4)
    same_size(edit.delta, want["delta_norm"], want["sv"])
    with recorded.model.patched(edit.delta):
        for i, post in enumerate(want["post"]):
            recorded.says(i, post)


@pytest.mark.parametrize("mode, run", [("corrected", "mend_sequential20"), ("public", "public_executor_sequential20")])
def test_in_sequence(recorded: Recorded, mode: str, run: str) -> None:
    editor, state = recorded.start(mode=mode)
    model, want = recorded.model, recorded.expected[run]
    with model.held(state.changes(model)) as before:
        for i, step in enumerate(want["steps"]):
            edit = editor.edit(model, [recorded.requests[i]], state)
            state = state.after(edit)
            model.add(edit.delta)
            same_size(model.difference(before), step["drift"])
            recorded.says(i, step["post"])
        for i, post in enumerate(want["final"]):
            recorded.says(i, post)
    assert len(state.carried) == (20 if mode == "public" else 0)


def test_the_public_executor(recorded: Recorded) -> None:
    """Restored between edits, its statistics follow the edits all the same; rates are swapped within each block."""
    editor, state = recorded.start(mode="public")
    for i, want in enumerate(recorded.expected["public_executor_single10"]):
        edit = editor.edit(recorded.model, [recorded.requests[i]], state)
        state = state.after(edit)
        assert {n: float(t) for n, t in edit.carry.items() if n.endswith("/k")} == {
            f"{a}x{b}/k": want["k"][f"({a}, {b})"] for a, b in KINDS
        }
        same_size(edit.delta, want["delta_norm"], want["sv"])
        with recorded.model.patched(edit.delta):
            recorded.says(i, want["post"])


def test_training_takes_the_recorded_steps(recorded: Recorded) -> None:
    """31 iterations, 3 steps: losses to 1e-4 (the locality's, of 1e-5 nats, to their rounding), norms, all tensors.

    On the plain path: Adam makes 5e-5 of the activations' last bit in a fifth of the values of layers.0.v, which begin
    at zero.
    """
    trace = json.loads((MEND / "train_trace.json").read_text())
    said, model = trace["settings"], CausalLM(str(WHOLE / "model"), device="cpu", fast=False)
    editor = Mend(rank=said["rank"], lr=said["lr"], edit_lr=said["edit_lr"])
    assert editor.recipe.c_edit == said["cedit"] and editor.recipe.accumulation == said["accumulate"]
    start = Hypernetwork.start(editor.targets(model, recorded.layers), 32, 1, said["edit_lr"], seed=0)
    answers = [f" {r.target}" for r in recorded.requests]
    material = Material(
        edit_texts(model, recorded.requests),
        [
            model.text.pairs([(p, a) for p in r["paraphrase_prompts"]])
            for r, a in zip(recorded.records, answers, strict=True)
        ],
        np.load(WHOLE / "corpus_tokens.npy").tolist(),
    )
    iterations = [Iteration(*(tuple(t[k]) for k in ("edit", "paraphrase", "loc"))) for t in trace["iterations"]]
    with np.load(MEND / "train_trace.npz") as kept, left_as_found(model):
        for shape, network in start.networks.items():
            for i in (0, 1):
                network.parameters[f"layers.{i}.v"].copy_(torch.from_numpy(kept[f"init/{KINDS[shape]}/layers.{i}.v"]))
        training = Training(model, start, material, replace(editor.recipe, n_loc=3))
        for first, end in ((0, 11), (11, 21), (21, 31)):
            losses = training.accumulate(iterations[first:end])
            for i, want in enumerate(trace["iterations"][first:end]):
                assert float(losses.edit[i]) == pytest.approx(want["l_edit"], rel=1e-4)
                assert float(losses.locality[i]) == pytest.approx(want["l_loc"], rel=1e-2, abs=2e-7)
                assert float(training.total(losses)[i]) == pytest.approx(want["l_total"], rel=1e-4)
            assert training.step() == pytest.approx(want["grad_norm_before_clip"], rel=1e-4)
            rates = training.hypernetwork.rates.detach()
            assert rates.tolist() == pytest.approx(want["edit_lrs"], rel=1e-4)
            for shape, network in training.hypernetwork.networks.items():
                assert network.statistics.count == want["k"][KINDS[shape]]
        for shape, network in training.hypernetwork.networks.items():
            prefix, statistics = f"final/{KINDS[shape]}", network.statistics
            for side, part in (("u", slice(shape[0])), ("v", slice(shape[0], None))):
                assert relative(statistics.mean[part], torch.from_numpy(kept[f"{prefix}/{side}_mean"])) < 1e-4
                assert relative(statistics.std()[part], torch.from_numpy(kept[f"{prefix}/{side}_std"])) < 1e-4
            for name, tensor in network.parameters.items():
                # Adam moves a value by up to lr a step, whichever sign a gradient of nearly 0 has
                off = (tensor.detach() - torch.from_numpy(kept[f"{prefix}/{name}"])).abs()
                assert float(off.max()) < 2 * said["lr"] and float((off > 1e-6).float().mean()) < 0.01, name


def test_a_hypernetwork_of_another_model(recorded: Recorded) -> None:
    editor = Mend(hypernetwork=str(MEND / "hypernetwork.npz"))
    for layers, reason in (
        ([4, 5], "knows 3 projections under c_proj/, and 2 are"),
        ([2, 3, 4, 5], "and 4 are edited"),
    ):
        with pytest.raises(UserError, match=reason):
            names = [recorded.model.layer_at(i).name for i in layers]
            editor.prepare(recorded.model, names, None, recorded.work)  # type: ignore[arg-type]
