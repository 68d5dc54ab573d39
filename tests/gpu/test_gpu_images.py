"""Classifiers and their editors give the same numbers on a GPU; skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_nets import NETS, TinyTask, images, tiny_classifier

from edit_robust.config.check import resolved
from edit_robust.config.compose import compose
from edit_robust.config.nodes import build
from edit_robust.core.work import Workspace

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
EDITORS = ("local-ft", "global-ft", "local-collision", "global-collision", "low-rank", "rewriting")


@pytest.fixture(autouse=True)
def full_precision() -> Any:
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


@pytest.mark.parametrize("kind", sorted(NETS))
@pytest.mark.parametrize("name", EDITORS)
def test_edits_and_answers_are_those_of_the_cpu(kind: str, name: str, tmp_path: Path) -> None:
    steps = ["editor.num_steps=6"] if name == "rewriting" else ["editor.max_epochs=6"]
    node = resolved(compose([f"editor={name}", "editor.lr=0.01", "editor.check_every=3", *steps]))["editor"]
    editor, task, shown = build(node, "editor"), TinyTask(1), images(6, 9)
    found = []
    for device in ("cpu", "cuda"):
        model = tiny_classifier(kind, device=device)
        layers = [model.layer_at(i).name for i in editor.auto_layers(model.n_layers)]
        state = editor.prepare(model, layers, task, Workspace(tmp_path / device))
        edit = editor.edit(model, task.requests(), state)
        assert not edit.refused
        x = model.see([shown.load(i) for i in range(len(shown))])
        along = [answer.float().cpu() for answer in model.logits_along(x, [(edit.delta, [0.0, 0.5, 1.0])])[0]]
        found.append((edit.delta, torch.stack(along)))
    (ours, answers), (theirs, seen) = found
    for term in ours.terms:
        a, b = (t.dense().double().cpu() for t in (theirs.terms[term], ours.terms[term]))
        assert (a - b).norm() <= 1e-2 * b.norm() + 1e-6, term
    assert (answers - seen).abs().max() < 2e-2
