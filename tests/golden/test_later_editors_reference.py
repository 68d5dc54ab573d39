"""EMMET, MEMIT-Seq, ENCORE and AlphaEdit, alone and in sequence, against recorded outputs of their public code.

The outputs lie beside the repository (`../shared/golden/later-editors`); without them there is nothing to compare. Each
sequence is followed on our own model: differences may grow, and stay within what the records say of the noise of the
public code itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.golden import WHOLE
from helpers.small import as_examples, as_request, relative

from edit_robust.core import Delta
from edit_robust.core.work import Workspace
from edit_robust.editors.language.alphaedit import AlphaEdit
from edit_robust.editors.language.emmet import Emmet
from edit_robust.editors.language.encore import Encore
from edit_robust.editors.language.memit_seq import MemitSeq
from edit_robust.models.language.causal_lm import CausalLM

LATER = WHOLE / "later-editors"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (LATER / "expected.json").is_file(), reason="the recorded outputs are not here"),
]
PROMPTS = ("rewrite_prompts", "paraphrase_prompts", "neighborhood_prompts")
VALUE: dict[str, Any] = {
    "mom2": str(WHOLE / "second_moment.npz"),
    "context_templates": str(WHOLE / "contexts.json"),
    "clamp_norm_factor": 2.0,
    "v_num_grad_steps": 20,
}


class Recorded:
    """What was recorded, and our model and questions for it."""

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self.expected = json.loads((LATER / "expected.json").read_text())
        records = json.loads((WHOLE / "requests.json").read_text())
        self.requests = [as_request(r) for r in records]
        self.model = CausalLM(str(WHOLE / "model"), device="cpu")
        lowest = self.model.parameter_names([self.model.layer_at(0).name])
        self.scorer = self.model.scorer([e for r in records for e in as_examples(r)], lowest)

    def start(self, editor: Any, layers: Sequence[int]) -> Any:
        return editor.prepare(self.model, [self.model.layer_at(i).name for i in layers], None, self.work)

    def nll(self, i: int, post: dict[str, Any]) -> float:
        """The largest difference from the record in the NLLs of request i's questions, in the model as it stands."""
        ours = self.scorer.score(range(13 * i, 13 * i + 13)).logp
        return float(np.abs(ours + np.array([x for p in PROMPTS for x in post[f"{p}_probs"]])).max())

    def check(self, delta: Delta, norms: dict[str, float], factors: Any, tag: Any) -> None:
        """Norm and leading singular pair of the change of every weight. Those recorded are Conv1D's."""
        assert {n: t.norm() for n, t in delta.terms.items()} == pytest.approx(norms, rel=1e-3)
        for name, term in delta.terms.items():
            u, s, v = torch.linalg.svd(term.dense().double(), full_matrices=False)
            want = np.outer(factors[f"{tag}:{name}:right"], factors[f"{tag}:{name}:left"])
            assert relative(torch.outer(u[:, 0], v[0]) * s[0], torch.from_numpy(want)) < 1e-2, (tag, name)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(Workspace(tmp_path_factory.mktemp("recorded")))


@pytest.mark.parametrize(
    ("run", "layers", "weight"), [("emmet_single_layer0", [0], 1.0), ("emmet_single_layers012", [0, 1, 2], 50.0)]
)
def test_emmet_alone(recorded: Recorded, run: str, layers: list[int], weight: float) -> None:
    editor = Emmet(**VALUE, mom2_update_weight=weight)
    edits = editor.edit_each(recorded.model, recorded.requests[:5], recorded.start(editor, layers))
    with np.load(LATER / f"{run}.npz") as factors:
        for i, edit in enumerate(edits):
            want = recorded.expected[run][i]
            recorded.check(edit.delta, want["delta_norm"], factors, want["case_id"])
            with recorded.model.patched(edit.delta):
                assert recorded.nll(i, want["post"]) < 2e-2


@pytest.mark.parametrize(
    ("run", "layers", "weight"),
    [
        ("emmet_batch20_layer0_w1000", [0], 1000.0),
        ("emmet_batch20_layers012_w50", [0, 1, 2], 50.0),
    ],
)
def test_emmet_in_a_batch(recorded: Recorded, run: str, layers: list[int], weight: float) -> None:
    editor, want = Emmet(**VALUE, mom2_update_weight=weight), recorded.expected[run]
    edit = editor.edit(recorded.model, recorded.requests[:20], recorded.start(editor, layers))
    with np.load(LATER / f"{run}.npz") as factors:
        recorded.check(edit.delta, want["delta_norm"], factors, "batch")
    with recorded.model.patched(edit.delta):
        assert max(recorded.nll(i, post) for i, post in enumerate(want["post"])) < 2e-2


MADE: dict[str, Any] = {
    "memit_seq": MemitSeq(**VALUE, mom2_update_weight=50.0),
    "encore": Encore(**VALUE, mom2_update_weight=50.0, l2=10.0, prob_cutoff=-4),
    "alphaedit": AlphaEdit(**VALUE, nullspace_threshold=0.05, l2=1.0),
    "alphaedit_published": AlphaEdit(**VALUE, nullspace_threshold=0.02, l2=10.0),
}
#: Run -> steps that are followed: all of the batches, five of the single edits.
SEQUENCES = {
    "memit_seq_b1": 5,
    "memit_seq_b5": 4,
    "encore_b1": 5,
    "alphaedit_b1": 5,
    "alphaedit_b5": 4,
    "alphaedit_published_b1": 5,
}


@pytest.mark.parametrize("run", SEQUENCES)
def test_in_sequence(recorded: Recorded, run: str) -> None:
    name = run.rpartition("_b")[0]
    editor, want, model = MADE[name], recorded.expected[run], recorded.model
    state = recorded.start(editor, [0, 1, 2])
    with model.held(state.changes(model)) as before, np.load(LATER / f"{run}.npz") as factors:
        for step in want["steps"][: SEQUENCES[run]]:
            edit = editor.edit(model, [recorded.requests[i] for i in step["cases"]], state)
            recorded.check(edit.delta, step["delta_norm"], factors, step["step"])
            model.add(edit.delta)
            state = state.after(edit)
            for i, post in zip(step["cases"], step["post"], strict=True):
                assert recorded.nll(i, post) < 2e-2, step["step"]
            for layer in edit.carry:
                past = sum(float((piece[layer].double() ** 2).sum()) for piece in state.carried)
                assert past == pytest.approx(step["past_trace"][f"{layer}.weight"], rel=1e-3)
        if len(want["steps"]) == SEQUENCES[run]:
            total = {n: t.norm() for n, t in model.difference(before).terms.items()}
            assert {n: total[n] for n in want["final"]["total_norm"]} == pytest.approx(
                want["final"]["total_norm"], rel=1e-3
            )
            assert max(recorded.nll(i, post) for i, post in enumerate(want["final"]["post"])) < 2e-2


def test_null_spaces_have_the_recorded_ranks(recorded: Recorded) -> None:
    for run in ("alphaedit_b1", "alphaedit_published_b1"):
        state = recorded.start(MADE[run.removesuffix("_b1")], [0, 1, 2])
        for layer, past in state.given.pasts.items():
            basis = past.basis
            about = recorded.expected[run]["projector"][f"{layer}.weight"]
            assert basis.shape[1] == about["rank"]
            with np.load(WHOLE / "second_moment.npz") as kept:
                c = torch.from_numpy(kept[f"layer{recorded.model.layers[layer].index}"]).double()
            largest = float(torch.linalg.eigvalsh(basis.T @ c @ basis)[-1])
            assert largest == pytest.approx(about["largest_kept"], rel=1e-3)
