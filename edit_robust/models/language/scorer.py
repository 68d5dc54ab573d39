"""Ask a language model many questions, again and again, while only some parameters change."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
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
    """What the changes cannot change: for every token of every row, one after the other, the tensors to start from.

    The tokens of row i are those from offsets[i] to offsets[i + 1].
    """

    entry: Entry
    tensors: tuple[Float[Tensor, "tokens _"], ...]
    offsets: list[int]


class Scorer:
    """Questions made ready: tokenised once, rows shared, and what does not depend on `changes` computed once.

    changes: names of all parameters that may change between two times of asking; none: nothing is kept.
    A choice's tokens are scored under teacher forcing; choices of an example whose token rows coincide, or of
    which one begins the other, are read from one row (attention is causal).
    """

    def __init__(self, model: Decoder, examples: Sequence[Example], changes: Sequence[str] = ()) -> None:
        self.model, self.examples, self.changes = model, list(examples), tuple(changes)
        self.k = max((len(e.choices) for e in self.examples), default=1)
        self.reads, self.rows = self._plan()
        self.by_example: list[list[Read]] = [[] for _ in self.examples]
        for read in self.reads:
            self.by_example[read.example].append(read)
        entry = entry_for(model, self.changes) if self.changes else None
        self.kept = self._keep(entry) if entry and model.fast else None
        # when embeddings change, so may the way in which blocks are called: nothing that was recorded is used
        self._from_scratch = bool(self.changes) and entry is None

    def _plan(self) -> tuple[list[Read], list[list[int]]]:
        asked = [(i, j, str(e.x), str(c)) for i, e in enumerate(self.examples) for j, c in enumerate(e.choices)]
        wanted = []
        for (i, j, _, _), (ids, n) in zip(asked, self.model.text.pairs([(x, c) for _, _, x, c in asked]), strict=True):
            n = max(n, 1)  # nothing predicts a text's very first token
            ids = ids[: self.model.max_tokens]
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

    @torch.no_grad()
    def _keep(self, entry: Entry) -> Kept | None:
        """One pass over all rows as far as the entry. None when it would not fit in `cache_gb`."""
        model = self.model
        total = sum(len(r) for r in self.rows)
        size = model.anatomy.layers[0].weight.element_size()
        if total == 0 or total * sum(entry.widths) * size > model.cache_gb * 2**30:
            return None
        offsets = np.concatenate([[0], np.cumsum([len(r) for r in self.rows])]).tolist()
        tensors = tuple(torch.empty(total, w, dtype=model.dtype, device=entry.device) for w in entry.widths)
        with model.progress("Reading the questions", len(self.rows)) as advance:
            for batch in model.batches([len(r) for r in self.rows]):
                captured = entry.capture(model.tokens([self.rows[i] for i in batch]))
                for b, i in enumerate(batch):
                    for tensor, found in zip(tensors, captured, strict=True):
                        tensor[offsets[i] : offsets[i + 1]] = found[b, : len(self.rows[i])]
                advance(len(batch))
        return Kept(entry, tensors, offsets)

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
        used = sorted({r.row for r in reads})
        by_row: dict[int, list[Read]] = {i: [] for i in used}
        for r in reads:
            by_row[r.row].append(r)
        with self._progress(len(used)) as advance:
            for batch in self.model.batches([len(self.rows[i]) for i in used]):
                rows = [used[b] for b in batch]
                hidden = self._hidden(rows)
                spots = [(b, r) for b, i in enumerate(rows) for r in by_row[i]]
                self._read(hidden, spots, logp, hits)
                advance(len(batch))

    def _hidden(self, rows: Sequence[int]) -> Float[Tensor, "b t d"]:
        """Final hidden states (before the last norm) of some rows, starting as late as possible."""
        model, kept = self.model, self.kept
        if kept is None:
            ids = model.tokens([self.rows[i] for i in rows])
            return model.before_block(model.n_layers, ids) if self._from_scratch else model.after_blocks(ids)
        width = max(len(self.rows[i]) for i in rows)
        index = np.zeros((len(rows), width), dtype=np.int64)
        for b, i in enumerate(rows):
            index[b, : len(self.rows[i])] = np.arange(kept.offsets[i], kept.offsets[i + 1])
        at = torch.from_numpy(index).to(kept.entry.device)
        hidden = kept.entry.resume([tensor[at] for tensor in kept.tensors])
        return model.replay(hidden, model.calls(width), kept.entry.start)

    def _read(
        self, hidden: Tensor, spots: Sequence[tuple[int, Read]], logp: np.ndarray, hits: np.ndarray, chunk: int = 1024
    ) -> None:
        """Log-probabilities at the positions that matter, and nowhere else."""
        rows = [b for b, r in spots for _ in r.targets]
        positions = [r.start + t for _, r in spots for t in range(len(r.targets))]
        wanted = [token for _, r in spots for token in r.targets]
        got_logp, got_hit = [], []
        for i in range(0, len(rows), chunk):
            at = slice(i, i + chunk)
            states = hidden[torch.tensor(rows[at]), torch.tensor(positions[at])]
            out = self.model.logits(self.model.finish(states)).log_softmax(-1)
            want = torch.tensor(wanted[at], device=out.device)
            got_logp.append(out.gather(1, want[:, None])[:, 0].double().cpu().numpy())
            got_hit.append((out.argmax(-1) == want).cpu().numpy())
        all_logp, all_hit = np.concatenate(got_logp), np.concatenate(got_hit)
        start = 0
        for _, r in spots:
            end = start + len(r.targets)
            logp[r.example, r.choice] = all_logp[start:end].mean()
            hits[r.example, r.choice] = all_hit[start:end].mean()
            start = end
