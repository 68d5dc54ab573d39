"""How far weights have moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor


def drift(now: Float[Tensor, "d_out d_in"], was: Float[Tensor, "d_out d_in"]) -> dict[str, float]:
    """||W - W0||_F; divided by the number of elements, as the scaling paper's code does; and by the number of neurons
    (the projection's inputs), as its text says."""
    distance = float((now.double() - was.double()).norm())
    return {
        "drift_fro": distance,
        "drift_per_element": distance / now.numel(),
        "drift_per_neuron": distance / now.shape[1],
    }
