"""Training images a batch at a time: decoded when they are needed, cropped at random, never held all at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from edit_robust.core import Request, UserError
from edit_robust.core.ahead import ahead
from edit_robust.core.images import Pixels, Triples
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.preprocessing import RESAMPLING

RATIO = (3 / 4, 4 / 3)  # width / height of a crop
TRIES = 10
#: From this many pixels a side on, batches are made in a thread beside the training.
AHEAD_FROM = 96


@dataclass(frozen=True)
class Batch:
    """Some images of a step, normalised, with their classes.

    part: the request that each image belongs to.   share: of the step's images.   last: of its parts.
    """

    x: Float[Tensor, "n 3 s s"]
    labels: Int[Tensor, " n"]
    part: Int[np.ndarray, " n"]
    share: float
    last: bool


@dataclass(frozen=True)
class TrainingImages:
    """The images x' of some requests as one long list, and how they are shown in training.

    crop_scale: smallest and largest share of an image's area that a random crop shows; None: the model's own crop.
    seed: of orders and crops, each of which depends on it, the epoch and the image alone.
    """

    model: Classifier
    parts: tuple[Triples, ...]
    labels: Int[Tensor, " n"]
    crop_scale: tuple[float, float] | None
    seed: int

    @staticmethod
    def of(
        model: Classifier, requests: Sequence[Request], crop_scale: Sequence[float] | None, seed: int
    ) -> TrainingImages:
        """The images of the requests. UserError where there are none."""
        parts = tuple(r.x for r in requests)
        labels = torch.tensor([int(y) for t in parts for y in t.labels], dtype=torch.long)
        if not len(labels):
            raise UserError("there are no images to train on")
        return TrainingImages(
            model, parts, labels, None if crop_scale is None else (crop_scale[0], crop_scale[1]), seed
        )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def part(self) -> Int[np.ndarray, " n"]:
        """The request that each image belongs to, as a position among them."""
        return np.repeat(np.arange(len(self.parts)), [len(p) for p in self.parts])

    def load(self, i: int) -> Pixels:
        """The i-th image, decoded."""
        for part in self.parts:
            if i < len(part):
                return part.edited[i]
            i -= len(part)
        raise IndexError(i)

    def steps(self, batch_size: int) -> int:
        """Steps of an epoch; the last one may have fewer images."""
        return math.ceil(len(self) / batch_size)

    def epoch(self, number: int, batch_size: int, at_once: int) -> Iterator[Batch]:
        """Every image once, in an order of the epoch's own; a step's images come in parts of at most `at_once`."""
        made = self._parts(number, batch_size, at_once)
        yield from ahead(made) if self.model.size >= AHEAD_FROM else made

    def _parts(self, number: int, batch_size: int, at_once: int) -> Iterator[Batch]:
        order = np.random.default_rng([self.seed, number]).permutation(len(self))
        for start in range(0, len(order), batch_size):
            step = order[start : start + batch_size]
            for k in range(0, len(step), at_once):
                rows = step[k : k + at_once]
                labels = self.labels[torch.from_numpy(rows)].to(self.model.device)
                share, last = len(rows) / len(step), k + at_once >= len(step)
                yield Batch(self._show(number, rows), labels, self.part[rows], share, last)

    def _show(self, number: int, rows: Sequence[int] | np.ndarray) -> Float[Tensor, "n 3 s s"]:
        """Images as the network takes them in an epoch."""
        if self.crop_scale is None:
            return self.model.see([self.load(int(i)) for i in rows])
        how = self.model.preprocessing
        cropped = []
        for i in rows:
            rng = np.random.default_rng([self.seed, number, int(i)])
            cropped.append(random_crop(self.load(int(i)), self.crop_scale, how.size, how.interpolation, rng))
        return self.model.normalise(cropped)


def random_crop(
    image: Pixels, scale: tuple[float, float], size: int, interpolation: str, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """torchvision's RandomResizedCrop: a part of the image with an area and proportions drawn at random, resized.

    scale: smallest and largest share of the area. Where ten draws do not fit into the image, its centre is taken, as
    large as the proportions allow. Nothing is mirrored: digits are read one way.
    """
    top, left, h, w = crop_box(image.shape[0], image.shape[1], scale, rng)
    part = Image.fromarray(np.ascontiguousarray(image[top : top + h, left : left + w]))
    return np.asarray(part.resize((size, size), RESAMPLING[interpolation]))


def crop_box(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop."""
    for _ in range(TRIES):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w
