"""What a model says, by whole forward passes over one text at a time: the reference for everything faster."""

from __future__ import annotations

import numpy as np
import torch

from edit_robust.core import Example
from edit_robust.models.language.causal_lm import CausalLM

ROWS_TEXT = [
    "Ada Valdoran plays the",
    "On stage Boris Kestrin plays the flute",
    "People hire Greta Moreth as a teacher",
]


def plain_logits(model: CausalLM, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.net(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def plainly_scored(model: CausalLM, examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-probability and share of argmax tokens, by whole forward passes over one choice at a time."""
    logp, hits = [], []
    for e in examples:
        for c in e.choices:
            (ids, n), *_ = model.text.pairs([(e.x, c)])
            out = plain_logits(model, ids)[n - 1 : -1].log_softmax(-1)
            want = torch.tensor(ids[n:])
            logp.append(float(out.gather(1, want[:, None]).mean()))
            hits.append(float((out.argmax(-1) == want).double().mean()))
    k = len(examples[0].choices)
    return np.array(logp).reshape(-1, k), np.array(hits).reshape(-1, k)
