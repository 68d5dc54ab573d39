"""The user's own network: any torch module that maps images to logits."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edit_robust.core import UserError
from edit_robust.models.vision.preprocessing import Preprocessing, as_described


def made_by(factory: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """The module that `factory(**kwargs)` returns. factory: a dotted name, as `mypackage.nets.make_net`.

    Raises UserError for a name that cannot be imported, and for one that is not callable or returns no module.
    """
    try:
        make = pkgutil.resolve_name(factory)
    except Exception as e:  # ImportError, or anything that the user's file raises when it is imported
        raise UserError(
            f"model.factory={factory} cannot be imported: {_line(e)} (a dotted name is needed, as "
            "mypackage.make_net, of a package that is installed or lies in the working directory)"
        ) from e
    if not callable(make):
        raise UserError(f"model.factory={factory} is not callable: it is a {type(make).__name__}")
    try:
        net = make(**kwargs)
    except Exception as e:
        given = ", ".join(f"{k}={v!r}" for k, v in kwargs.items())
        raise UserError(
            f"model.factory: {factory}({given}) fails with {type(e).__name__}: {_line(e)} (arguments come from "
            "model.kwargs)"
        ) from e
    if not isinstance(net, nn.Module):
        raise UserError(f"model.factory={factory} returns a {type(net).__name__}; a torch.nn.Module is needed")
    return net


def own_preprocessing(net: nn.Module, size: int | None, name: str) -> Preprocessing:
    """The preprocessing that a module describes, with `size` as its input size where one is given.

    timm's networks describe it (`pretrained_cfg` or `default_cfg`). Others get images of `size` (null: their attribute
    `image_size`) without a margin, mean 0 and std 1: pixels from 0 to 1. Raises UserError where no size is known.
    """
    described = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None)
    if isinstance(described, Mapping) and described.get("input_size"):
        return as_described(described, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), name)
    own = size or getattr(net, "image_size", None)
    if not isinstance(own, int):
        raise UserError(f"model.input_size must be given: {name} does not say how large its images are")
    return Preprocessing(own, own, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@torch.no_grad()
def count_classes(net: nn.Module, sample: Tensor, name: str, wanted: int | None) -> int:
    """The number of classes a network gives logits for, seen on a batch of two or more normalised images.

    Raises UserError for an output that is not [n, classes], and for another number of classes than is wanted.
    """
    out = net(sample)
    if not isinstance(out, Tensor):
        raise UserError(f"{name} returns a {type(out).__name__}; a classifier returns a tensor of logits [n, classes]")
    if out.ndim != 2 or len(out) != len(sample) or out.shape[1] < 2 or not out.is_floating_point():
        raise UserError(
            f"{name} returns a tensor {list(out.shape)} of {str(out.dtype).removeprefix('torch.')} for {len(sample)} "
            "images; a classifier returns logits [n, classes] of two or more classes"
        )
    n = int(out.shape[1])
    if wanted is not None and wanted != n:
        raise UserError(f"model.n_classes={wanted}, but {name} has {n} classes")
    return n


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
