"""Recorded outputs of the public code of editors that came after MEMIT, where they lie beside the repository."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.models.language.causal_lm import CausalLM
from helpers.golden import WHOLE
from helpers.small import as_examples, as_request

LATER = WHOLE / "later-editors"
PROMPTS = ("rewrite_prompts", "paraphrase_prompts", "neighborhood_prompts")
needs_later = pytest.mark.skipif(
    not (LATER / "expected.json").is_file(), reason="recorded outputs do not lie beside the repository"
)
#: Value optimisation of every run unless its settings say otherwise.
OPTIONS: dict[str, Any] = {
    "v_num_grad_steps": 20,
    "v_lr": 0.5,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 2.0,
    "kl_factor": 0.0625,
    "mom2_update_weight": 50.0,
}


class Later:
    """The model, requests and settings of the recorded runs, and what they gave."""

    def __init__(self, folder: Path) -> None:
        self.expected = json.loads((LATER / "expected.json").read_text())
        records = json.loads((WHOLE / "requests.json").read_text())
        self.requests = [as_request(r) for r in records]
        self.model = CausalLM(str(WHOLE / "model"), device="cpu")
        self.examples = [e for r in records for e in as_examples(r)]
        self.names = [self.model.layer_at(i).name for i in range(3)]
        self.weights = [self.model.layers[n].weight_name for n in self.names]
        self.scorer = self.model.scorer(self.examples, self.model.parameter_names(self.names))
        self.work = Workspace(folder)
        self.options = {
            **OPTIONS,
            "mom2": str(WHOLE / "second_moment.npz"),
            "context_templates": str(WHOLE / "contexts.json"),
        }

    def start(self, editor: Any, layers: Sequence[int] = (0, 1, 2)) -> State[Any]:
        return editor.prepare(self.model, [self.names[i] for i in layers], None, self.work)

    def arrays(self, run: str) -> dict[str, torch.Tensor]:
        with np.load(LATER / f"{run}.npz") as held:
            return {n: torch.from_numpy(held[n]) for n in held.files}

    def nlls(self, cases: Sequence[int]) -> np.ndarray:
        """[13 prompts a case, 2]: mean NLL of the new and of the true target, in the model as it stands."""
        return -self.scorer.score([13 * i + j for i in cases for j in range(13)]).logp

    def recorded_nlls(self, posts: Sequence[dict[str, Any]]) -> np.ndarray:
        return np.array([pair for post in posts for p in PROMPTS for pair in post[f"{p}_probs"]])


def leading(arrays: dict[str, torch.Tensor], tag: str, parameter: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The recorded leading pair of a change as [d_out, 1] and [d_in, 1]; their product is its best rank-1 part."""
    return arrays[f"{tag}:{parameter}:right"][:, None], arrays[f"{tag}:{parameter}:left"][:, None]


def off(change: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor]) -> float:
    """How far the leading singular pair of a change is from a recorded one, relative to it, in Frobenius norm."""
    a, s, b = torch.linalg.svd(change.double(), full_matrices=False)
    want = pair[0].double() @ pair[1].double().T
    return float((s[0] * torch.outer(a[:, 0], b[0]) - want).norm() / want.norm())


def walk(later: Later, editor: Any, batches: Sequence[Sequence[int]]) -> State[Any]:
    """Edit upon edit; the model is left changed. -> the state after the last"""
    state = later.start(editor)
    for some in batches:
        edit = editor.edit(later.model, [later.requests[i] for i in some], state)
        assert not edit.refused
        later.model.add(edit.delta)
        state = state.after(edit)
    return state
