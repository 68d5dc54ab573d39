"""The images by whose accuracy learning rates and steps are chosen.

They are a split of their own unless `select` says otherwise (arXiv 2303.00046 takes the reported images).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edit_robust.core import ImageRequest, Request, UserError
from edit_robust.core.images import ImageSet, Triples
from edit_robust.editors.vision.helpers.features import LabelledFeatures, accuracy, prefix_features
from edit_robust.editors.vision.helpers.options import Training
from edit_robust.editors.vision.helpers.pairs import ImagePairs, image_pairs, known_labels
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import SplitNetwork


@dataclass(frozen=True)
class Selection:
    """Edited images, and clean ones where a drop of their accuracy is limited; None: nothing is chosen by them.

    at_start, clean_at_start: the unedited model's accuracies on them.
    """

    edited: LabelledFeatures | None
    clean: LabelledFeatures | None
    at_start: float = math.nan
    clean_at_start: float = math.nan


def selection(
    model: Classifier, network: SplitNetwork, requests: Sequence[Request], train: ImagePairs, training: Training
) -> Selection:
    """The images that `training.select` names, as features where the network's suffix begins.

    Raises UserError where the requests bring no such images.
    """
    if training.select == "none":
        return Selection(None, None)
    held: list[Triples] = [r.search for r in requests if isinstance(r, ImageRequest) and r.search]
    search = image_pairs(model, held) if held else None
    if training.select == "search" and len(held) < len(requests):
        raise UserError("this task has no third split to choose learning rates by; give editor.select=train")
    beside = search or train
    if training.select == "validation":
        x, labels = _validation(model, requests)
    else:
        chosen = train if training.select == "train" else beside
        x, labels = chosen.edited, chosen.labels
    edited = LabelledFeatures(prefix_features(model, network, x), labels)
    clean = None
    if training.max_drop is not None:
        clean = LabelledFeatures(prefix_features(model, network, beside.clean), beside.labels)
    clean_at_start = accuracy(model, network, clean) if clean else math.nan
    return Selection(edited, clean, accuracy(model, network, edited), clean_at_start)


def _validation(model: Classifier, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
    """Images and labels that the edits are judged on."""
    given = [r.validation for r in requests if isinstance(r, ImageRequest) and r.validation is not None]
    sets: list[ImageSet] = [images() for images in given]
    if not sum(len(s) for s in sets):
        raise UserError("this task has no validation images to choose learning rates by; give editor.select=search")
    x = model.see([s.load(i) for s in sets for i in range(len(s))])
    return x, known_labels(model, torch.tensor([int(y) for s in sets for y in s.labels]))
