"""A causal decoder taken apart: its blocks, and ways of running the whole of it, or only from some block on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from edit_robust.core import Layer, UserError
from edit_robust.core.delta import Term
from edit_robust.core.work import silent
from edit_robust.models.base import Model
from edit_robust.models.language.abilities import Abilities
from edit_robust.models.language.anatomy import Anatomy, hidden_of, with_hidden
from edit_robust.models.language.encoder import Encoder
from edit_robust.models.language.hooks import Enough, hooked
from edit_robust.models.language.row_changes import RowChanges

#: How one block was called: positional and keyword arguments, without the hidden states.
Call = tuple[tuple[Any, ...], dict[str, Any]]
#: How many recorded sets of calls are kept where they depend on the batch size.
_CALLS_KEPT = 64
#: From this width of the residual stream on, products of matrices are worth sharing between threads.
_WIDE = 384


class Decoder(Model):
    """The parts of a causal language model, and how to run them.

    anatomy:      its blocks, norm and head.       text:         its tokenizer.
    max_tokens:   longest text it can read.        window:       how far back attention sees, at most `max_tokens`.
    batch_tokens: padded tokens of a batch.        cache_gb:     memory for what edits cannot change.
    fast:         False runs the plain path: the whole network, one sequence at a time where questions are asked.
    abilities:    what may be run alone, where `fast` is True.
    quick:        whether a processor runs some small operations as compiled loops in place of PyTorch's own.
    """

    def __init__(self, net: Any, anatomy: Anatomy, text: Encoder, name: str, max_tokens: int) -> None:
        super().__init__(net, {layer.name: layer for layer in anatomy.layers})
        self.anatomy, self.text, self.name, self.max_tokens = anatomy, text, name, max_tokens
        self.config = getattr(net, "config", None)
        self.hidden_size, self.vocabulary = anatomy.hidden_size, anatomy.vocabulary
        self.useful_threads = 1 if self.hidden_size < _WIDE else None
        windows = [getattr(self.config, k, None) for k in ("sliding_window", "window_size", "attention_chunk_size")]
        self.window = min((w for w in windows if isinstance(w, int) and w > 0), default=max_tokens)
        weight = next(anatomy.owner.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.fast, self.batch_tokens, self.cache_gb = True, 4096, 4.0
        self.abilities, self.quick = Abilities(), False
        self.progress = silent
        self._calls: dict[int | tuple[int, int], list[Call]] = {}
        self._row_changes: RowChanges | None = None

    # -- parts -----------------------------------------------------------------------------------------------------

    @property
    def input_device(self) -> torch.device:
        """Where token ids go in."""
        return next(self.anatomy.owner.parameters()).device

    def first_uses(self) -> dict[int, int]:
        """For every parameter, by `id`, the first block that uses it: -1 for what is used before the blocks or in an
        unknown place (embeddings, also where the head is tied to them), `n_layers` for the final norm and the head."""
        names = {module: name for name, module in self.net.named_modules()}
        roots = {names[block]: i for i, block in enumerate(self.anatomy.blocks)}
        roots |= {names[module]: self.n_layers for module in (*self.anatomy.after, self.anatomy.head)}
        found: dict[int, int] = {}
        for name, p in self.net.named_parameters(remove_duplicate=False):
            use = next((i for root, i in roots.items() if name.startswith(f"{root}.")), -1)
            found[id(p)] = min(found.get(id(p), use), use)
        return found

    # -- batches ---------------------------------------------------------------------------------------------------

    def tokens(self, rows: Sequence[Sequence[int]]) -> Int[Tensor, "rows longest"]:
        """Token ids, padded on the right, where causal attention does not see them. UserError for too long a text."""
        width = max(len(r) for r in rows)
        if width > self.max_tokens:
            raise UserError(f"a text of {width} tokens is longer than the {self.max_tokens} of {self.name}")
        ids = np.zeros((len(rows), width), dtype=np.int64)
        for i, r in enumerate(rows):
            ids[i, : len(r)] = r
        return torch.from_numpy(ids).to(self.input_device)

    def batches(self, lengths: Sequence[int], budget: int | None = None) -> list[list[int]]:
        """Indices grouped by similar length into batches of at most `budget` (`batch_tokens`) padded tokens."""
        budget = budget or self.batch_tokens
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        groups: list[list[int]] = []
        for i in order:
            if groups and (len(groups[-1]) + 1) * lengths[i] <= budget:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    # -- the whole network -----------------------------------------------------------------------------------------

    def hidden(self, ids: Int[Tensor, "b t"], **kwargs: Any) -> Float[Tensor, "b t d"]:
        """Hidden states after the final norm. `kwargs` go to the network."""
        out = self.anatomy.owner(input_ids=ids, **{"use_cache": False, **kwargs})
        return hidden_of(out[0] if not isinstance(out, Tensor) else out)

    def finish(self, hidden: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The final norm, and whatever else runs between the last block and the head."""
        for module in self.anatomy.after:
            hidden = module(hidden)
        return hidden

    def logits(self, hidden: Float[Tensor, "... d"]) -> Float[Tensor, "... v"]:
        """Logits of normed hidden states, in float32: those of the head, capped or scaled where the network does so."""
        if self.abilities.through_net:
            return self.through_net(hidden)
        weight = next(self.anatomy.head.parameters())
        return self.anatomy.head(hidden.to(weight.device)).float()

    def through_net(self, hidden: Float[Tensor, "... d"]) -> Float[Tensor, "... v"]:
        """The network's own logits, in float32, with `hidden` as what its decoder gives."""
        owner = self.anatomy.owner
        rows = hidden.reshape(-1, 1, hidden.shape[-1])
        ids = torch.zeros(len(rows), 1, dtype=torch.long, device=self.input_device)
        own = vars(owner).get("forward")  # set by libraries that spread a model over devices
        given = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=rows)  # type: ignore[arg-type]
        owner.forward = lambda *args, **kwargs: given
        try:
            out = self.net(input_ids=ids, use_cache=False).logits.float()
        finally:
            if own is None:
                del owner.forward
            else:
                owner.forward = own
        return out.reshape(*hidden.shape[:-1], -1)

    def logits_at(self, ids: Int[Tensor, "b t"], at: tuple[Tensor, Tensor]) -> Float[Tensor, "reads v"]:
        """Logits at some positions (rows, columns) by an ordinary forward pass over all rows, in float32."""
        return self.logits(self.hidden(ids)[at]) if self.abilities.reads else self.whole(ids)[at]

    def whole(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t v"]:
        """The network's own logits, in float32: the plain path."""
        return self.net(input_ids=ids, use_cache=False).logits.float()

    # -- from some block on ----------------------------------------------------------------------------------------

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        """Collect how each block is called during a forward pass inside the block; hidden states are left out."""
        calls: list[Call] = []

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append((("hidden", *args[1:]), {k: v for k, v in kwargs.items() if k != "hidden_states"}))

        with hooked(*(b.register_forward_pre_hook(keep, with_kwargs=True) for b in self.anatomy.blocks)):
            yield calls

    def calls(self, width: int, rows: int) -> list[Call]:
        """How blocks are called for `rows` unpadded sequences of `width` tokens: positions, masks and the like."""
        by_batch = self.abilities.calls_by_batch
        key = (width, rows) if by_batch else width
        if key not in self._calls:
            ids = torch.zeros(rows if by_batch else 1, width, dtype=torch.long, device=self.input_device)
            with torch.no_grad(), self.recording() as calls:
                self.hidden(ids)
            if by_batch and len(self._calls) >= _CALLS_KEPT:
                del self._calls[next(iter(self._calls))]
            self._calls[key] = calls
        return self._calls[key]

    def replay(self, hidden: Float[Tensor, "b t d"], calls: Sequence[Call], start: int) -> Float[Tensor, "b t d"]:
        """Run blocks `start`, `start`+1, ... on hidden states, called as recorded; before the final norm."""
        for block, (args, kwargs) in zip(self.anatomy.blocks[start:], calls[start:], strict=True):
            hidden = hidden_of(block(hidden, *args[1:], **kwargs))
        return hidden

    @contextmanager
    def last_mlp_at(self, at: tuple[Tensor, Tensor], shape: tuple[int, ...]) -> Iterator[None]:
        """Inside the block the last block's MLP runs at some positions (rows, columns) alone, and gives zero elsewhere.

        No position may be named twice. shape: of the hidden states, [rows, positions, width].
        """
        mlp = self.anatomy.last_mlp
        if mlp is None or not self.abilities.narrow:
            yield
            return

        def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            def some(x: Any) -> Any:  # some families give the residual stream to the MLP, too
                return x[at][:, None] if isinstance(x, Tensor) and x.shape[:2] == shape[:2] else x

            return tuple(some(x) for x in args)

        def scatter(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            some = hidden_of(output)[:, 0]
            return with_hidden(output, some.new_zeros(shape).index_put(at, some))

        with hooked(mlp.register_forward_pre_hook(gather), mlp.register_forward_hook(scatter)):
            yield

    @torch.no_grad()
    def before_block(self, index: int, ids: Int[Tensor, "b t"], **kwargs: Any) -> Float[Tensor, "b t d"]:
        """The residual stream that enters block `index`; with `n_layers`, the one that leaves the last block.

        `kwargs` go to the network.
        """
        seen: list[Tensor] = []

        def enters(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(args[0] if args else kwargs["hidden_states"])
            raise Enough

        def leaves(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen.append(hidden_of(output))
            raise Enough

        blocks = self.anatomy.blocks
        with hooked(
            blocks[-1].register_forward_hook(leaves)
            if index == len(blocks)
            else blocks[index].register_forward_pre_hook(enters, with_kwargs=True)
        ):
            self.hidden(ids, **kwargs)
        return seen[0]

    @torch.no_grad()
    def around_projection(
        self, layer: Layer, ids: Int[Tensor, "b t"], **kwargs: Any
    ) -> tuple[Float[Tensor, "b t d_in"], Float[Tensor, "b t d"]]:
        """A down-projection's inputs, and its block's output as it would be if the projection gave zero.

        `kwargs` go to the network.
        """
        keys: list[Tensor] = []
        rest: list[Tensor] = []

        def silence(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            keys.append(args[0].reshape(*ids.shape, -1))  # some families flatten the tokens of a batch
            return torch.zeros_like(output)

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            rest.append(hidden_of(output))
            raise Enough

        block = self.anatomy.blocks[layer.index]
        with hooked(layer.module.register_forward_hook(silence), block.register_forward_hook(leave)):
            self.hidden(ids, **kwargs)
        return keys[0], rest[0]

    # -- what can be read on the way ---------------------------------------------------------------------------------

    @contextmanager
    def each_under(self, changes: Sequence[Mapping[str, Term]]) -> Iterator[None]:
        """Inside the block `trace` and `block_output` read every row as it is under a change of its own; the weights
        stay. changes: terms by layer name; the first rows have the first change, as many the next, and so on.
        """
        before, self._row_changes = self._row_changes, RowChanges(self.layers, changes)
        try:
            yield
        finally:
            self._row_changes = before

    def _under(self, batch: Sequence[int], rows: int) -> AbstractContextManager[None]:
        """Inside the block these of so many rows are read under the changes that they have of their own, if any."""
        return nullcontext() if self._row_changes is None else self._row_changes.on(batch, rows)

    @torch.no_grad()
    def trace(
        self, rows: Sequence[Sequence[int]], positions: Sequence[int], layers: Sequence[str]
    ) -> dict[str, Float[Tensor, "rows d_in"]]:
        """Inputs of some projections at one position of each sequence."""
        last = max(self.layers[n].index for n in layers)
        found: dict[str, list[Tensor]] = {n: [] for n in layers}
        for batch in self.batches([len(r) for r in rows]):
            at = torch.tensor([positions[i] for i in batch])
            with self._under(batch, len(rows)):
                seen = self.run_to(last, self.tokens([rows[i] for i in batch]), layers)
            for n in layers:
                found[n].append(seen[n][torch.arange(len(batch)), at.to(seen[n].device)])
        order = torch.tensor([i for batch in self.batches([len(r) for r in rows]) for i in batch])
        inverse = torch.argsort(order)
        return {n: torch.cat(found[n])[inverse.to(found[n][0].device)] for n in layers}

    @torch.no_grad()
    def run_to(self, last: int, ids: Int[Tensor, "b t"], layers: Sequence[str]) -> dict[str, Float[Tensor, "b t d_in"]]:
        """Run as far as block `last`'s projection and return the projections' inputs; later blocks never run."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                seen[name] = args[0].detach().reshape(*ids.shape, -1)
                if len(seen) == len(layers):
                    raise Enough

            return hook

        with hooked(*(self.layers[n].module.register_forward_pre_hook(keep(n)) for n in layers)):
            self.hidden(ids)
        return seen

    @torch.no_grad()
    def block_output(self, layer: str, rows: Sequence[Sequence[int]], positions: Sequence[int]) -> Float[Tensor, "n d"]:
        """The residual stream after the block of `layer`, at one position of each sequence, in float32."""
        block = self.anatomy.blocks[self.layers[layer].index]
        seen: list[Tensor] = []

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen.append(hidden_of(output))
            raise Enough

        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for batch in self.batches([len(r) for r in rows]):
            with self._under(batch, len(rows)), hooked(block.register_forward_hook(leave)):
                self.hidden(self.tokens([rows[i] for i in batch]))
            hidden = seen.pop()
            for b, i in enumerate(batch):
                found[i] = hidden[b, positions[i]].float()
        return torch.stack(found)
