"""PAINT: fine-tuning of the whole image tower with a frozen head (Ilharco et al. 2022, arXiv 2208.05592).

The head stays what it was, so that the model goes on answering about everything else. With `trajectory=interpolate` the
tower lies between the unedited one and the fine-tuned one: patching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from edit_robust.editors.vision.helpers.heads import tower_parameters
from edit_robust.editors.vision.helpers.patching import Patching
from edit_robust.models.vision.classifier import Classifier


@dataclass(kw_only=True, eq=False)
class Paint(Patching):
    """PAINT as an editor; its options are those of `Patching`. `layers` says nothing here."""

    any_layer: ClassVar[bool] = True
    name: str = "paint"

    def trained(self, model: Classifier, layers: Sequence[str]) -> list[str]:
        """Everything that images pass through but the head: convolutions, norms, embeddings and projections."""
        return tower_parameters(model)
