"""Warning signs of edits that are written into several layers (`core.signs`): of every layer, and the worst of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core.signs import BY_KEY
from edit_robust.editors.language.helpers.moments import Inverse

#: What `key_signs` tells.
TOLD = ("key_ratio", "cos_bare_mean", "key_leverage")


def key_signs(
    bare: Float[Tensor, "n d_in"], mean: Float[Tensor, "n d_in"], inverse: Inverse | None
) -> list[dict[str, float]]:
    """Of each request the cosine of its bare prompt's key k' and the key k that is solved with, and with C^-1 its
    weight k^T C^-1 k and the ratio k'^T C^-1 k / k^T C^-1 k: how much of the new value the bare prompt will find."""
    cosines = torch.cosine_similarity(bare.double(), mean.double(), dim=1).tolist()
    found = [{"cos_bare_mean": c} for c in cosines]
    if inverse is not None:
        solved = inverse.solve(mean.double().T).T
        own, other = ((k.double() * solved).sum(1).tolist() for k in (mean, bare))
        for signs, weight, shared in zip(found, own, other, strict=True):
            signs |= {"key_leverage": weight, "key_ratio": shared / weight if weight else float("nan")}
    return found


def over_layers(layers: Mapping[str, Sequence[Mapping[str, float]]], n: int) -> list[dict[str, float]]:
    """What an editor tells of n requests, from the signs of each layer by name: `sign@layer`, and the worst."""
    found: list[dict[str, float]] = []
    for place in range(n):
        told = {f"{key}@{name}": one[place][key] for name, one in layers.items() for key in one[place]}
        for key in dict.fromkeys(k for one in layers.values() for k in one[place]):
            values = [one[place][key] for one in layers.values() if key in one[place]]
            told[key] = max(values, key=BY_KEY[key].risk)
        found.append(told)
    return found
