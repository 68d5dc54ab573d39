"""Do the fast paths give the network's own numbers? Tried once when a model is loaded, on two rows of a few tokens."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from edit_robust.models.language.decoder import Decoder
from edit_robust.models.language.entry import AtBlock, AtProjection
from edit_robust.models.language.injection import PlainInjection, TailInjection

log = logging.getLogger(__name__)


def fast_paths_agree(model: Decoder) -> bool:
    """Whether starting in the middle, reading with a cache, and injecting into a tail give the plain path's numbers."""
    if not model.anatomy.additive:
        return False
    try:
        with torch.no_grad():
            found = _pairs(model)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as e:
        log.debug("%s: %s", model.name, e)
        return False
    loose = 1e-4 if model.dtype == torch.float32 else 0.05
    return all(torch.allclose(a, b, rtol=loose, atol=loose * 10) for a, b in found)


def _pairs(model: Decoder) -> list[tuple[Tensor, Tensor]]:
    """What a fast path gives, and what the plain one does."""
    rows = [[i % model.vocabulary for i in row] for row in ([1, 2, 3, 4, 5], [6, 7, 8])]
    reads = [(0, 2), (0, 4), (1, 1), (1, 2)]
    layer = model.layer_at((model.n_layers - 1) // 2)
    ids = model.tokens(rows)
    calls = model.calls(ids.shape[1])
    streams = [model.after_blocks(ids), model.before_block(model.n_layers, ids)]
    for entry in (AtProjection(model, layer), AtBlock(model, layer.index)):
        streams.append(model.replay(entry.resume(entry.capture(ids)), calls, entry.start))
    whole = model.whole(ids)
    found = [
        (parts[at], whole[at].to(parts.device))
        for parts in (model.logits(model.finish(s)) for s in streams)
        for at in reads
    ]
    plain, tail = (kind(model, layer.name, "mlp", rows, [2, 1], reads) for kind in (PlainInjection, TailInjection))
    return [*found, (tail.keys, plain.keys), (tail.out, plain.out), (tail.read(plain.out), plain.read(plain.out))]
