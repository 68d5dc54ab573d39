"""What edits gain, for models of any precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edit_robust.core.work import Workspace
from edit_robust.models.language.causal_lm import CausalLM
from helpers.small import SmallTask, every_editor, layers_for, left_as_found, statistics_file, templates_file


def gains(model: CausalLM, reference: CausalLM, name: str, folder: Path) -> np.ndarray:
    """How much likelier each of four targets is made by its own edit, in nats; no edit may be refused.

    reference: the model in float32, whose made-up statistics all precisions share.
    """
    editor = every_editor(str(statistics_file(folder, reference)), str(templates_file(folder)), steps=15)[name]
    task, layers = SmallTask(4), layers_for(editor, model)
    state = editor.prepare(model, layers, task, Workspace(folder))
    questions = [e for e in task.examples() if e.id.endswith("/0")]
    before = model.score(questions).logp[:, 0]
    after = []
    for i, request in enumerate(task.requests()):
        with left_as_found(model):
            edit = editor.edit(model, [request], state)
        assert not edit.refused, f"{name} refuses in {model.dtype}"
        with model.patched(edit.delta):
            after.append(model.score(questions[i : i + 1]).logp[0, 0])
    return np.array(after) - before
