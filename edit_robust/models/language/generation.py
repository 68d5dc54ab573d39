"""Generating text: greedily or by sampling, many prompts at once, with keys and values kept.

Prompts of different lengths share a batch: they are padded on the right, attention does not see the padding, and every
token knows its own position. What all prompts begin with (few-shot examples) is read once. The plain path runs the
whole network on one sequence at a time, without a cache, and is what the fast one is tested against.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from edit_robust.core import UserError
from edit_robust.models.base import Generated
from edit_robust.models.language.decoder import Decoder

#: Keys and values of one layer for a prefix: [1, heads, tokens, width] each.
KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen: the likeliest one, or drawn from the `top_k` likeliest at a temperature."""

    sample: bool
    top_k: int | None
    temperature: float

    def __call__(self, logits: Float[Tensor, " v"], generator: torch.Generator | None) -> int:
        if not self.sample:
            return int(logits.argmax())
        top = logits.topk(min(self.top_k or len(logits), len(logits)))
        pick = torch.multinomial((top.values / self.temperature).softmax(-1), 1, generator=generator)
        return int(top.indices[pick])


@dataclass
class Continuation:
    """A prompt's tokens, and those generated so far. Every one draws from a generator of its own."""

    prompt: list[int]
    generator: torch.Generator | None
    new: list[int] = field(default_factory=list)
    ended: bool = False
    by_itself: bool = False


@dataclass(frozen=True)
class Limits:
    """When a continuation ends: at an end-of-text token, at a stop text, after `tokens` tokens, or at the window."""

    ends: frozenset[int]
    stop: tuple[str, ...]
    tokens: int
    window: int
    decode: Callable[[Sequence[int]], str]

    def extend(self, text: Continuation, token: int) -> None:
        """Add a token to the continuation unless it ends the text."""
        if token in self.ends:
            text.ended = text.by_itself = True
            return
        text.new.append(token)
        full = len(text.new) == self.tokens or len(text.prompt) + len(text.new) == self.window
        text.by_itself = bool(self.stop) and any(s in self.decode(text.new) for s in self.stop)
        text.ended = full or text.by_itself

    def text_of(self, text: Continuation) -> str:
        """What was generated, without the prompt, up to the first stop text."""
        before, whole = self.decode(text.prompt), self.decode([*text.prompt, *text.new])
        # the tokens of the continuation alone would lose the space that it begins with in some tokenizers
        found = whole[len(before) :] if whole.startswith(before) else self.decode(text.new)
        return found[: min((found.index(s) for s in self.stop if s in found), default=len(found))]


def generate(model: Decoder, prompts: Sequence[str], max_new_tokens: int, **options: Any) -> list[str]:
    """See `CausalLM.generate`."""
    return [one.text for one in write(model, prompts, max_new_tokens, **options)]


def write(
    model: Decoder,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    prefix: str = "",
    sample: bool = False,
    top_k: int | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    stop: Sequence[str] | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
) -> list[Generated]:
    """See `CausalLM.write`."""
    _check(max_new_tokens, sample, top_k, temperature, generator, batch_size)
    texts = [f"{prefix}{p}" for p in prompts]
    window = min(model.max_tokens, max_length or model.max_tokens)
    limits = Limits(end_tokens(model), tuple(s for s in stop or () if s), max_new_tokens, window, model.text.decode)
    generators = _generators(texts, generator) if sample and generator is not None else [None] * len(texts)
    rows = [Continuation(model.text.encode(t) or [model.text.begin], g) for t, g in zip(texts, generators, strict=True)]
    for row in rows:
        if len(row.prompt) >= model.max_tokens:
            raise UserError(
                f"a prompt of {len(row.prompt)} tokens leaves no room for an answer in the {model.max_tokens} "
                f"of {model.name}"
            )
        row.ended = len(row.prompt) >= window
    everybody, rows = rows, [row for row in rows if not row.ended]
    choose = Choice(sample, top_k, temperature)
    with torch.no_grad():
        if model.fast and model.abilities.tails:
            _batched(model, rows, model.text.encode(prefix) if prefix else [], choose, limits, batch_size)
        elif model.fast:
            _ordinary(model, rows, choose, limits, batch_size)
        else:
            for row in rows:
                _one_by_one(model, row, choose, limits)
    return [Generated(limits.text_of(row), len(row.new), row.by_itself) for row in everybody]


def _check(
    max_new_tokens: int,
    sample: bool,
    top_k: int | None,
    temperature: float,
    generator: torch.Generator | None,
    batch_size: int | None,
) -> None:
    for name, value in {"max_new_tokens": max_new_tokens, "top_k": top_k, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    if sample and generator is None:
        raise UserError("sampled text needs a generator: give generator=torch.Generator().manual_seed(...)")
    if not temperature > 0:
        raise UserError(f"temperature={temperature} must be above 0; sample=False takes the likeliest token")


def end_tokens(model: Decoder) -> frozenset[int]:
    """The tokens at which a text ends: the tokenizer's, and those that the model's config names."""
    own = getattr(model.net, "generation_config", None)
    found = [model.text.tokenizer.eos_token_id, *(getattr(c, "eos_token_id", None) for c in (model.config, own))]
    return frozenset(t for f in found for t in (f if isinstance(f, list | tuple) else [f]) if isinstance(t, int))


def _generators(texts: Sequence[str], generator: torch.Generator) -> list[torch.Generator | None]:
    """A generator for each text, so that what is drawn for it does not depend on the others.

    Seeded by a number drawn from the passed generator, the text, and how often the text has come before.
    """
    base = int(torch.randint(0, 2**62, (1,), generator=generator, device=generator.device))
    before: Counter[str] = Counter()
    found: list[torch.Generator | None] = []
    for text in texts:
        digest = hashlib.sha256(f"{base}:{before[text]}:{text}".encode()).digest()
        before[text] += 1
        found.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
    return found


def _one_by_one(model: Decoder, row: Continuation, choose: Choice, limits: Limits) -> None:
    """The plain path: the whole network on the whole text for every token."""
    while not row.ended:
        logits = model.whole(model.tokens([[*row.prompt, *row.new]]))[0, -1]
        limits.extend(row, choose(logits.cpu(), row.generator))


def _ordinary(
    model: Decoder, rows: Sequence[Continuation], choose: Choice, limits: Limits, batch_size: int | None
) -> None:
    """Padded batches of whole texts, read again for every token: for networks whose keys and values cannot be kept."""
    with model.progress("Generating", len(rows)) as advance:
        for batch in model.batches([len(r.prompt) + limits.tokens for r in rows]):
            for start in range(0, len(batch), batch_size or len(batch)):
                some = [rows[i] for i in batch[start : start + (batch_size or len(batch))]]
                while going := [r for r in some if not r.ended]:
                    texts = [[*r.prompt, *r.new] for r in going]
                    last = torch.tensor([len(t) - 1 for t in texts])
                    logits = model.logits_at(model.tokens(texts), (torch.arange(len(texts)), last)).cpu()
                    for row, of_row in zip(going, logits, strict=True):
                        limits.extend(row, choose(of_row, row.generator))
                advance(len(some))


def _batched(
    model: Decoder,
    rows: Sequence[Continuation],
    prefix: Sequence[int],
    choose: Choice,
    limits: Limits,
    batch_size: int | None,
) -> None:
    """All rows in batches of similar length, the common prefix read once."""
    if not rows:
        return
    shared = min([len(prefix), *(common(prefix, r.prompt) for r in rows), *(len(r.prompt) - 1 for r in rows)])
    kept = read_prefix(model, rows[0].prompt[:shared]) if shared else []
    continue_rows(model, rows, kept, shared, choose, limits, batch_size)


def continue_rows(
    model: Decoder,
    rows: Sequence[Continuation],
    kept: Sequence[KeysValues],
    shared: int,
    choose: Choice,
    limits: Limits,
    batch_size: int | None = None,
) -> None:
    """Continue all rows to their ends, in batches of similar length.

    kept: keys and values of the first `shared` tokens, which all rows begin with. What rows have been continued with
    so far (`new`) is read with their prompts.
    """
    if not rows:
        return
    longest = max(len(r.prompt) for r in rows) + limits.tokens
    batches = model.batches([len(r.prompt) - shared + limits.tokens for r in rows])
    if longest > model.window:  # how far back a token sees is counted in places of a row: there must be no gap in it
        batches = [
            list(same)
            for batch in batches
            for _, same in groupby(sorted(batch, key=lambda i: len(rows[i].prompt)), lambda i: len(rows[i].prompt))
        ]
    with model.progress("Generating", len(rows)) as advance:
        for batch in batches:
            for start in range(0, len(batch), batch_size or len(batch)):
                some = [rows[i] for i in batch[start : start + (batch_size or len(batch))]]
                _generate_batch(model, some, kept, shared, choose, limits)
                advance(len(some))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two rows have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def read_prefix(model: Decoder, prefix: Sequence[int]) -> list[KeysValues]:
    """Keys and values of some tokens in every layer."""
    cache = DynamicCache()
    model.hidden(model.tokens([prefix]), past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def _generate_batch(
    model: Decoder,
    rows: list[Continuation],
    kept: Sequence[KeysValues],
    shared: int,
    choose: Choice,
    limits: Limits,
) -> None:
    """Read the prompts, and what they have been continued with, behind the shared prefix; then a token at a time.

    Rows that have ended leave the batch.
    """
    cache = DynamicCache()
    for i, (keys, values) in enumerate(kept):
        cache.update(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1), i)
    ids = model.tokens([[*r.prompt, *r.new][shared:] for r in rows])
    lengths = torch.tensor([len(r.prompt) + len(r.new) for r in rows], device=ids.device)
    places = shared + torch.arange(ids.shape[1], device=ids.device).expand(len(rows), -1)
    seen = torch.ones(len(rows), shared, dtype=torch.bool, device=ids.device)
    seen = torch.cat([seen, places < lengths[:, None]], 1)
    last = lengths - shared - 1
    while True:
        options = {"past_key_values": cache, "use_cache": True, "attention_mask": seen.long(), "position_ids": places}
        hidden = model.hidden(ids, **options)
        logits = model.logits(hidden[torch.arange(len(rows), device=hidden.device), last.to(hidden.device)]).cpu()
        for row, of_row in zip(rows, logits, strict=True):
            if not row.ended:
                limits.extend(row, choose(of_row, row.generator))
        active = [i for i, r in enumerate(rows) if not r.ended]
        if not active:
            return
        if 2 * len(active) <= len(rows):
            rows = [rows[i] for i in active]
            index = torch.tensor(active)  # on the CPU: layers may lie on several devices
            seen = seen[index]
            cache.batch_select_indices(index)
        ids = torch.tensor([[r.new[-1] if r.new else 0] for r in rows], device=ids.device)
        # the newest token stands at the text's end; where a row has ended, any place that exists will do
        places = torch.tensor([[len(r.prompt) + max(len(r.new), 1) - 1] for r in rows], device=ids.device)
        seen = torch.cat([seen, seen.new_ones(len(rows), 1)], 1)
        last = torch.zeros(len(rows), dtype=torch.long, device=ids.device)
