"""Injecting a vector into a network: at the subject's last token, at one layer, as an edit's value optimisation does.

`read(delta)` gives the logits that matter with `delta` added there. Two implementations give the same numbers: the
plain one runs whole sequences through the whole network, the tail one runs what `delta` can change and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from edit_robust.models.language.anatomy import hidden_of, with_hidden
from edit_robust.models.language.decoder import Decoder
from edit_robust.models.language.hooks import hooked

#: Steps are recorded where the stream, times the blocks above, has at most so many numbers: what a recorded step holds
#: is about sixty times as much, and where tensors are larger there is nothing to gain.
_RECORDED = 1 << 22


class Injection(Protocol):
    """keys: the projection's inputs, and out: the values at the injection point, before anything is injected.

    unmoved: logits at the read positions then.     records: whether `read` may be recorded and run again as operations.
    """

    keys: Float[Tensor, "b d_in"]
    out: Float[Tensor, "b d"]
    unmoved: Float[Tensor, "reads v"]
    records: bool

    def read(self, delta: Float[Tensor, "b d"]) -> Float[Tensor, "reads v"]:
        """Logits (float32) at the read positions with delta added; differentiable in delta."""
        ...


class PlainInjection:
    """Whole sequences through the whole network at every step.

    As the reference, logits are those of the network, over the whole vocabulary at every position; `few` computes them
    only where they are read.
    """

    records = False

    def __init__(
        self,
        model: Decoder,
        layer: str,
        where: str,
        rows: Sequence[Sequence[int]],
        positions: Sequence[int],
        reads: Sequence[tuple[int, int]],
        few: bool = False,
    ) -> None:
        self.model, self.layer, self.where, self.few = model, model.layers[layer], where, few
        self.ids = model.tokens(rows)
        self.at = (torch.arange(len(rows)), torch.tensor(positions))
        self.reads = (torch.tensor([r for r, _ in reads]), torch.tensor([p for _, p in reads]))
        seen: dict[str, Tensor] = {}
        block = model.anatomy.blocks[self.layer.index]
        grid = (*self.ids.shape, -1)  # some families flatten the tokens of a batch
        hooks = [
            self.layer.module.register_forward_hook(
                lambda m, a, o: seen.update(key=a[0].reshape(grid)[self.at], mlp=o.reshape(grid)[self.at])
            ),
            block.register_forward_hook(lambda m, a, o: seen.update(block=hidden_of(o)[self.at])),
        ]
        with hooked(*hooks), torch.no_grad():
            self.unmoved = self._logits()
        self.keys, self.out = seen["key"].float(), seen[where].float()

    def _logits(self) -> Float[Tensor, "reads v"]:
        return self.model.logits_at(self.ids, self.reads) if self.few else self.model.whole(self.ids)[self.reads]

    def read(self, delta: Float[Tensor, "b d"]) -> Float[Tensor, "reads v"]:
        module: nn.Module = self.layer.module if self.where == "mlp" else self.model.anatomy.blocks[self.layer.index]
        with hooked(module.register_forward_hook(adding(delta, self.ids.shape, self.at))):
            return self._logits()


def adding(delta: Tensor, shape: Sequence[int], at: tuple[Tensor, Tensor]) -> Any:
    """A hook that adds a vector a row to a module's output, at a position a row. shape: rows and positions."""

    def inject(m: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        flat = hidden_of(output).shape
        hidden = hidden_of(output).clone().reshape(*shape, -1)  # some families flatten the tokens of a batch
        hidden[at] = hidden[at] + delta.to(hidden.dtype)
        return with_hidden(output, hidden.reshape(flat))

    return inject


def joined(before: Tensor, new: Tensor) -> Tensor:
    """Keys or values [b, h, places, d] of the text before and of what follows, with the two parts noted for
    `models.language.attention`."""
    whole = torch.cat([before, new], -2)
    whole.parts = before, new  # type: ignore[attr-defined]
    return whole


class FrozenPrefix(DynamicCache):
    """Keys and values of prefixes. Once frozen, they stand in front of new ones, and are never added to."""

    frozen = False

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if not self.frozen:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        kept: Any = self.layers[layer_idx]
        return joined(kept.keys, key_states), joined(kept.values, value_states)


class TailInjection:
    """What delta can change: the positions from the subject's last token on, in the blocks above the layer.

    The prefix's keys and values, and the tail's stream as it leaves the edited block, are computed once. Where the
    projection's output is not added to the stream as it is, delta goes into it by a hook, and the edited block runs at
    every step. Rows whose prefixes differ in length stand in one batch with a gap that attention masks out.
    """

    through_block = False  # whether the edited block runs at every step in any case

    def __init__(
        self,
        model: Decoder,
        layer: str,
        where: str,
        rows: Sequence[Sequence[int]],
        positions: Sequence[int],
        reads: Sequence[tuple[int, int]],
    ) -> None:
        self.model, self.layer = model, model.layers[layer]
        ends = [max([p for r, p in reads if r == i], default=positions[i]) + 1 for i in range(len(rows))]
        tails = [list(r[p : max(e, p + 1)]) for r, p, e in zip(rows, positions, ends, strict=True)]
        prefixes = [list(r[:p]) for r, p in zip(rows, positions, strict=True)]
        self.reads = (
            torch.tensor([r for r, _ in reads]),
            torch.tensor([p - positions[r] for r, p in reads]),
        )
        self.once = len(set(reads)) == len(reads)
        self.inside = where == "mlp" and (self.through_block or not model.anatomy.additive)
        self.start = self.layer.index + (not self.inside)
        with torch.no_grad():
            self._run_below(prefixes, tails, where)
        parts = len(model.anatomy.blocks) - self.start
        self.records = model.abilities.recorded and self.stream.numel() * parts <= _RECORDED

    def _run_below(self, prefixes: Sequence[list[int]], tails: Sequence[list[int]], where: str) -> None:
        """Read the prefixes, then the tails as far as they do not depend on delta."""
        model = self.model
        ids = model.tokens(tails)
        lengths = torch.tensor([len(p) for p in prefixes], device=ids.device)
        gap = int(lengths.max())
        longest = int(max(len(p) + len(t) for p, t in zip(prefixes, tails, strict=True)))
        positions = (lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)).clamp_max(longest - 1)
        kwargs: dict[str, Any] = {"position_ids": positions}
        if gap:
            cache = FrozenPrefix()
            texts = model.tokens([p or [0] for p in prefixes])
            nowhere = (torch.empty(0, dtype=torch.long),) * 2  # of the last block, keys and values are all that is used
            with model.last_mlp_at(nowhere, (*texts.shape, model.hidden_size)):
                model.hidden(texts, past_key_values=cache, use_cache=True)
            cache.frozen = True
            prefix_mask = torch.arange(gap, device=ids.device) < lengths[:, None]
            mask = torch.cat([prefix_mask, torch.ones_like(ids, dtype=torch.bool)], 1).long()
            kwargs |= {"past_key_values": cache, "use_cache": True, "attention_mask": mask}
        seen: dict[str, Tensor] = {}
        block = model.anatomy.blocks[self.layer.index]
        grid = (*ids.shape, -1)
        hooks = [  # copies: some families add to these tensors in place
            block.register_forward_pre_hook(
                lambda m, a, k: seen.update(before=(a[0] if a else k["hidden_states"]).clone()), with_kwargs=True
            ),
            self.layer.module.register_forward_hook(
                lambda m, a, o: seen.update(key=a[0].reshape(grid)[:, 0].clone(), mlp=o.reshape(grid)[:, 0].clone())
            ),
            block.register_forward_hook(lambda m, a, o: seen.update(block=hidden_of(o).clone())),
        ]
        with hooked(*hooks), model.recording() as calls:
            final = model.hidden(ids, **kwargs)
        self.calls = calls
        self.stream = seen["before" if self.inside else "block"]
        self.keys = seen["key"].float()
        self.out = (seen["mlp"] if where == "mlp" else seen["block"][:, 0]).float()
        self.unmoved = model.logits(final[self.reads])

    def read(self, delta: Float[Tensor, "b d"]) -> Float[Tensor, "reads v"]:
        model, stream = self.model, self.stream
        with self._placed(delta), self._only_where_read(), self._quick():
            if not self.inside:
                stream = torch.cat([stream[:, :1] + delta.to(stream.dtype)[:, None], stream[:, 1:]], 1)
            hidden = model.replay(stream, self.calls, self.start)
        return model.logits(model.finish(hidden[self.reads]))

    def _placed(self, delta: Tensor) -> AbstractContextManager[None]:
        """Inside the block the edited projection adds delta to its output, where it cannot be added to the stream."""
        if not self.inside:
            return nullcontext()
        n = len(self.stream)
        at = (torch.arange(n), torch.zeros(n, dtype=torch.long))
        return hooked(self.layer.module.register_forward_hook(adding(delta, self.stream.shape[:2], at)))

    def _quick(self) -> AbstractContextManager[None]:
        """Inside the block attention runs as compiled loops where it can, if the model is a quick one."""
        if not self.model.quick:
            return nullcontext()
        from edit_robust.models.language.attention import quick_attention

        return quick_attention(self.model.net)

    def _only_where_read(self) -> AbstractContextManager[None]:
        """The last block's MLP runs at the read positions alone: nothing looks at what it gives elsewhere."""
        if not self.once or self.layer.index == self.model.n_layers - 1:
            return nullcontext()
        return self.model.last_mlp_at(self.reads, tuple(self.stream.shape))
