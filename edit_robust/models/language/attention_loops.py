"""Attention of a few places behind a text that was read before, and its gradient, as loops over float32 numbers.

An optimised value reads the subject's last token and what follows: four places or so in each of twenty rows. There
PyTorch's attention takes most of its time to begin and to end, needs the earlier keys and values copied in front of the
new ones at every step, and finds gradients of all of them, where only the new ones' are wanted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edit_robust.core.compiled import compiled
from edit_robust.models.language.gelu_loops import power_of_two

_F = np.float32
_PER_LOG2 = _F(1 / np.log(2))
_ZERO, _ONE, _LEAST = _F(0), _F(1), _F(-87)
#: Sums in any order; numbers that are none stay none.
_MAY = {"contract", "nsz", "reassoc", "arcp"}


def _softmax(s: Any) -> None:
    """In place. One number that is none makes all of them so."""
    top, all_of_them = s[0], _ZERO
    for j in range(s.size):
        top = max(top, s[j])
        all_of_them += s[j]
    total = _ZERO
    for j in range(s.size):
        x = s[j] - top
        e = power_of_two(max(x, _LEAST) * _PER_LOG2)
        e = e if x > _LEAST else _ZERO
        s[j] = e
        total += e
    share = _ONE / total if all_of_them == all_of_them else _F(np.nan)
    for j in range(s.size):
        s[j] *= share


softmax = compiled(_softmax, fastmath=_MAY, inline="always")


def _forward(q: Any, k: Any, v: Any, ahead_k: Any, ahead_v: Any, mask: Any, scale: Any, y: Any, p: Any) -> None:
    rows, heads, places, width = q.shape
    before, group = ahead_k.shape[2], heads // k.shape[1]
    query, sums = np.empty(width, np.float32), np.empty(width, np.float32)
    keys, values = np.empty((places, width), np.float32), np.empty((places, width), np.float32)
    s = np.empty(before + places, np.float32)
    for b in range(rows):
        m = b % mask.shape[0]
        for h in range(heads):
            g = h // group
            for t in range(places):
                for d in range(width):
                    keys[t, d], values[t, d] = k[b, g, t, d], v[b, g, t, d]
            for t in range(places):
                for d in range(width):
                    query[d], sums[d] = q[b, h, t, d] * scale, _ZERO
                for j in range(before):
                    dot = _ZERO
                    for d in range(width):
                        dot += query[d] * ahead_k[b, g, j, d]
                    s[j] = dot + mask[m, 0, t, j]
                for j in range(places):
                    dot = _ZERO
                    for d in range(width):
                        dot += query[d] * keys[j, d]
                    s[before + j] = dot + mask[m, 0, t, before + j]
                softmax(s)
                for j in range(before):
                    c = s[j]
                    for d in range(width):
                        sums[d] += c * ahead_v[b, g, j, d]
                for j in range(places):
                    c = s[before + j]
                    for d in range(width):
                        sums[d] += c * values[j, d]
                for d in range(width):
                    y[b, t, h, d] = sums[d]
                for j in range(before + places):
                    p[b, h, t, j] = s[j]


def _backward(
    gy: Any, q: Any, k: Any, v: Any, ahead_k: Any, ahead_v: Any, p: Any, scale: Any, gq: Any, gk: Any, gv: Any
) -> None:
    """Into gq, gk and gv, which hold nothing yet; gk and gv of the new places alone."""
    rows, heads, places, width = q.shape
    before, group = ahead_k.shape[2], heads // k.shape[1]
    query, given, sums = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    keys, values = np.empty((places, width), np.float32), np.empty((places, width), np.float32)
    to_keys, to_values = np.empty((places, width), np.float32), np.empty((places, width), np.float32)
    s = np.empty(before + places, np.float32)
    for b in range(rows):
        for h in range(heads):
            g = h // group
            for t in range(places):
                for d in range(width):
                    keys[t, d], values[t, d] = k[b, g, t, d], v[b, g, t, d]
            if h % group == 0:
                to_keys[:], to_values[:] = _ZERO, _ZERO
            for t in range(places):
                for d in range(width):
                    query[d], given[d], sums[d] = q[b, h, t, d], gy[b, t, h, d], _ZERO
                mean = _ZERO
                for j in range(before):
                    dot = _ZERO
                    for d in range(width):
                        dot += given[d] * ahead_v[b, g, j, d]
                    s[j] = dot
                for j in range(places):
                    dot = _ZERO
                    for d in range(width):
                        dot += given[d] * values[j, d]
                    s[before + j] = dot
                for j in range(before + places):
                    mean += s[j] * p[b, h, t, j]
                for j in range(before + places):
                    s[j] = (s[j] - mean) * p[b, h, t, j] * scale
                for j in range(before):
                    c = s[j]
                    for d in range(width):
                        sums[d] += c * ahead_k[b, g, j, d]
                for j in range(places):
                    c, share = s[before + j], p[b, h, t, before + j]
                    for d in range(width):
                        sums[d] += c * keys[j, d]
                        to_keys[j, d] += c * query[d]
                        to_values[j, d] += share * given[d]
                for d in range(width):
                    gq[b, t, h, d] = sums[d]
            if h % group == group - 1:
                for t in range(places):
                    for d in range(width):
                        gk[b, t, g, d], gv[b, t, g, d] = to_keys[t, d], to_values[t, d]


forward, backward = compiled(_forward, fastmath=_MAY), compiled(_backward, fastmath=_MAY)
_LIBRARY = torch.library.Library("edit_robust", "FRAGMENT")
_LIBRARY.define(
    "attention_behind(Tensor q, Tensor k, Tensor v, Tensor ahead_k, Tensor ahead_v, Tensor mask, float scale)"
    " -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "attention_behind_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor ahead_k, Tensor ahead_v, Tensor p,"
    " float scale) -> (Tensor, Tensor, Tensor)"
)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, ahead_k: Tensor, ahead_v: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention's output [b, t, h, d], and each place's shares [b, h, t, p + t]; see `models.language.attention`."""
    b, h, t, d = q.shape
    y, p = torch.empty(b, t, h, d), torch.empty(b, h, t, mask.shape[-1])
    given = (x.detach().numpy() for x in (q, k, v, ahead_k, ahead_v, mask))
    forward(*given, _F(scale), y.numpy(), p.numpy())
    return y, p


def _attend_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, ahead_k: Tensor, ahead_v: Tensor, p: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, in their shapes."""
    found = [torch.empty(b, t, h, d) for b, h, t, d in (q.shape, k.shape, v.shape)]
    given = (x.detach().numpy() for x in (gradient, q, k, v, ahead_k, ahead_v, p))
    backward(*given, _F(scale), *(x.numpy() for x in found))
    gq, gk, gv = (x.transpose(1, 2) for x in found)
    return gq, gk, gv


_LIBRARY.impl("attention_behind", _attend, "CPU")
_LIBRARY.impl("attention_behind_backward", _attend_backward, "CPU")
