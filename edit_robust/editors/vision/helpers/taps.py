"""Low-rank changes of a convolution at its central kernel taps (arXiv 2303.00046, equation 6).

A change U V^T at some taps is a 1 x 1 convolution of the input summed over these taps, so that the input is summed once
and every change is two small products of matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

from edit_robust.core import Layer


def taps(layer: Layer) -> Tensor:
    """[kh, kw] with 1 at the taps that carry the change: the centre, along an even side the two beside it."""
    if layer.kind != "conv2d":
        return torch.ones(1, 1)
    sides = []
    for k in layer.weight.shape[2:]:
        line = torch.zeros(k)
        line[(k - 1) // 2 : k // 2 + 1] = 1
        sides.append(line)
    return sides[0][:, None] * sides[1][None]


def expand_to_taps(layer: Layer, v: Float[Tensor, "c_in r"]) -> Float[Tensor, "d_in r"]:
    """V over all inputs of the layer's matrix: its rows at the taps, 0 elsewhere."""
    m = taps(layer).to(v)
    return (v[:, None, None] * m[None, :, :, None]).reshape(-1, v.shape[1])


def sum_taps(layer: Layer, h: Tensor) -> Float[Tensor, "n c_in p"]:
    """The layer's input summed over the taps: one vector for each of the p output positions."""
    if layer.kind != "conv2d":
        return h.reshape(len(h), -1, h.shape[-1]).transpose(1, 2)
    m: Any = layer.module
    channels, padding = h.shape[1], m.padding
    if m.padding_mode != "zeros":
        h, padding = pad(h, m._reversed_padding_repeated_twice, mode=m.padding_mode), 0
    kernel = taps(layer).to(h).expand(channels, 1, -1, -1)
    return conv2d(h, kernel, None, m.stride, padding, m.dilation, channels).flatten(2)


def add_changes(
    layer: Layer,
    unchanged: Tensor,
    summed: Float[Tensor, "n c_in p"],
    u: Float[Tensor, "g d_out r"],
    v: Float[Tensor, "g c_in r"],
) -> Tensor:
    """The layer's outputs under g changes, one change after the other: [g * n, ...].

    unchanged: the outputs without a change, [n, ...].   summed: the inputs summed over the taps.
    """
    g, _, r = v.shape
    inner = v.transpose(1, 2).reshape(g * r, -1) @ summed  # [n, g r, p]
    change = u[:, None] @ inner.reshape(len(summed), g, r, -1).transpose(0, 1)  # [g, n, d_out, p]
    if layer.kind != "conv2d":
        change = change.transpose(2, 3)
    return (unchanged[None] + change.reshape(g, *unchanged.shape)).flatten(0, 1)
