"""What kind of change a change is: how large, of what rank, and where it lies."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def singular_values(m: Float[Tensor, "d_out d_in"]) -> Float[Tensor, " r"]:
    """Singular values, largest first, from the smaller Gram matrix in float64: to 1e-8 of the largest."""
    x = m.double()
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(0)


def rounding(weight: Float[Tensor, "d_out d_in"], eps: float) -> float:
    """Spectral norm, about, of what rounding a matrix to a type of number with `eps` adds to it.

    Each element is off by up to eps / 2 of its size, evenly: a random matrix of independent elements with standard
    deviation eps |w| / sqrt(12) has a largest singular value of about that times sqrt(d_out) + sqrt(d_in).
    """
    d_out, d_in = weight.shape
    size = float(weight.double().square().mean().sqrt())
    return eps * size / 12**0.5 * (d_out**0.5 + d_in**0.5)


def numerical_rank(
    change: Float[Tensor, "d_out d_in"], weight: Float[Tensor, "d_out d_in"], eps: float
) -> tuple[int, float]:
    """(rank, stable rank) of a change of `weight`, where the coarser of both weights' types rounds by `eps`.

    The rank counts the singular values above twice what rounding adds, and above max(d_out, d_in) float32 roundings of
    the largest one. The stable rank is ||M||_F^2 / ||M||_2^2: how many directions carry the change.
    """
    s = singular_values(change)
    top = float(s[0])
    if top == 0:
        return 0, 0.0
    least = max(2 * rounding(weight, eps), max(change.shape) * torch.finfo(torch.float32).eps * top)
    return int((s > least).sum()), float(s.square().sum()) / top**2
