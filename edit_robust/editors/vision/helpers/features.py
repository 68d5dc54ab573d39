"""Features of images below the edited module, and how many of them are classified right from there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import Features, SplitNetwork


@dataclass(frozen=True)
class LabelledFeatures:
    """Images as features where a split network's suffix begins, with their classes."""

    features: Features
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)


def slices(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows that together cover n."""
    for i in range(0, n, size):
        yield slice(i, min(i + size, n))


@torch.no_grad()
def prefix_features(model: Classifier, network: SplitNetwork, x: Float[Tensor, "n 3 s s"]) -> Features:
    """Features of normalised images where the network's suffix begins."""
    return Features.cat([network.prefix(x[s]) for s in slices(len(x), model.batch_size)])


def correct(logits: Float[Tensor, "*n c"], labels: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
    """Whether the largest logit is the label's; False where logits are not finite."""
    return (logits.argmax(-1) == labels) & torch.isfinite(logits).all(-1)


@torch.no_grad()
def accuracy(model: Classifier, network: SplitNetwork, images: LabelledFeatures) -> float:
    """Share of images that are classified right at the present weights."""
    parts = slices(len(images), model.batch_size)
    found = [correct(network.suffix(images.features.take(s)), images.labels[s]) for s in parts]
    return float(torch.cat(found).float().mean())
