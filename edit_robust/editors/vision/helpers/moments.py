"""Feature vectors of image networks, pixel by pixel: where they lie, and their second moment C = E[k k^T].

A pixel's feature vector holds the input channels of a convolution at that pixel, or the inputs of a linear map at a
token. C is taken over all pixels of many images, once for every model, layer and set of images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from edit_robust.core import Layer, UserError
from edit_robust.core.images import ImageSet
from edit_robust.core.work import Workspace
from edit_robust.editors.helpers.cache import key_digest, make_missing, read_arrays, write_arrays
from edit_robust.models.vision.classifier import Classifier


def width(layer: Layer) -> int:
    """Length of a feature vector: input channels, or inputs."""
    return layer.weight.shape[1]


def pixels(layer: Layer, h: Tensor) -> Float[Tensor, "n p d"]:
    """A layer's input as feature vectors: [n, d, height, width] of a convolution, [n, ..., d] of a linear map."""
    return h.flatten(2).transpose(1, 2) if layer.kind == "conv2d" else h.reshape(len(h), -1, h.shape[-1])


def on_map(
    masks: Float[Tensor, "n 1 s s"], h: Tensor, channels: int, layer: Layer, how: Literal["bilinear", "mean"]
) -> Tensor:
    """Masks resized to a feature map, in a shape that multiplies it; 0 on class tokens.

    Maps are [n, channels, height, width], [n, height, width, channels] or tokens [n, t, channels], of which the last
    square number are the image. `bilinear` samples the mask, `mean` averages it over each pixel of the map; a mask that
    sampling misses altogether is averaged too.
    """
    if h.ndim == 2:
        return masks.new_ones(len(h), 1)
    if h.ndim == 3:
        side = int(h.shape[1] ** 0.5)
        small = _resized(masks, (side, side), how).flatten(2).transpose(1, 2)
        before = small.new_zeros(len(h), h.shape[1] - side * side, 1)
        return torch.cat([before, small], 1)
    first = h.shape[1] == channels and (layer.kind == "conv2d" or h.shape[-1] != channels)
    if first:
        return _resized(masks, (h.shape[2], h.shape[3]), how)
    return _resized(masks, (h.shape[1], h.shape[2]), how).permute(0, 2, 3, 1)


def _resized(masks: Tensor, size: tuple[int, int], how: str) -> Tensor:
    pooled = adaptive_avg_pool2d(masks, size)
    if how == "mean":
        return pooled
    small = interpolate(masks, size=size, mode="bilinear", align_corners=False)
    missed = (small.flatten(1) <= 0).all(1)
    return torch.where(missed[:, None, None, None], pooled, small)


# -- second moments ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """second: E[k k^T], mean: E[k], both in float64."""

    second: Float[Tensor, "d d"]
    mean: Float[Tensor, " d"]

    def covariance(self) -> Float[Tensor, "d d"]:
        return self.second - self.mean[:, None] * self.mean[None]

    def whitener(self, centered: bool, ridge: float) -> Float[Tensor, "d d"]:
        """Z = (C + ridge mean(diag C) I)^-1/2, C about the mean where `centered`.

        A channel that never fires would otherwise have the largest share in every direction.
        """
        c = self.covariance() if centered else self.second
        scale = float(c.diagonal().mean())
        if not np.isfinite(scale) or scale <= 0:
            raise UserError("the second moment is zero or not finite: the statistics cannot be used")
        values, vectors = torch.linalg.eigh((c + c.T) / 2)
        values = values.clamp_min(0) + max(ridge, 1e-12) * scale
        return (vectors / values.sqrt()) @ vectors.T


def image_moments(
    model: Classifier, layer: str, images: ImageSet, n: int, work: Workspace, chunk: int | None = None
) -> Moments:
    """C and mean of a layer's inputs over the first `n` images, at the model's present weights.

    Kept under `work.cache` with their provenance: they are never used for other weights, another layer, other images or
    another preprocessing.
    """
    n = min(n, len(images))
    if not n:
        raise UserError("there are no images for second moments")
    ids = hashlib.sha256("\x00".join([images.source, images.shift, *images.ids[:n]]).encode()).hexdigest()[:16]
    seen = f"{model.preprocessing}"
    key = {"model": model.position, "layer": layer, "images": n, "ids": ids, "as": seen, "dtype": str(model.dtype)}
    path = work.cache / "image-moments" / f"{key_digest(key)}.npz"

    def make(missing: list[Path]) -> None:
        found, count = _compute(model, layer, images, n, work, chunk or model.batch_size)
        arrays = {"second": found.second.cpu().numpy(), "mean": found.mean.cpu().numpy()}
        write_arrays(path, arrays, {**key, "model_name": model.name, "source": images.source, "pixels": count})

    make_missing([path], path.with_suffix(".lock"), make)
    return _load(path, model.layers[layer])


@torch.no_grad()
def _compute(
    model: Classifier, layer: str, images: ImageSet, n: int, work: Workspace, chunk: int
) -> tuple[Moments, int]:
    """One product of matrices a batch, summed in float64."""
    network, at = model.split_at(layer), model.layers[layer]
    d = width(at)
    second = torch.zeros(d, d, dtype=torch.float64, device=model.device)
    total = torch.zeros(d, dtype=torch.float64, device=model.device)
    count = 0
    with work.progress("Second moments", n) as advance:
        for i in range(0, n, chunk):
            some = range(i, min(i + chunk, n))
            k = pixels(at, network.prefix(model.see([images.load(j) for j in some])).input).reshape(-1, d).float()
            second += (k.T @ k).double()
            total += k.sum(0, dtype=torch.float64)
            count += len(k)
            advance(len(some))
    return Moments(second / count, total / count), count


def _load(path: Path, layer: Layer) -> Moments:
    second, mean = read_arrays(path, ["second", "mean"], "second moment")
    if second.shape != (width(layer), width(layer)):
        raise UserError(f"the stored second moment {path} is of another size; delete it to compute it again")
    return Moments(second.to(layer.weight.device), mean.to(layer.weight.device))


# -- directions --------------------------------------------------------------------------------------------------------


def directions(
    keys: Float[Tensor, "m d"], weights: Float[Tensor, " m"], whitener: Float[Tensor, "d d"], rank: int
) -> Float[Tensor, "d r"]:
    """Orthonormal directions of input space that stand for the keys and for little else.

    With Z the whitener: the strongest right singular vectors of the rows w Z k, times Z once more, made orthonormal; of
    one key, C^-1 k. The sign is such that the keys' sum lies on the positive side. At most as many as there are keys.
    """
    white = keys.double() @ whitener * weights.double()[:, None]
    values, vectors = torch.linalg.eigh(white.T @ white)  # a key a pixel: their product is the smaller matrix
    values, vectors = values.flip(0), vectors.flip(1)
    if not bool(torch.isfinite(values).all()) or not float(values[0]) > 0:
        raise UserError("the keys at the mask are all zero: this layer sees nothing there")
    rank = min(rank, int((values > values[0] * 1e-13).sum()))
    d, _ = torch.linalg.qr(whitener @ vectors[:, :rank])
    return d * torch.where(keys.double().sum(0) @ d < 0, -1.0, 1.0)


def moment_images(task: Any, name: str) -> ImageSet:
    """The task's images for second moments."""
    if not hasattr(task, "moment_images"):
        raise UserError(f"{name} needs images for second moments, which this task does not offer")
    found: ImageSet = task.moment_images()
    return found


__all__: Sequence[str] = ["Moments", "directions", "image_moments", "moment_images", "on_map", "pixels", "width"]
