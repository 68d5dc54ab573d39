"""Image pairs (x, x', y) of edit requests, as the network takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edit_robust.core import UserError
from edit_robust.core.images import Triples
from edit_robust.models.vision.classifier import Classifier


@dataclass(frozen=True)
class ImagePairs:
    """Normalised images x and x', their class y, and masks that are 1 where x and x' differ and 0 elsewhere."""

    clean: Float[Tensor, "n 3 s s"]
    edited: Float[Tensor, "n 3 s s"]
    labels: Int[Tensor, " n"]
    masks: Float[Tensor, "n 1 s s"]

    def __len__(self) -> int:
        return len(self.labels)


def image_pairs(model: Classifier, triples: Sequence[Triples]) -> ImagePairs:
    """The pairs of several requests as one set. Raises UserError where there are none, and for unknown classes."""
    clean = [image for t in triples for image in t.clean]
    edited = [image for t in triples for image in t.edited]
    labels = torch.tensor([int(y) for t in triples for y in t.labels], dtype=torch.long)
    if not len(labels):
        raise UserError("a request has no pairs to edit with")
    masks = [torch.from_numpy(model.crop_mask(t.mask(i))).float() for t in triples for i in range(len(t))]
    at = model.device
    return ImagePairs(
        model.see(clean), model.see(edited), known_labels(model, labels), torch.stack(masks)[:, None].to(at)
    )


def known_labels(model: Classifier, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The labels on the model's device. Raises UserError for classes that the model does not have."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < model.n_classes:
        raise UserError(f"labels go up to {int(labels.max())}, but {model.name} has {model.n_classes} classes")
    return labels.to(model.device)
