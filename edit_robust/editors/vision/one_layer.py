"""1-LI, one-layer interpolation: PAINT with every parameter but one layer's frozen (arXiv 2303.00046, section 8).

Layer norms are frozen, too. Which projection of a block "the layer" is, the paper does not say: `part` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edit_robust.editors.vision.helpers.editor import one_layer
from edit_robust.editors.vision.helpers.parts import parameters_of_part
from edit_robust.editors.vision.helpers.patching import Patching
from edit_robust.models.vision.classifier import Classifier


@dataclass(kw_only=True, eq=False)
class OneLayer(Patching):
    """One-layer fine-tuning as an editor. Its further options are those of `Patching`.

    part: `layer` (weight and bias of the block's layer), `block`, or a part by name, see `parameters_of_part`.
    """

    name: str = "one-layer"
    part: str = "layer"

    def trained(self, model: Classifier, layers: Sequence[str]) -> list[str]:
        """The parameters of the part. UserError for one that neither the block nor the tower has."""
        return parameters_of_part(model, one_layer(self.name, layers), self.part)
