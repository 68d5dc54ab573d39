"""The convex case of interpolation: cross entropy of a last linear layer is convex along every straight line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.image_edits import request, start
from helpers.tiny_nets import CLASSES, SIZE, tiny_classifier
from torch import Tensor

from edit_robust.core import Delta, Dense
from edit_robust.core.work import Workspace
from edit_robust.editors.vision.helpers.heads import head_parameters
from edit_robust.editors.vision.wise_ft import WiseFt
from edit_robust.models.vision.classifier import Classifier

#: Uneven, and beyond both ends.
ALPHAS = [-0.5, -0.2, 0.0, 0.1, 0.25, 0.3, 0.5, 0.8, 0.95, 1.0, 1.4, 2.0]


def losses(m: Classifier, x: Tensor, labels: Tensor, delta: Delta) -> np.ndarray:
    """Mean cross entropy at the weights + alpha * delta, for all ALPHAS; the network computes in float64."""
    (along,) = m.logits_along(x, [(delta, ALPHAS)])
    return np.array([float(torch.nn.functional.cross_entropy(logits.double(), labels)) for logits in along])


def above_the_chord(alphas: list[float], values: np.ndarray) -> float:
    """How far the values rise above the line between their two neighbours, at most; 0 or less for a convex curve."""
    found = []
    for i in range(1, len(alphas) - 1):
        share = (alphas[i] - alphas[i - 1]) / (alphas[i + 1] - alphas[i - 1])
        found.append(values[i] - (1 - share) * values[i - 1] - share * values[i + 1])
    return float(max(found))


def drawn(m: Classifier, names: list[str], size: float, seed: int) -> Delta:
    g = torch.Generator().manual_seed(seed)
    shapes = {n: tuple(m.matrix(n).shape) for n in names}
    return Delta({n: Dense(size * torch.randn(*s, generator=g)) for n, s in shapes.items()}, m.position)


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(24, 3, SIZE, SIZE, generator=g), torch.randint(CLASSES, (24,), generator=g)


@pytest.mark.parametrize("kind", ["vit", "resnet", "vgg"])
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_the_last_layer_is_convex_in_alpha(kind: str, size: float) -> None:
    m = tiny_classifier(kind)
    head = head_parameters(m)
    assert len(head) == 2
    for seed in range(6):
        x, labels = inputs(seed)
        values = losses(m, x, labels, drawn(m, head, size, seed))
        assert above_the_chord(ALPHAS, values) <= 2e-6 * max(1.0, values.max())  # rounding of float32 logits


def test_a_trained_last_layer_falls_along_its_segment(tmp_path: object) -> None:
    """Towards weights with a lower loss a convex curve lies below its chord: half of the way gains half or more."""
    m = tiny_classifier("vit")
    asked = request(8)
    head = head_parameters(m)

    class Head(WiseFt):
        def trained(self, model: Classifier, layers: object) -> list[str]:
            return head

    editor = Head(lr=0.02, warmup=1, epochs=20, batch_size=8, crop_scale=None)
    edit = editor.edit(m, [asked], start(editor, m, Workspace(tmp_path)))  # type: ignore[arg-type]
    x, labels = m.see(asked.x.edited), torch.tensor([int(y) for y in asked.x.labels])
    values = losses(m, x, labels, edit.delta)
    at = {a: float(v) for a, v in zip(ALPHAS, values, strict=True)}
    assert above_the_chord(ALPHAS, values) <= 2e-6 and at[1.0] < at[0.0] - 0.1
    assert at[0.0] - at[0.5] >= 0.5 * (at[0.0] - at[1.0])


def test_a_layer_below_is_not_convex() -> None:
    """The property is the last layer's: a check that every curve would pass would say nothing."""
    m = tiny_classifier("vit")
    below = m.parameter_names([m.layer_at(0).name])
    found = [above_the_chord(ALPHAS, losses(m, *inputs(seed), drawn(m, below, 1.0, seed))) for seed in range(6)]
    assert max(found) > 1e-3
