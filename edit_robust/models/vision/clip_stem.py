"""Small CLIPs whose patches come from 3 x 3 convolutions, described by plain JSON.

open_clip has no such stem (arXiv 2106.14881); everything else of the network is open_clip's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class ConvolutionalStem(nn.Sequential):
    """3 x 3 convolutions with ReLU between them: images [n, 3, h, w] to patches [n, width, h / stride, w / stride].

    channels: of each convolution, the tower's width last.   strides: of each; their product is the patch size.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for i, (c, stride) in enumerate(zip(channels, strides, strict=True)):
            layers += [nn.Conv2d(3 if i == 0 else channels[i - 1], c, 3, stride, padding=1), nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, input: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n width rows columns"]:
        """The patches."""
        out: Tensor = super().forward(input)
        return out


def add_stem(clip: Any, stem: Mapping[str, Any] | None) -> None:
    """Let convolutions take the place of `visual.conv1`. stem: {"channels": [...], "strides": [...]}, or nothing."""
    if stem:
        clip.visual.conv1 = ConvolutionalStem(stem["channels"], stem["strides"])
