"""Prompts that share a beginning (few-shot examples), asked again and again while only some parameters change.

Two things are read of every prompt: what the model says after it, and how likely each of some answers is there. The
fast path reads the shared beginning once at the present weights; of the prompts it keeps what the changes cannot change
(see `entry`), together with what the unedited model said after them. One pass from there on tells whether the model
still says the same, token by token, and how likely the answers are; only prompts after which it now says something else
are continued token by token. The plain path generates and scores apart, and is what the fast one is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from edit_robust.core import Example, UserError
from edit_robust.models.base import Said
from edit_robust.models.language.decoder import Call, Decoder
from edit_robust.models.language.entry import Entry, entry_for
from edit_robust.models.language.generation import (
    Choice,
    Continuation,
    KeysValues,
    Limits,
    common,
    continue_rows,
    end_tokens,
    generate,
    read_prefix,
)
from edit_robust.models.language.scorer import Scorer

_GREEDY = Choice(sample=False, top_k=None, temperature=1.0)
#: Tokens of the prefix that cost as much memory in a batch as one of a row (keys and values alone, a layer at a time).
_CHEAPER = 4


class SharedPrefix(DynamicCache):
    """Keys and values of one prefix, in front of those of any number of rows; never added to."""

    frozen = False

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if not self.frozen:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        kept: Any = self.layers[layer_idx]
        n = len(key_states)
        keys, values = (kept.keys.expand(n, -1, -1, -1), kept.values.expand(n, -1, -1, -1))
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)

    def hold(self, kept: Sequence[KeysValues]) -> None:
        """From now on these keys and values stand in front."""
        layers: Any = self.layers
        for layer, (keys, values) in zip(layers, kept, strict=True):
            layer.keys, layer.values = keys, values


@dataclass(frozen=True)
class Spot:
    """Tokens `targets` follow positions `start`, `start`+1, ... of token row `row`; of prompt i, answer j."""

    prompt: int
    option: int
    row: int
    start: int
    targets: tuple[int, ...]


@dataclass
class Batch:
    """Rows that run together. at: the places (row of the batch, position) that are read, each once.

    kept: tensors to start from, None where they did not fit.   calls: how blocks are called then.
    """

    rows: list[int]
    ids: Tensor
    at: tuple[Tensor, Tensor]
    kept: tuple[Tensor, ...] | None = None
    calls: Sequence[Call] = ()


class FewShot:
    """Prompts made ready to be asked again and again. Make it while the model is unedited.

    prompts: what stands behind `prefix`.        options: answers to each, scored as what follows.
    tokens:  how many the model may say.         changes: names of all parameters that may change.
    cache_gb: memory for what the changes cannot change; None: the model's own.
    Raises UserError for a prompt that leaves no room for so many tokens in the model's window.
    """

    def __init__(
        self,
        model: Decoder,
        prompts: Sequence[str],
        options: Sequence[Sequence[str]],
        tokens: int,
        *,
        prefix: str = "",
        changes: Sequence[str] = (),
        cache_gb: float | None = None,
    ) -> None:
        self.model, self.prefix, self.prompts, self.options = model, prefix, list(prompts), [list(o) for o in options]
        self.tokens, self.changes = tokens, tuple(changes)
        self.k = max((len(o) for o in self.options), default=1)
        self.limits = Limits(end_tokens(model), (), tokens, model.max_tokens, model.text.decode)
        self.encoded = [model.text.encode(f"{prefix}{p}") or [model.text.begin] for p in self.prompts]
        for row in self.encoded:
            if len(row) + tokens > model.max_tokens:
                raise UserError(
                    f"a prompt of {len(row)} tokens leaves no room for {tokens} more in the {model.max_tokens} of "
                    f"{model.name}; take fewer shots"
                )
        self._texts: dict[tuple[int, tuple[int, ...]], str] = {}
        self._fast = bool(self.prompts) and model.fast and model.abilities.tails
        self._scorer: Scorer | None = None
        if self._fast:
            self._make_ready(2**30 * (model.cache_gb if cache_gb is None else cache_gb))

    # -- getting ready ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _make_ready(self, budget: float) -> None:
        """Note what the unedited model says, lay out the rows, and keep what the changes cannot change."""
        self.shared = self._common()
        kept = self._read_prefix()
        self.said = self._continued(kept, {})
        guesses = [[*r.prompt, *r.new][: len(r.prompt) + self.tokens - 1] for r in self.said]
        self.rows, self.spots = self._plan(guesses)
        self.batches = self._batches()
        self.cache = self._prefix_cache()
        entry = entry_for(self.model, self.changes) if self.changes else None
        self.entry: Entry | None = entry
        if entry is None:
            return
        for batch in self.batches:
            size = batch.ids.numel() * sum(entry.widths) * self.model.anatomy.layers[0].weight.element_size()
            if size > budget:
                break
            budget -= size
            with self.model.recording() as calls:
                self.model.hidden(batch.ids, **self._behind_prefix(batch.ids))
            batch.calls = calls
            batch.kept = entry.capture(batch.ids, **self._behind_prefix(batch.ids))

    def _common(self) -> int:
        """How many tokens all prompts begin with; every prompt has at least one of its own."""
        first = self.encoded[0]
        return min(min(common(first, row), len(row) - 1) for row in self.encoded)

    def _plan(self, guesses: Sequence[list[int]]) -> tuple[list[list[int]], list[Spot]]:
        """Token rows: a prompt with its guess each, then those that answers of several tokens need beside them."""
        asked = [(i, j, o) for i, options in enumerate(self.options) for j, o in enumerate(options)]
        pairs = self.model.text.pairs([(f"{self.prefix}{self.prompts[i]}", o) for i, _, o in asked])
        rows, spots = [list(g) for g in guesses], []
        others: dict[tuple[int, ...], int] = {}
        for (i, j, _), (ids, n) in zip(asked, pairs, strict=True):
            n = max(n, 1)  # nothing predicts a text's very first token
            read, targets = ids[:-1], tuple(ids[n:])
            row = i
            if rows[i][: len(read)] != read:
                if len(read) > self.model.max_tokens or read[: self.shared] != rows[i][: self.shared]:
                    raise UserError(f"the answer {self.options[i][j]!r} does not fit behind the prompt")
                row = others.setdefault(tuple(read), len(rows))
                if row == len(rows):
                    rows.append(list(read))
            spots.append(Spot(i, j, row, n - 1, targets))
        return rows, spots

    def _batches(self) -> list[Batch]:
        places: dict[int, set[int]] = {i: set() for i in range(len(self.rows))}
        for i, prompt in enumerate(self.encoded):
            places[i] |= set(range(len(prompt) - 1, len(self.rows[i])))
        for spot in self.spots:
            places[spot.row] |= set(range(spot.start, spot.start + len(spot.targets)))
        found = []
        for rows in self.model.batches([len(r) - self.shared + self.shared // _CHEAPER for r in self.rows]):
            read = [(b, p - self.shared) for b, i in enumerate(rows) for p in sorted(places[i])]
            at = (torch.tensor([b for b, _ in read]), torch.tensor([p for _, p in read]))
            found.append(Batch(rows, self.model.tokens([self.rows[i][self.shared :] for i in rows]), at))
        return found

    def _prefix_cache(self) -> SharedPrefix | None:
        """A cache that holds the prefix, in the form in which the network fills it."""
        if not self.shared:
            return None
        cache = SharedPrefix()
        self.model.hidden(self.model.tokens([self.encoded[0][: self.shared]]), past_key_values=cache, use_cache=True)
        cache.frozen = True
        return cache

    def _behind_prefix(self, ids: Tensor) -> dict[str, Any]:
        """What the network is called with beside the rows' own tokens."""
        if self.cache is None:
            return {}
        n, width = ids.shape
        places = self.shared + torch.arange(width, device=ids.device).expand(n, -1)
        # all is seen: rows are padded behind their end, where attention, which is causal, does not look
        seen = torch.ones(n, self.shared + width, dtype=torch.long, device=ids.device)
        return {"past_key_values": self.cache, "use_cache": True, "attention_mask": seen, "position_ids": places}

    # -- asking ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def ask(self) -> Said:
        """What the model says after each prompt at the present weights, and how likely the answers are."""
        if not self._fast:
            return self._plainly()
        kept = self._read_prefix()
        if self.cache is not None:
            self.cache.hold(kept)
        found, likeliest = self._score()
        rows = self._continued(kept, likeliest)
        return Said(tuple(self._text(i, row) for i, row in enumerate(rows)), *found)

    def _read_prefix(self) -> list[KeysValues]:
        return read_prefix(self.model, self.encoded[0][: self.shared]) if self.shared else []

    def _score(self) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[tuple[int, int], int]]:
        """(logp, hits, tokens) of the answers, each [n, k]; and the likeliest token at each (row, position) read."""
        wanted: dict[tuple[int, int], dict[int, float]] = {}
        for s in self.spots:
            for t, token in enumerate(s.targets):
                wanted.setdefault((s.row, s.start + t), {})[token] = 0.0
        likeliest: dict[tuple[int, int], int] = {}
        for batch in self.batches:
            read = [(batch.rows[b], p + self.shared) for b, p in zip(*(x.tolist() for x in batch.at), strict=True)]
            logits = self._logits(batch)
            likeliest |= dict(zip(read, logits.argmax(-1).tolist(), strict=True))
            index = [(k, token, place) for k, place in enumerate(read) for token in wanted.get(place, ())]
            which = torch.tensor([(k, token) for k, token, _ in index], device=logits.device).reshape(-1, 2)
            values = logits.log_softmax(-1)[which[:, 0], which[:, 1]].double().tolist()
            for (_, token, place), value in zip(index, values, strict=True):
                wanted[place][token] = value
        shape = (len(self.prompts), self.k)
        logp, hits, tokens = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
        for s in self.spots:
            at = [(s.row, s.start + t) for t in range(len(s.targets))]
            here = (s.prompt, s.option)
            logp[here] = np.mean([wanted[place][token] for place, token in zip(at, s.targets, strict=True)])
            hits[here] = np.mean([likeliest[place] == token for place, token in zip(at, s.targets, strict=True)])
            tokens[here] = len(s.targets)
        return (logp, hits, tokens), likeliest

    def _logits(self, batch: Batch) -> Float[Tensor, "reads v"]:
        """Logits at the places of a batch that are read."""
        model = self.model
        with model.last_mlp_at(batch.at, (*batch.ids.shape, model.hidden_size)):
            if batch.kept is None or self.entry is None:
                return model.logits(model.hidden(batch.ids, **self._behind_prefix(batch.ids))[batch.at])
            hidden = model.replay(self.entry.resume(batch.kept), batch.calls, self.entry.start)
        return model.logits(model.finish(hidden[batch.at]))

    def _continued(self, kept: Sequence[KeysValues], likeliest: Mapping[tuple[int, int], int]) -> list[Continuation]:
        """Every prompt continued to its end: as far as the likeliest tokens are known, then by generating."""
        rows = [Continuation(list(prompt), None) for prompt in self.encoded]
        for i, row in enumerate(rows):
            guess = self.rows[i] if likeliest else []
            place = len(row.prompt) - 1
            while not row.ended and (i, place) in likeliest:
                token = likeliest[i, place]
                self.limits.extend(row, token)
                place += 1
                if place >= len(guess) or guess[place] != token:
                    break  # what was read from here on stands behind another token
        continue_rows(self.model, [r for r in rows if not r.ended], kept, self.shared, _GREEDY, self.limits)
        return rows

    def _text(self, i: int, row: Continuation) -> str:
        key = (i, tuple(row.new))
        if key not in self._texts:
            self._texts[key] = self.limits.text_of(row)
        return self._texts[key]

    def _plainly(self) -> Said:
        """By two ways that know nothing of each other."""
        if self._scorer is None:
            asked = zip(self.prompts, self.options, strict=True)
            examples = [Example(str(i), f"{self.prefix}{p}", tuple(o)) for i, (p, o) in enumerate(asked)]
            self._scorer = Scorer(self.model, examples, self.changes)
        scores = self._scorer.score()
        texts = generate(self.model, self.prompts, self.tokens, prefix=self.prefix)
        return Said(tuple(texts), scores.logp, scores.hits, scores.tokens)
