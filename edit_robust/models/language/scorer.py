"""Ask a language model many questions, again and again, while only some parameters change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Example, Scores
from edit_robust.core.work import Advance, silent
from edit_robust.models.language.decoder import Decoder
from edit_robust.models.language.entry import Entry, entry_for


@dataclass(frozen=True)
class Read:
    """One choice of one example: in token row `row`, the tokens `targets` follow positions `start`, `start`+1, ..."""

    example: int
    choice: int
    row: int
    start: int
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """What the changes cannot change: for every token of some rows, one after the other, the tensors to start from.

    The tokens of row i stand from starts[i] on; rows that are not in `starts` are not kept.
    """

    entry: Entry
    tensors: tuple[Float[Tensor, "tokens _"], ...]
    starts: Mapping[int, int]


class Scorer:
    """Questions made ready: tokenised once, rows shared, and what does not depend on `changes` computed once.

    changes: names of all parameters that may change between two times of asking; none: nothing is kept.
    A choice's tokens are scored under teacher forcing; choices of an example whose token rows coincide, or of
    which one begins the other, are read from one row (attention is causal).

    encoded: token ids of each example's choices, prompt included, with the number that belongs to the prompt; None:
             the texts are tokenised here, and cut off where the model's window ends.
    how:     where forward passes start, and why not later, in words.
    """

    def __init__(
        self,
        model: Decoder,
        examples: Sequence[Example],
        changes: Sequence[str] = (),
        encoded: Sequence[Sequence[tuple[list[int], int]]] | None = None,
    ) -> None:
        self.model, self.examples, self.changes = model, list(examples), tuple(changes)
        self.k = max((len(e.choices) for e in self.examples), default=1)
        self.reads, self.rows = self._plan(encoded)
        self.by_example: list[list[Read]] = [[] for _ in self.examples]
        for read in self.reads:
            self.by_example[read.example].append(read)
        entry = entry_for(model, self.changes) if self.changes and model.fast else None
        self.kept = self._keep(entry) if entry else None
        self.how = self._told(entry)

    def _plan(self, encoded: Sequence[Sequence[tuple[list[int], int]]] | None) -> tuple[list[Read], list[list[int]]]:
        asked = [(i, j, str(e.x), str(c)) for i, e in enumerate(self.examples) for j, c in enumerate(e.choices)]
        if encoded is None:
            pairs = [(ids[: self.model.max_tokens], n) for ids, n in self.model.text.pairs([a[2:] for a in asked])]
        else:
            pairs = [pair for choices in encoded for pair in choices]
        wanted = []
        for (i, j, _, _), (ids, n) in zip(asked, pairs, strict=True):
            n = max(n, 1)  # nothing predicts a text's very first token
            if n < len(ids):  # else there is nothing to predict, and the choice counts as absent
                wanted.append((i, j, tuple(ids[:-1]), n - 1, tuple(ids[n:])))
        unique = sorted({w[2] for w in wanted})
        place: dict[tuple[int, ...], int] = {}
        rows: list[list[int]] = []
        for here, following in zip(unique, [*unique[1:], ()], strict=False):
            place[here] = len(rows)  # sorted: a row that begins another one stands right before it
            if following[: len(here)] != here:
                rows.append(list(here))
        return [Read(i, j, place[row], start, targets) for i, j, row, start, targets in wanted], rows

    def _told(self, entry: Entry | None) -> str:
        missing = self.model.abilities.missing
        if not self.model.fast:
            return "one choice at a time (model.fast=false)"
        if entry is None:
            nothing = "nothing is computed before what changes" if self.changes else "everything may change"
            return f"ordinary batches: {missing.get('reads') or missing.get('blocks') or nothing}"
        share = len(self.kept.starts) / max(len(self.rows), 1) if self.kept else 0.0
        late = "" if entry.name.startswith("projection") or not missing else missing.get("projections", "")
        partly = "" if share == 1 else f" for {100 * share:.0f} % of the rows (model.cache_gb={self.model.cache_gb:g})"
        return f"from the {entry.name} on{partly}{f': {late}' if late else ''}"

    def _affordable(self, entry: Entry) -> list[int]:
        """Rows that fit in `cache_gb` together, in the order in which examples need them."""
        size = self.model.anatomy.layers[0].weight.element_size() * sum(entry.widths)
        left = self.model.cache_gb * 2**30
        found: dict[int, None] = {}
        for row in (r.row for r in self.reads):
            need = size * len(self.rows[row])
            if row not in found and need <= left:
                found[row] = None
                left -= need
        return list(found)

    @torch.no_grad()
    def _keep(self, entry: Entry) -> Kept | None:
        """One pass over the rows as far as the entry. None when none of them would fit in `cache_gb`."""
        model = self.model
        some = self._affordable(entry)
        if not some:
            return None
        ends = np.cumsum([len(self.rows[i]) for i in some]).tolist()
        starts = dict(zip(some, [0, *ends[:-1]], strict=True))
        tensors = tuple(torch.empty(ends[-1], w, dtype=model.dtype, device=entry.device) for w in entry.widths)
        with model.progress("Reading the questions", len(some)) as advance:
            for batch in model.batches([len(self.rows[i]) for i in some]):
                rows = [some[b] for b in batch]
                captured = entry.capture(model.tokens([self.rows[i] for i in rows]))
                for b, i in enumerate(rows):
                    for tensor, found in zip(tensors, captured, strict=True):
                        tensor[starts[i] : starts[i] + len(self.rows[i])] = found[b, : len(self.rows[i])]
                advance(len(batch))
        return Kept(entry, tensors, starts)

    @torch.no_grad()
    def score(self, which: Sequence[int] | None = None) -> Scores:
        """Scores of all examples, or of those at the indices `which`, in that order."""
        chosen = list(range(len(self.examples))) if which is None else list(which)
        reads = [r for i in chosen for r in self.by_example[i]]
        shape = (len(self.examples), self.k)
        logp = np.full(shape, np.nan)
        hits = np.full(shape, np.nan)
        tokens = np.zeros(shape, dtype=np.int64)
        if self.model.fast:
            self._score_batched(reads, logp, hits)
        else:
            self._score_one_by_one(reads, logp, hits)
        for r in reads:
            tokens[r.example, r.choice] = len(r.targets)
        target = np.array([self.examples[i].target for i in chosen], dtype=np.int64)
        return Scores(logp[chosen], hits[chosen], tokens[chosen], target)

    def _score_one_by_one(self, reads: Sequence[Read], logp: np.ndarray, hits: np.ndarray) -> None:
        """The plain path: the whole network on every choice of every question, one after the other."""
        with self._progress(len(reads)) as advance:
            for r in reads:
                row = self.rows[r.row][: r.start + len(r.targets)]
                out = self.model.whole(self.model.tokens([row]))[0]
                out = out[r.start :].log_softmax(-1)
                want = torch.tensor(r.targets, device=out.device)
                logp[r.example, r.choice] = float(out.gather(1, want[:, None]).mean())
                hits[r.example, r.choice] = float((out.argmax(-1) == want).double().mean())
                advance(1)

    def _progress(self, n: int) -> AbstractContextManager[Advance]:
        """A bar for what takes a while; asking about one edit does not."""
        return (self.model.progress if n > 256 else silent)("Asking", n)

    def _score_batched(self, reads: Sequence[Read], logp: np.ndarray, hits: np.ndarray) -> None:
        by_row: dict[int, list[Read]] = {}
        for r in reads:
            by_row.setdefault(r.row, []).append(r)
        kept = self.kept.starts if self.kept else {}
        with self._progress(len(by_row)) as advance:
            for used in (sorted(i for i in by_row if i in kept), sorted(i for i in by_row if i not in kept)):
                for batch in self.model.batches([len(self.rows[i]) for i in used]):
                    rows = [used[b] for b in batch]
                    self._score_rows(rows, [(b, r) for b, i in enumerate(rows) for r in by_row[i]], logp, hits)
                    advance(len(batch))

    def _score_rows(
        self, rows: Sequence[int], spots: Sequence[tuple[int, Read]], logp: np.ndarray, hits: np.ndarray
    ) -> None:
        """One batch of rows, all kept or all not. spots: (place in the batch, what is read there)."""
        places = [(b, r.start + t) for b, r in spots for t in range(len(r.targets))]
        wanted = [token for _, r in spots for token in r.targets]
        unique = sorted(set(places))
        at = (torch.tensor([b for b, _ in unique]), torch.tensor([p for _, p in unique]))
        number = {place: k for k, place in enumerate(unique)}
        kept = self.kept is not None and rows[0] in self.kept.starts
        states = self._entered(rows, at) if kept else self._ordinary(rows, at)
        all_logp, all_hit = self._read(states, [number[p] for p in places], wanted, finished=not kept)
        start = 0
        for _, r in spots:
            end = start + len(r.targets)
            logp[r.example, r.choice] = all_logp[start:end].mean()
            hits[r.example, r.choice] = all_hit[start:end].mean()
            start = end

    def _entered(self, rows: Sequence[int], at: tuple[Tensor, Tensor]) -> Float[Tensor, "places d"]:
        """Hidden states of some rows at some places before the last norm, from what is kept of the rows on."""
        model, kept = self.model, self.kept
        assert kept is not None
        width = max(len(self.rows[i]) for i in rows)
        index = np.zeros((len(rows), width), dtype=np.int64)
        for b, i in enumerate(rows):
            index[b, : len(self.rows[i])] = np.arange(kept.starts[i], kept.starts[i] + len(self.rows[i]))
        of_rows = torch.from_numpy(index).to(kept.entry.device)
        hidden = kept.entry.resume([tensor[of_rows] for tensor in kept.tensors])
        narrow = kept.entry.start < model.n_layers
        with model.last_mlp_at(at, tuple(hidden.shape)) if narrow else nullcontext():
            return model.replay(hidden, model.calls(width, len(rows)), kept.entry.start)[at]

    def _ordinary(self, rows: Sequence[int], at: tuple[Tensor, Tensor]) -> Float[Tensor, "places _"]:
        """What the whole network gives for some rows at some places: hidden states behind the last norm, or logits
        where hidden states alone do not tell them."""
        model = self.model
        ids = model.tokens([self.rows[i] for i in rows])
        if not model.abilities.reads:
            return model.whole(ids)[at]
        with model.last_mlp_at(at, (*ids.shape, model.hidden_size)):
            return model.hidden(ids)[at]

    def _read(
        self, states: Tensor, which: Sequence[int], wanted: Sequence[int], finished: bool, chunk: int = 1024
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of each wanted token at its place, and whether it is the likeliest there."""
        model = self.model
        got_logp, got_hit = [], []
        for i in range(0, len(which), chunk):
            some = states[torch.tensor(which[i : i + chunk])]
            if not finished:
                some = model.finish(some)
            out = (model.logits(some) if model.abilities.reads else some).log_softmax(-1)
            want = torch.tensor(wanted[i : i + chunk], device=out.device)
            got_logp.append(out.gather(1, want[:, None])[:, 0].double().cpu().numpy())
            got_hit.append((out.argmax(-1) == want).cpu().numpy())
        return np.concatenate(got_logp), np.concatenate(got_hit)
