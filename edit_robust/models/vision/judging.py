"""What logits answer, found out where the logits are: which images are right, how probable that is, what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64
from torch import Tensor


@dataclass(frozen=True)
class Verdicts:
    """What m models answer to the same n images.

    right: whether the predicted class is the right one.   loss: sum over the images of -log p(right class), nats.
    moved: how many images are right that were wrong before, and the other way round; None: nothing was before.
    pred, logp: the predicted class and log p(right class); None where they were not asked for.
    """

    right: Bool[np.ndarray, "m n"]
    loss: Float64[np.ndarray, " m"]
    moved: Int64[np.ndarray, "m 2"] | None = None
    pred: Int32[np.ndarray, "m n"] | None = None
    logp: Float32[np.ndarray, "m n"] | None = None


def judge(
    logits: Float[Tensor, "m n c"],
    target: Int[np.ndarray, " n"],
    classes: Sequence[int] | None = None,
    before: Bool[np.ndarray, " n"] | Literal["first"] | None = None,
    answers: bool = False,
) -> Verdicts:
    """The verdicts on several models' logits.

    target:  indices of the right classes.   classes: the only ones that are possible; the probability is then among
             these, and 0 where the right class is none of them.
    before:  which images the unedited model answers right; `first`: it is the first of these models.
    answers: whether classes and log-probabilities of single images are wanted, too.
    The softmax is computed in float64, where the logits are. What leaves their device is a byte an image and model, and
    sums; with `answers` eight bytes more.
    """
    if logits.device.type == "mps":  # has no float64
        logits = logits.cpu()
    if classes is not None:
        chosen = torch.full_like(logits, float("-inf"))
        chosen[..., list(classes)] = logits[..., list(classes)]
        logits = chosen
    wanted = torch.as_tensor(target, device=logits.device)
    pred = logits.argmax(-1)
    right = pred == wanted
    at = wanted[None, :, None].expand(len(logits), -1, 1)
    logp = torch.log_softmax(logits.double(), -1).gather(-1, at)[..., 0]
    moved = None
    if before is not None:
        was = right[0] if isinstance(before, str) else torch.as_tensor(before, device=logits.device)
        moved = torch.stack([(right & ~was).sum(-1), (~right & was).sum(-1)], -1)
    return Verdicts(
        right.cpu().numpy(),
        (-logp.sum(-1)).cpu().numpy(),
        None if moved is None else moved.cpu().numpy(),
        pred.to(torch.int32).cpu().numpy() if answers else None,
        logp.float().cpu().numpy() if answers else None,
    )
