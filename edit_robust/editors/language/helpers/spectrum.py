"""Singular values of a change that are larger than the weights' own, and how PRUNE brings them down.

PRUNE (Ma et al. 2024, arXiv 2405.16821) replaces the singular values sigma of Delta = W - W0 by

    F(sigma) = log_b(sigma) - log_b(sigma_max) + sigma_max   where sigma > sigma_max, the largest of W0; else sigma

and leaves the singular vectors. F is the identity on all but a few directions: what is taken away is of low rank, and a
change of low rank stays one. F is continuous; its slope just above sigma_max is 1 / (sigma_max ln b), so that where
sigma_max ln b is below 1 it makes singular values there larger.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import LowRank

#: Factors of more than this share of the smaller side are multiplied out: their QR would cost more.
_LOW = 0.5


def pruned_values(sigma: Float[Tensor, " k"], top: float, log_base: float) -> Float[Tensor, " k"]:
    """F(sigma). top: sigma_max.   log_base: b."""
    compressed = (sigma.log() - math.log(top)) / math.log(log_base) + top
    return torch.where(sigma > top, compressed, sigma)


def largest_singular_value(w: Float[Tensor, "d_out d_in"]) -> float:
    """sigma_max of a matrix, in float64."""
    gram = w.double() @ w.double().T if w.shape[0] <= w.shape[1] else w.double().T @ w.double()
    return float(torch.linalg.eigvalsh(gram)[-1].clamp_min(0).sqrt())


def singular_above(
    change: LowRank, top: float
) -> tuple[Float[Tensor, "d_out k"], Float[Tensor, " k"], Float[Tensor, "d_in k"]]:
    """The singular triples (u, sigma, v) of a change with sigma > top, largest first, in float64.

    Of few factors, through QR of both and the SVD of a small core; of many, through the eigenvectors of the Gram matrix
    of the smaller side. The values wanted are large, so that squaring them costs no digit that matters.
    """
    u, v = change.u.double(), change.v.double()
    if u.shape[1] <= _LOW * min(change.shape):
        left, right = torch.linalg.qr(u), torch.linalg.qr(v)
        a, sigma, b = torch.linalg.svd(left.R @ right.R.T, full_matrices=False)
        k = int((sigma > top).sum())
        return left.Q @ a[:, :k], sigma[:k], right.Q @ b[:k].T
    dense, wide = u @ v.T, change.shape[0] <= change.shape[1]
    m = dense if wide else dense.T
    squares, vectors = torch.linalg.eigh(m @ m.T)
    sigma = squares.clamp_min(0).sqrt()
    near = vectors[:, sigma > top].flip(1)
    sigma = sigma[sigma > top].flip(0)
    far = m.T @ near / sigma
    return (near, sigma, far) if wide else (far, sigma, near)


def excess(change: LowRank, top: float, log_base: float) -> tuple[LowRank, Float[Tensor, " k"]]:
    """Delta - F(Delta): sum of (sigma - F(sigma)) u v^T over singular values above `top`; and those values.

    In the change's own type; of rank 0 where no singular value is above.
    """
    u, sigma, v = singular_above(change, top)
    less = sigma - pruned_values(sigma, top, log_base)
    return LowRank((u * less).to(change.u.dtype), v.to(change.v.dtype)), sigma
