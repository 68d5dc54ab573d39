"""Texts read by a model under several edits at once, differentiable in the edits.

Each edit is a sum over tokens of rate * delta~ u~^T at some projections: in place of changing weights, a projection's
output x W^T is given rate * (x u~^T) delta~, for each text with the factors of its own edit. What the edits cannot
change, the stream that enters the lowest edited block, is computed once for each text and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from edit_robust.editors.language.helpers.factors import Text
from edit_robust.editors.language.helpers.hypernetwork import Target, Tokens
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.entry import entry_for
from edit_robust.models.language.hooks import hooked

#: Factors of one edit by projection, the rates included in delta.
Change = Mapping[str, Tokens]


class Store:
    """Keeps what was computed, the first things that fit into so many bytes; the others are computed each time.

    Everything is computed by itself, so that its bits do not depend on what was asked for before.
    """

    def __init__(self, gigabytes: float) -> None:
        self.left = gigabytes * 1e9
        self._kept: dict[Any, Any] = {}

    def get(self, key: Any, make: Callable[[], Any], nbytes: Callable[[Any], int]) -> Any:
        if key in self._kept:
            return self._kept[key]
        made = make()
        if (size := nbytes(made)) <= self.left:
            self._kept[key] = made
            self.left -= size
        return made


class EditedPasses:
    """Losses of texts under edits of the targets."""

    def __init__(self, model: CausalLM, targets: Sequence[Target], store: Store) -> None:
        self.model, self.targets, self.store = model, targets, store
        self.entry = entry_for(model, [t.layer.weight_name for t in targets]) if model.fast else None

    # -- losses ----------------------------------------------------------------------------------------------------

    def nll(self, texts: Sequence[Text], changes: Sequence[Change]) -> Float[Tensor, " edits"]:
        """The mean of -log p over all target tokens of an edit's texts, for each edit; as many texts for each."""
        share = len(texts) // len(changes)
        rows = [ids[:-1] for ids, _ in texts]
        reads = [(i, at) for i, (ids, n) in enumerate(texts) for at in range(n - 1, len(ids) - 1)]
        goals = torch.tensor([token for ids, n in texts for token in ids[n:]])
        ready = self._ready(rows, reads)
        with self._edited(changes):
            logits = ready()
        losses = F.cross_entropy(logits, goals.to(logits.device), reduction="none")
        return _means(losses, [i // share for i, _ in reads], len(changes))

    def divergence(self, texts: Sequence[Sequence[int]], changes: Sequence[Change]) -> Float[Tensor, " edits"]:
        """KL(unedited || edited) in nats, the mean over all tokens of an edit's texts; as many texts for each edit."""
        share = len(texts) // len(changes)
        reads = [(i, at) for i, row in enumerate(texts) for at in range(len(row))]
        before, ready = self._unedited(texts).log_softmax(-1), self._ready(texts, reads)
        with self._edited(changes):
            after = ready().log_softmax(-1)
        losses = F.kl_div(after, before, reduction="none", log_target=True).sum(-1)
        return _means(losses, [i // share for i, _ in reads], len(changes))

    # -- passes ----------------------------------------------------------------------------------------------------

    def _ready(
        self, rows: Sequence[Sequence[int]], reads: Sequence[tuple[int, int]]
    ) -> Callable[[], Float[Tensor, "reads v"]]:
        """A function that gives logits at the reads (row, position); what no edit can change is computed now."""
        at = (torch.tensor([r for r, _ in reads]), torch.tensor([p for _, p in reads]))
        model, entry, ids = self.model, self.entry, self.model.tokens(rows)
        if entry is None:
            return lambda: model.logits_at(ids, at) if model.fast else model.whole(ids)[at]
        entering, calls = self._entering(rows), model.calls(ids.shape[1], len(ids))

        def logits() -> Tensor:
            return model.logits(model.finish(model.replay(entry.resume(entering), calls, entry.start)[at]))

        return logits

    @torch.no_grad()
    def _entering(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """What the entry keeps of the rows [rows, longest, _], each read by itself; nothing where it keeps nothing."""
        model, entry = self.model, self.entry
        if entry is None:
            return []
        kept = [
            self.store.get(
                ("enters", tuple(row)),
                lambda row=row: [x[0] for x in entry.capture(model.tokens([row]))],  # type: ignore[misc]
                lambda made: sum(x.nbytes for x in made),
            )
            for row in rows
        ]
        width = max(len(row) for row in rows)
        return [_padded([k[part] for k in kept], width) for part in range(len(entry.widths))]

    @torch.no_grad()
    def _unedited(self, texts: Sequence[Sequence[int]]) -> Float[Tensor, "tokens v"]:
        """Logits of the model as it is at every position; what the head is given is kept."""
        model = self.model
        if self.entry is None or not model.abilities.reads:
            found = []
            for row in texts:
                ids = model.tokens([row])
                at = (torch.zeros(len(row), dtype=torch.long), torch.arange(len(row)))
                found.append(model.logits_at(ids, at) if model.fast else model.whole(ids)[at])
            return torch.cat(found)
        hidden = [
            self.store.get(
                ("leaves", tuple(row)),
                lambda row=row: model.hidden(model.tokens([row]))[0],  # type: ignore[misc]
                lambda made: made.nbytes,
            )
            for row in texts
        ]
        return model.logits(torch.cat(hidden))

    @contextmanager
    def _edited(self, changes: Sequence[Change]) -> Iterator[None]:
        """Inside the block the targets' outputs are those under the edits; rows belong to edits in equal parts."""
        with hooked(*(t.layer.module.register_forward_hook(self._hook(t.name, changes)) for t in self.targets)):
            yield

    def _hook(self, name: str, changes: Sequence[Change]) -> Any:
        u = _padded([c[name].u for c in changes], max(len(c[name].u) for c in changes))
        delta = _padded([c[name].delta for c in changes], u.shape[1])

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            x = args[0].reshape(len(changes), -1, u.shape[-1]).float()
            added = torch.bmm(torch.bmm(x, u.to(x.device).transpose(1, 2)), delta.to(x.device))
            return (output.float() + added.reshape(output.shape)).to(output.dtype)

        return hook


def _padded(rows: Sequence[Float[Tensor, "_ d"]], length: int) -> Float[Tensor, "rows length d"]:
    """Rows of different lengths in one tensor, zeros behind; differentiable."""
    return torch.stack([F.pad(row, (0, 0, 0, length - len(row))) for row in rows])


def _means(values: Float[Tensor, " n"], groups: Sequence[int], n: int) -> Float[Tensor, " groups"]:
    """The mean of the values of each group 0..n-1; the groups stand one behind the other."""
    sizes = [groups.count(g) for g in range(n)]
    return torch.stack([part.mean() for part in values.split(sizes)])
