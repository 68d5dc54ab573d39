"""Low-rank changes of a layer: at kernel taps, side by side, and against torch's own optimisers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.image_edits import (
    block_output,
    request,
)
from helpers.tiny_nets import NETS, tiny_classifier
from torch import Tensor, nn

from edit_robust.core import Layer, LowRank, Request
from edit_robust.core.work import Workspace
from edit_robust.editors.vision.helpers.features import LabelledFeatures, prefix_features
from edit_robust.editors.vision.helpers.options import Training
from edit_robust.editors.vision.helpers.pairs import ImagePairs, image_pairs
from edit_robust.editors.vision.helpers.selection import Selection
from edit_robust.editors.vision.helpers.side_by_side import (
    LayerInputs,
    LowRankProblem,
    OutputTarget,
    clean_output,
    optimise,
)
from edit_robust.editors.vision.helpers.taps import add_changes, expand_to_taps, sum_taps, taps
from edit_robust.models.vision.classifier import Classifier


@pytest.fixture(scope="module")
def model() -> Callable[[str], Classifier]:
    made: dict[str, Classifier] = {}
    return lambda kind: made.setdefault(kind, tiny_classifier(kind))


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "cache")


def conv(kernel: int | tuple[int, int], **options: Any) -> nn.Conv2d:
    return nn.Conv2d(5, 7, kernel, **options)


SHAPES = [
    conv(3, padding=1), conv(1), conv(5, padding=2, stride=2), conv(3), conv(2), conv(4, padding=1, stride=2),
    conv((3, 2), padding=(1, 0)), conv(3, padding=2, dilation=2), conv(3, padding=1, padding_mode="reflect"),
]  # fmt: skip


@pytest.mark.parametrize("module", SHAPES, ids=lambda m: f"{m.kernel_size}-{m.stride}-{m.dilation}-{m.padding_mode}")
def test_a_change_at_the_taps_is_a_dense_change(module: nn.Conv2d) -> None:
    layer = Layer("0", 0, "conv2d", module)
    h, u, v = torch.randn(2, 5, 9, 8), torch.randn(3, 7, 2), torch.randn(3, 5, 2)
    with torch.no_grad():
        still = module(h)
        got = add_changes(layer, still, sum_taps(layer, h), u, v).reshape(3, *still.shape)
        own = module.weight.clone()
        for g in range(3):
            module.weight.copy_(own + layer.native(LowRank(u[g], expand_to_taps(layer, v[g])).dense()))
            assert torch.allclose(got[g], module(h), atol=1e-4)
            module.weight.copy_(own)


def test_taps() -> None:
    odd, even = (taps(Layer("0", 0, "conv2d", conv(k))) for k in (3, 4))
    assert odd.nonzero().tolist() == [[1, 1]]
    assert even.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert taps(Layer("0", 0, "conv2d", conv(2))).sum() == 4


def low_rank_problem(m: Classifier, live: bool, asked: Request) -> tuple[LowRankProblem, ImagePairs]:
    layer, end = m.layer_at(1), m.blocks[1].end
    network, pairs = m.split_at(layer.name), image_pairs(m, [asked.x])
    train = LabelledFeatures(prefix_features(m, network, pairs.edited), pairs.labels)
    edited = LayerInputs.of(layer, train.features, 2)
    clean = LayerInputs.of(layer, prefix_features(m, network, pairs.clean), 2)
    goal = OutputTarget(edited, end, None if live else clean_output(network, clean, end), clean if live else None)
    return LowRankProblem(layer, network, goal, train, Selection(None, None), m.batch_size), pairs


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("live", [True, False])
def test_runs_side_by_side_are_runs_one_by_one(kind: str, live: bool, model: Callable[[str], Classifier]) -> None:
    m, asked = model(kind), request()
    held = image_pairs(m, [asked.search])  # type: ignore[list-item]
    problem, _ = low_rank_problem(m, live, asked)
    layer = problem.layer
    chosen = LabelledFeatures(prefix_features(m, problem.network, held.edited), held.labels)
    problem = replace(problem, selection=Selection(chosen, None, 0.1))
    u = torch.randn(2, layer.shape[0], 2) * 0.1
    v = torch.randn(2, problem.goal.edited.summed.shape[1], 2)
    lrs = (0.01, 0.3, 1e30)
    together = optimise(problem, Training(lrs, 6, 2), (u, v), True)
    assert len(together) == 6
    for i, fit in enumerate(together):
        one = (u[i % 2][None], v[i % 2][None])
        (alone,) = optimise(problem, Training((lrs[i // 2],), 6, 2), one, True)
        assert (fit is None) == (alone is None)
        if fit is None or alone is None:
            continue
        assert (fit.lr, fit.step, fit.accuracy) == (alone.lr, alone.step, alone.accuracy)
        a, b = (f.delta.terms[layer.weight_name].dense() for f in (fit, alone))
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6) and fit.loss == pytest.approx(alone.loss, rel=1e-4)


@pytest.mark.parametrize("kind", ["vgg", "even", "vit"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_factors_are_trained_as_torch_would(kind: str, optimizer: str, model: Callable[[str], Classifier]) -> None:
    """The same factors inside the dense weight of the whole network, with torch's own optimiser."""
    m, asked = model(kind), request()
    problem, pairs = low_rank_problem(m, False, asked)
    layer, end = problem.layer, problem.goal.end
    u0, v0 = torch.randn(1, layer.shape[0], 1) * 0.1, torch.randn(1, problem.goal.edited.summed.shape[1], 1)
    how = Training((0.02,), 5, select="none", optimizer=optimizer, weight_decay=0.0)  # type: ignore[arg-type]
    (fit,) = optimise(problem, how, (u0, v0), True)
    u, v = u0[0].clone().requires_grad_(True), v0[0].clone().requires_grad_(True)
    torch_optimiser = torch.optim.Adam([u, v], 0.02) if optimizer == "adam" else torch.optim.SGD([u, v], 0.02, 0.9)
    with torch.no_grad():
        still = block_output(m.net, end, pairs.clean).clone()
    for _ in range(5):
        weight = layer.weight + layer.native(u @ expand_to_taps(layer, v).T)
        seen: list[Tensor] = []
        hook = end.register_forward_hook(lambda m, a, o, seen=seen: seen.append(o))  # type: ignore[misc]
        torch.func.functional_call(m.net, {layer.weight_name: weight}, (pairs.edited,))
        hook.remove()
        torch_optimiser.zero_grad()
        (seen[0] - still).square().mean().backward()
        torch_optimiser.step()
    assert fit is not None
    wanted = (u @ expand_to_taps(layer, v).T).detach()
    assert torch.allclose(fit.delta.terms[layer.weight_name].dense(), wanted, rtol=1e-3, atol=1e-5)
