"""A tiny model with statistics and templates, and editors that are ready on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edit_robust.core import Delta, Request
from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.language.helpers.values import subject_rows
from edit_robust.models.language.causal_lm import CausalLM
from helpers.small import SmallTask, every_editor, layers_for, relative, statistics_file, templates_file

NAMES = ["rome", "r-rome", "p-rome", "memit", "ft", "ft-unconstrained", "ft-l2"]
KINDS = ["gpt2", "llama"]


class Bench:
    """A tiny model with statistics and templates, and editors that are ready on it."""

    def __init__(self, model: CausalLM, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.mom2, self.templates = str(statistics_file(folder, model)), str(templates_file(folder))
        self.editors = every_editor(self.mom2, self.templates)
        self.requests = SmallTask(5).requests()

    def start(self, editor: Any, layers: Sequence[int] | None = None) -> State:
        names = layers_for(editor, self.model) if layers is None else [self.model.layer_at(i).name for i in layers]
        return editor.prepare(self.model, names, SmallTask(5), Workspace(self.folder / "cache"))

    def options(self, **more: Any) -> dict[str, Any]:
        return {"mom2": self.mom2, "context_templates": self.templates, "v_num_grad_steps": 5, **more}

    def keys(self, layer: str, request: Request, templates: Sequence[str]) -> torch.Tensor:
        return self.model.trace(*subject_rows(self.model, [request], templates), [layer])[layer].double()

    def outputs(self, layer: str, request: Request, templates: Sequence[str]) -> torch.Tensor:
        """What the projection gives at the subject's last token in the model as it stands, bias included."""
        seen = []
        hook = self.model.layers[layer].module.register_forward_hook(lambda m, a, o: seen.append(o[0]))
        try:
            for ids, at in zip(*subject_rows(self.model, [request], templates), strict=True):
                self.model.net(input_ids=torch.tensor([ids]))
                seen[-1] = seen[-1][at]
        finally:
            hook.remove()
        return torch.stack(seen).double()


def apart(a: Delta, b: Delta) -> float:
    assert set(a.terms) == set(b.terms)
    return max(relative(a.terms[n].dense(), b.terms[n].dense()) for n in a.terms)
