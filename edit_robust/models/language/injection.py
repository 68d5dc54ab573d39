"""Injecting a vector into a network: at the subject's last token, at one layer, as an edit's value optimisation does.

`read(delta)` gives the logits that matter with `delta` added there. Two implementations give the same numbers: the
plain one runs whole sequences through the whole network, the tail one runs what `delta` can change and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from edit_robust.models.language.anatomy import hidden_of, with_hidden
from edit_robust.models.language.decoder import Decoder
from edit_robust.models.language.hooks import hooked


class Injection(Protocol):
    """keys: the projection's inputs, and out: the values at the injection point, before anything is injected."""

    keys: Float[Tensor, "b d_in"]
    out: Float[Tensor, "b d"]

    def read(self, delta: Float[Tensor, "b d"]) -> Float[Tensor, "reads v"]:
        """Logits (float32) at the read positions with delta added; differentiable in delta."""
        ...


class PlainInjection:
    """The reference: every step runs all layers, positions and the whole vocabulary."""

    def __init__(
        self,
        model: Decoder,
        layer: str,
        where: str,
        rows: Sequence[Sequence[int]],
        positions: Sequence[int],
        reads: Sequence[tuple[int, int]],
    ) -> None:
        self.model, self.layer, self.where = model, model.layers[layer], where
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
            model.net(input_ids=self.ids, use_cache=False)
        self.keys, self.out = seen["key"].float(), seen[where].float()

    def read(self, delta: Float[Tensor, "b d"]) -> Float[Tensor, "reads v"]:
        module: nn.Module = self.layer.module if self.where == "mlp" else self.model.anatomy.blocks[self.layer.index]

        def inject(m: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            shape = hidden_of(output).shape
            hidden = hidden_of(output).clone().reshape(*self.ids.shape, -1)
            hidden[self.at] = hidden[self.at] + delta.to(hidden.dtype)
            return with_hidden(output, hidden.reshape(shape))

        with hooked(module.register_forward_hook(inject)):
            logits = self.model.whole(self.ids)
        return logits[self.reads]


class FrozenPrefix(DynamicCache):
    """Keys and values of prefixes. Once frozen, they stand in front of new ones, and are never added to."""

    frozen = False

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if not self.frozen:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        kept: Any = self.layers[layer_idx]
        return torch.cat([kept.keys, key_states], -2), torch.cat([kept.values, value_states], -2)


class TailInjection:
    """What delta can change: the positions from the subject's last token on, in the blocks above the layer.

    The prefix's keys and values, and the tail's stream as it leaves the edited block, are computed once.
    Rows whose prefixes differ in length stand in one batch with a gap that attention masks out.
    """

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
        with torch.no_grad():
            self._run_below(prefixes, tails, where)

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
            model.hidden(model.tokens([p or [0] for p in prefixes]), past_key_values=cache, use_cache=True)
            cache.frozen = True
            prefix_mask = torch.arange(gap, device=ids.device) < lengths[:, None]
            mask = torch.cat([prefix_mask, torch.ones_like(ids, dtype=torch.bool)], 1).long()
            kwargs |= {"past_key_values": cache, "use_cache": True, "attention_mask": mask}
        seen: dict[str, Tensor] = {}
        block = model.anatomy.blocks[self.layer.index]
        grid = (*ids.shape, -1)
        hooks = [
            self.layer.module.register_forward_hook(  # copies: some families add to these tensors in place
                lambda m, a, o: seen.update(key=a[0].reshape(grid)[:, 0].clone(), mlp=o.reshape(grid)[:, 0].clone())
            ),
            block.register_forward_hook(lambda m, a, o: seen.update(stream=hidden_of(o).clone())),
        ]
        with hooked(*hooks), model.recording() as calls:
            model.hidden(ids, **kwargs)
        self.calls = calls
        self.stream = seen["stream"]
        self.keys = seen["key"].float()
        self.out = (seen["mlp"] if where == "mlp" else self.stream[:, 0]).float()

    def read(self, delta: Float[Tensor, "b d"]) -> Float[Tensor, "reads v"]:
        first = self.stream[:, :1] + delta.to(self.stream.dtype)[:, None]
        hidden = torch.cat([first, self.stream[:, 1:]], 1)
        with self._only_where_read(hidden):
            hidden = self.model.replay(hidden, self.calls, self.layer.index + 1)
        return self.model.logits(self.model.finish(hidden[self.reads]))

    @contextmanager
    def _only_where_read(self, hidden: Tensor) -> Iterator[None]:
        """The last block's MLP runs at the read positions alone: nothing looks at what it gives elsewhere."""
        mlp = self.model.anatomy.last_mlp
        if mlp is None or not self.once or self.layer.index == self.model.n_layers - 1:
            yield
            return

        def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0][self.reads][:, None], *args[1:])

        def scatter(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            some = hidden_of(output)[:, 0]
            return with_hidden(output, some.new_zeros(hidden.shape).index_put(self.reads, some))

        with hooked(mlp.register_forward_pre_hook(gather), mlp.register_forward_hook(scatter)):
            yield
