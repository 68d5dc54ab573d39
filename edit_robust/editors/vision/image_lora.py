"""LoRA for patching: low-rank factors trained on a task's images with a frozen head (Hu et al. 2021, arXiv 2106.09685).

W' = W + (lora_alpha / rank) B A with B zero and A random at the start. Training is PAINT's (`Patching`), of the factors
alone; they are kept as the change, so that an edit of a tower takes little room and interpolates as any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edit_robust.core.editable import Snapshot
from edit_robust.editors.base import check_numbers
from edit_robust.editors.vision.helpers.factors import Factors, factors, matrices
from edit_robust.editors.vision.helpers.parts import parameters_of_part
from edit_robust.editors.vision.helpers.patching import Patching
from edit_robust.models.vision.classifier import Classifier


@dataclass(kw_only=True, eq=False)
class ImageLora(Patching):
    """LoRA for models of images. Its further options are those of `Patching`.

    part: of each block that is edited (`layer.index=all`, a list or one): `layer`, `block` (all of its projections), or
        a part by name, see `parameters_of_part`. Norms and biases are left alone.
    rank: of each change, at most.   lora_alpha: changes are scaled by lora_alpha / rank.
    """

    name: str = "image-lora"
    part: str = "layer"
    rank: int = 8
    lora_alpha: float = 16.0
    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers({"rank": self.rank, "lora_alpha": self.lora_alpha}, {})

    def auto_layers(self, n_layers: int) -> list[int]:
        """Every block."""
        return list(range(n_layers))

    def trained(self, model: Classifier, layers: Sequence[str]) -> list[str]:
        """The weights of the part in every layer. UserError for a part that there is not, and for one without any."""
        found = [n for layer in layers for n in parameters_of_part(model, layer, self.part)]
        return matrices(model, list(dict.fromkeys(found)), self.name)

    def moved(self, model: Classifier, before: Snapshot, generator: torch.Generator) -> Factors:
        """B zero, A uniform as Kaiming's rule for a linear map has it: within 1 / sqrt(d_in)."""

        def start(d_in: int, r: int) -> Tensor:
            return (2 * torch.rand(d_in, r, generator=generator) - 1) / math.sqrt(d_in)

        return factors(model, before, self.rank, self.lora_alpha / self.rank, start)
