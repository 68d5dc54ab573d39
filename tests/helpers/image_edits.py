"""Image editors with short settings, and plain counterparts of what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edit_robust.core import ImageRequest
from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.vision.collision import Collision
from edit_robust.editors.vision.low_rank import DirectLowRank
from edit_robust.editors.vision.rewriting import Rewriting
from edit_robust.editors.vision.supervised import Supervised
from edit_robust.models.vision.classifier import Classifier
from helpers.tiny_nets import TinyTask, triples

GRID = [0.001, 0.1]
STEPS: dict[str, Any] = {"lr_grid": GRID, "max_epochs": 6, "check_every": 3}
EDITORS: dict[str, Callable[..., Any]] = {
    "local-collision": lambda **o: Collision(**{**STEPS, **o}),
    "global-collision": lambda **o: Collision(scope="global", **{**STEPS, **o}),
    "local-ft": lambda **o: Supervised(**{**STEPS, **o}),
    "global-ft": lambda **o: Supervised(scope="global", **{**STEPS, **o}),
    "low-rank": lambda **o: DirectLowRank(restarts=2, **{**STEPS, **o}),
    "rewriting": lambda **o: Rewriting(restarts=2, lr_grid=GRID, num_steps=6, check_every=3, **o),
    "rewriting-all": lambda **o: Rewriting(variant="santurkar2021", num_steps=20, **{"lr": 0.01, **o}),
}


def start(editor: Any, model: Classifier, work: Workspace, layer: int = 1) -> State:
    return editor.prepare(model, [model.layer_at(layer).name], TinyTask(), work)


def bits(model: Classifier) -> dict[str, Tensor]:
    """Parameters and running statistics."""
    return {k: v.clone() for k, v in model.net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def request(n: int = 3, seed: int = 0) -> ImageRequest:
    return ImageRequest("one", triples(n, seed), None, search=triples(4, 99))


def block_output(net: nn.Module, end: nn.Module, x: Tensor) -> Tensor:
    """What a module gives in a run of the whole network."""
    seen: list[Tensor] = []
    hook = end.register_forward_hook(lambda m, a, o: seen.append(o))
    try:
        net(x)
    finally:
        hook.remove()
    return seen[0]


def layer_input(model: Classifier, name: str, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = model.layers[name].module.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    try:
        with torch.no_grad():
            model.net(x)
    finally:
        hook.remove()
    return seen[0]


def plain_training(
    model: Classifier, names: list[str], loss: Callable[[], Tensor], lr: float, steps: int, decay: float = 1e-4
) -> dict[str, Tensor]:
    """SGD as the paper has it; the changes as matrices."""
    params = {n: model.net.get_parameter(n) for n in names}
    before = {n: p.detach().clone() for n, p in params.items()}
    momenta = {n: torch.zeros_like(p) for n, p in params.items()}
    for p in params.values():
        p.requires_grad_(True)
    for _ in range(steps):
        for (n, p), g in zip(params.items(), torch.autograd.grad(loss(), list(params.values())), strict=True):
            with torch.no_grad():
                momenta[n] = 0.9 * momenta[n] + g + (decay * p if "weight" in n else 0.0)
                p -= lr * momenta[n]
    changes = {
        n: (p.detach() - before[n]).flatten(1) if p.ndim > 1 else p.detach() - before[n] for n, p in params.items()
    }
    with torch.no_grad():
        for n, p in params.items():
            p.requires_grad_(False)
            p.copy_(before[n])
    return changes
