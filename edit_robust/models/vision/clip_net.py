"""A CLIP's image tower with zero-shot heads behind it, as one network that classifies images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class ClipNet(nn.Module):
    """Images to logits: normalised features of the image tower times the rows of a head.

    visual:   the image tower: [n, 3, h, w] -> [n, d].   head: [classes, d] of the model's own classes.
    trained:  True makes the head a parameter, which editors may then change; else it is a buffer, which none can.

    Heads of other classes may stand beside the model's own (`further`). They answer inside `every_head` only: training
    on the model's own classes never sees them.
    """

    head: Tensor
    further: Tensor

    def __init__(self, visual: nn.Module, head: Float[Tensor, "classes d"], trained: bool = False) -> None:
        super().__init__()
        self.visual = visual
        if trained:
            self.head = nn.Parameter(head)
        else:
            self.register_buffer("head", head)
        self.register_buffer("further", head.new_zeros(0, head.shape[1]), persistent=False)
        self._every = False

    def embed(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Features of length 1."""
        out = self.visual(x)
        if isinstance(out, tuple):  # towers that give their tokens, too: the pooled features come first
            out = out[0]
        return F.normalize(out, dim=-1)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Logits of the model's own classes; inside `every_head` those of all heads, one after the other."""
        head = torch.cat([self.head, self.further]) if self._every and len(self.further) else self.head
        return F.linear(self.embed(x), head)

    @contextmanager
    def every_head(self) -> Iterator[None]:
        """Inside the block the logits are those of all heads."""
        before, self._every = self._every, True
        try:
            yield
        finally:
            self._every = before
