"""The null space of a corpus (AlphaEdit, arXiv 2410.02355): directions of a layer's inputs that its text hardly has."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.helpers.cache import learned


def null_spaces(
    moments: dict[str, Float[Tensor, "d d"]], threshold: float, work: Workspace
) -> dict[str, Float[Tensor, "d r"]]:
    """U of every layer: the eigenvectors of C whose eigenvalues are below the threshold, float64; P = U U^T. Each C is
    taken out of the dictionary once its own are found.

    Eigenvectors are kept under `work.cache`, under a hash of C, so that another threshold needs no new ones. UserError
    where the null space of a layer is empty or everything, with the nearest threshold at which no layer's is.
    """
    found, bases = {}, {}
    with work.progress("Finding null spaces", len(moments)) as advance:
        for name in list(moments):
            device = moments[name].device
            values, vectors = _spectrum(moments[name], work)
            found[name], rank = values, int((values < threshold).sum())
            bases[name] = vectors[:, :rank].clone().to(device)  # values ascend
            del vectors, moments[name]  # of a wide layer they are gigabytes, and the next layer's come
            advance(1)
    ranks = {name: basis.shape[1] for name, basis in bases.items()}
    if any(not 0 < ranks[name] < len(values) for name, values in found.items()):
        raise UserError(_complaint(found, ranks, threshold))
    return bases


def _spectrum(c: Float[Tensor, "d d"], work: Workspace) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Eigenvalues of a symmetric matrix, ascending, and its eigenvectors, one a column; on the CPU."""
    c = c.double()
    digest = hashlib.sha256(c.cpu().contiguous().numpy().data).hexdigest()[:16]

    def make() -> dict[str, Tensor]:
        values, vectors = torch.linalg.eigh((c + c.T) / 2)
        return {"values": values, "vectors": vectors}

    found = learned(work, "eigenvectors", {"moment": digest, "shape": list(c.shape)}, make)
    return found["values"], found["vectors"]


def _complaint(values: Mapping[str, Float[Tensor, " d"]], ranks: Mapping[str, int], threshold: float) -> str:
    """What is wrong with a threshold, in one line, and the nearest that would do."""
    name = next(n for n, r in ranks.items() if not 0 < r < len(values[n]))
    what = "nothing" if ranks[name] == 0 else f"all {ranks[name]} directions"
    said = f"editor.nullspace_threshold={threshold} leaves {what} in the null space of {name}"
    least, most = max(float(v[0]) for v in values.values()), min(float(v[-1]) for v in values.values())
    if not least < most:  # layers of quite different sizes
        least, most = float(values[name][0]), float(values[name][-1])
    nearest = _next_above(least) if threshold <= least else _next_below(most)
    share = int((values[name] < nearest).sum())
    return f"{said}; the nearest threshold that divides it is {nearest:g}, which leaves {share} of {len(values[name])}"


def _next_above(x: float) -> float:
    """The next larger number of three digits."""
    step = 10.0 ** (math.floor(math.log10(x)) - 2)
    return float(f"{(math.floor(x / step) + 1) * step:.3g}")


def _next_below(x: float) -> float:
    """The same number or the next smaller one of three digits."""
    step = 10.0 ** (math.floor(math.log10(x)) - 2)
    return float(f"{math.floor(x / step) * step:.3g}")
