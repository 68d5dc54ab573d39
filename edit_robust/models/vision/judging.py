"""What logits answer: the predicted class, and how probable the right one is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor


def judge(
    logits: Float[Tensor, "n c"], target: Int[np.ndarray, " n"], classes: Sequence[int] | None = None
) -> tuple[Int32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Predicted class and log-probability of the right one, for each image.

    target: indices of the right classes.   classes: the only ones that are possible; the probability is then among
    these, and -inf where the right class is none of them. The softmax is computed in float64, where the logits are:
    what leaves their device are two numbers an image.
    """
    if logits.device.type == "mps":  # has no float64
        logits = logits.cpu()
    if classes is not None:
        chosen = torch.full_like(logits, float("-inf"))
        chosen[:, list(classes)] = logits[:, list(classes)]
        logits = chosen
    right = torch.as_tensor(target, device=logits.device)[:, None]
    logp = torch.log_softmax(logits.double(), -1).gather(1, right)[:, 0].float()
    return logits.argmax(-1).to(torch.int32).cpu().numpy(), logp.cpu().numpy()
