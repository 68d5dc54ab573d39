"""How weights are stored, and how they become matrices [d_out, d_in]. Modules are told apart by what they are, with no
model library imported: transformers' Conv1D is recognised by its class name."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

#: linear: [d_out, d_in].  conv1d (transformers' Conv1D): [d_in, d_out].  conv2d: [c_out, c_in, kh, kw].
Kind = Literal["linear", "conv1d", "conv2d"]
#: Which axis of a stored parameter comes first: its outputs, followed by all inputs, or its inputs, then its outputs.
Orientation = Literal["outputs-first", "inputs-first"]


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D: a linear map whose weight is stored as [d_in, d_out]."""
    weight = getattr(module, "weight", None)
    return type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.dim() == 2


def is_projection(module: nn.Module) -> bool:
    """Whether a module's weight is one matrix: a linear map, or a convolution that mixes all channels."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1) or is_conv1d(module)


def kind_of(module: nn.Module) -> Kind:
    """How a projection stores its weight."""
    if isinstance(module, nn.Conv2d):
        return "conv2d"
    return "conv1d" if is_conv1d(module) else "linear"


def orientation_of(module: nn.Module, parameter: str) -> Orientation:
    """How a module stores one of its own parameters.

    Linear, Conv2d, Embedding, and both projections of MultiheadAttention have their outputs first; Conv1D's weight has
    its inputs first. A bare parameter counts as outputs-first: only its model knows better (see `Editable`).
    """
    return "inputs-first" if parameter == "weight" and is_conv1d(module) else "outputs-first"


def as_matrix(stored: Tensor, orientation: Orientation) -> Float[Tensor, "d_out d_in"]:
    """A stored parameter as [d_out, d_in], a view where that is possible; a vector of n values as [n, 1]."""
    if orientation == "inputs-first":
        return stored.T
    return stored.reshape(stored.shape[0], -1) if stored.dim() else stored.reshape(1, 1)


def as_stored(matrix: Float[Tensor, "d_out d_in"], shape: tuple[int, ...], orientation: Orientation) -> Tensor:
    """A [d_out, d_in] matrix in the orientation and shape of a stored parameter."""
    return (matrix.T if orientation == "inputs-first" else matrix).reshape(shape)
