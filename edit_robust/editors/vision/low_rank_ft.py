"""Direct low-rank fine-tuning: one layer's change of low rank, trained on labelled images with a frozen head.

W' = W + m x (U V^T), the form of arXiv 2303.00046, equation 6, that `low-rank` has: the same c_out x c_in matrix at the
centre tap of a kernel (a 1 x 1 convolution), at the four around the centre of an even one. Its loss is cross entropy
about the task's classes, so that it takes tasks of other classes than the model's own, which output collision cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from edit_robust.core.editable import Snapshot
from edit_robust.editors.base import check_numbers
from edit_robust.editors.vision.helpers.editor import one_layer
from edit_robust.editors.vision.helpers.factors import Factors, factors
from edit_robust.editors.vision.helpers.patching import Patching
from edit_robust.editors.vision.helpers.taps import expand_to_taps
from edit_robust.models.vision.classifier import Classifier


@dataclass(kw_only=True, eq=False)
class LowRankFt(Patching):
    """Direct low-rank fine-tuning as an editor. Its further options are those of `Patching`.

    rank: of the change.   init: norm of V's columns at the start, where U is zero.   taps: `center`, or `all` for a
    change of the whole kernel.
    """

    name: str = "low-rank-ft"
    rank: int = 1
    init: float = 1.0
    taps: Literal["center", "all"] = "center"
    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers({"rank": self.rank, "init": self.init}, {})

    def trained(self, model: Classifier, layers: Sequence[str]) -> list[str]:
        """The layer's weight. UserError for several layers, and for a layer that is no single matrix."""
        return [model.layers[one_layer(self.name, layers)].weight_name]

    def moved(self, model: Classifier, before: Snapshot, generator: torch.Generator) -> Factors:
        """U zero, V random."""

        def start(d_in: int, r: int) -> Tensor:
            return torch.randn(d_in, r, generator=generator) * self.init / d_in**0.5

        spread = {}
        for layer in model.layers.values():
            if layer.kind == "conv2d" and layer.weight_name in before.values and self.taps == "center":
                spread[layer.weight_name] = (int(layer.weight.shape[1]), partial(expand_to_taps, layer))
        return factors(model, before, self.rank, 1.0, start, spread)
