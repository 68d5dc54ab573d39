"""Convolutions whose kernel covers their whole input, run as the products of matrices that they are."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import linear


def run_as_linear(net: nn.Module) -> None:
    """Let convolutions whose kernel covers an input of just its size multiply matrices instead.

    Such is the first fully connected layer of timm's VGG: 7 x 7 over 7 x 7. On a CPU a convolution copies its 411 MB of
    weights into another order at every call, and is three to five times slower (8 images: 199 ms and 64 ms). Inputs of
    other sizes are convolved as ever; sums are taken in another order, so last bits may differ.
    """
    for m in net.modules():
        plain = isinstance(m, nn.Conv2d) and m.groups == 1 and set(m.dilation) == {1} and m.padding in ((0, 0), "valid")
        if isinstance(m, nn.Conv2d) and plain and m.kernel_size != (1, 1):
            m._conv_forward = _either(m, m._conv_forward)  # type: ignore[method-assign]


def _either(m: nn.Conv2d, convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if h.shape[-2:] == m.kernel_size and h.ndim == 4 and weight.is_contiguous():
            return linear(h.flatten(1), weight.flatten(1), bias)[:, :, None, None]
        return convolve(h, weight, bias)

    return forward
