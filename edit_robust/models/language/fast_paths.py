"""Which fast paths give the network's own numbers? Tried once when a model is loaded, on two rows of a few tokens.

Every path is tried apart from the others, in the type of number that the network has. Differences are measured against
the spread of what is compared: rounding in half precision is a few percent of it, a norm or a position in the wrong
place is as large as the spread itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edit_robust.core.recorded import Differentiable
from edit_robust.models.language.abilities import Abilities
from edit_robust.models.language.decoder import Call, Decoder
from edit_robust.models.language.entry import AtBlock, AtProjection, Entry
from edit_robust.models.language.injection import PlainInjection, TailInjection

log = logging.getLogger(__name__)

#: (what a fast path gives, what the whole network gives)
Pairs = Iterator[tuple[Tensor, Tensor]]
#: Rows of different lengths, in tenths of the vocabulary, and the places (row, position) that are read.
ROWS = ([1, 2, 3, 4, 5], [6, 7, 8])
READS = [(0, 2), (0, 4), (1, 1), (1, 2)]
_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, NotImplementedError)


def find_abilities(model: Decoder) -> Abilities:
    """What may be run alone. The model's `abilities` are what has been found so far while others are tried."""
    before, trial = model.abilities, _Trial(model)
    try:
        trial.run()
        return model.abilities
    finally:
        model.abilities = before


def apart(found: Tensor, wanted: Tensor) -> float:
    """The difference's norm over that of `wanted` around its mean."""
    a, b = found.detach().double().cpu(), wanted.detach().double().cpu()
    if a.shape != b.shape:
        return float("inf")
    spread = (b - b.mean(-1, keepdim=True)).norm()
    return float((a - b).norm() / spread.clamp_min(1e-12))


class _Trial:
    """One network's paths, tried in the order in which they build on each other."""

    def __init__(self, model: Decoder) -> None:
        self.model = model
        self.rows = [[i * model.vocabulary // 10 for i in row] for row in ROWS]
        self.ids = model.tokens(self.rows)
        self.at = tuple(torch.tensor(i) for i in zip(*READS, strict=True))
        self.layer = model.layer_at((model.n_layers - 1) // 2)
        eps = torch.finfo(model.dtype).eps
        # Rounding adds up over blocks as a random walk does: some 16 roundings in all, one part in ten thousand at
        # the least.
        self.tolerance = max(1e-4, 16 * eps)
        with torch.no_grad():
            self.whole = model.whole(self.ids)[self.at]

    def run(self) -> None:
        model = self.model
        model.abilities = Abilities(through_net=self._caps())
        self._try("reads", self._reads)
        if not self._has("reads"):
            return
        model.abilities = replace(model.abilities, calls_by_batch=self._calls_by_batch())
        self._try("blocks", self._blocks)
        if not self._has("blocks"):
            return
        if model.anatomy.additive:
            self._try("projections", lambda: self._entered(AtProjection(model, self.layer)))
        else:
            self._misses("projections", "what its MLPs give is not added to the stream as it is")
        self._try("narrow", self._narrow)
        self._try("tails", self._tails)
        if self._has("tails"):
            self._try("recorded", self._recorded)

    def _has(self, name: str) -> bool:
        return bool(getattr(self.model.abilities, name))

    def _try(self, name: str, pairs: Callable[[], Pairs]) -> None:
        """Note the ability if everything agrees while the model has it, and else why not."""
        model = self.model
        before = model.abilities
        model.abilities = replace(before, **{name: True})  # type: ignore[arg-type]
        try:
            gap = max(apart(a, b) for a, b in pairs())
            problem = "" if gap <= self.tolerance else f"its numbers would be {100 * gap:.2g} % off"
        except _ERRORS as e:
            problem = " ".join(str(e).split())[:120] or type(e).__name__
        if problem:
            model.abilities = before
            self._misses(name, problem)

    def _misses(self, name: str, problem: str) -> None:
        log.debug("%s: no %s: %s", self.model.name, name, problem)
        known = self.model.abilities
        self.model.abilities = replace(known, missing={**known.missing, name: problem})

    # -- what is tried ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _caps(self) -> bool:
        """Does the network do more to hidden states than its head? Seen best where logits are large."""
        model = self.model
        try:
            hidden = model.hidden(self.ids)[self.at]
            found = [(model.through_net(s * hidden), model.logits(s * hidden)) for s in (1, 16)]
            through, whole = found[0][0], self.whole
            answers = apart(through, whole) <= self.tolerance
            return answers and any(apart(b, a) > self.tolerance for a, b in found)
        except _ERRORS as e:
            log.debug("%s: %s", model.name, e)
            return False

    @torch.no_grad()
    def _reads(self) -> Pairs:
        yield self.model.logits(self.model.hidden(self.ids)[self.at]), self.whole

    @torch.no_grad()
    def _calls_by_batch(self) -> bool:
        """Is there a tensor among what blocks are called with that fits one number of rows only?"""

        def shapes(rows: int) -> list[torch.Size]:
            with self.model.recording() as calls:
                self.model.hidden(self.ids[:1].expand(rows, -1))
            return [t.shape for call in calls for t in _tensors(call)]

        one, three = shapes(1), shapes(3)
        return any(a != b and a[:1] != (1,) for a, b in zip(one, three, strict=True))

    def _finished(self, stream: Tensor) -> Tensor:
        return self.model.logits(self.model.finish(stream[self.at]))

    def _through(self, entry: Entry) -> Tensor:
        model = self.model
        calls = model.calls(self.ids.shape[1], len(self.ids))
        return model.replay(entry.resume(entry.capture(self.ids)), calls, entry.start)

    @torch.no_grad()
    def _entered(self, entry: Entry) -> Pairs:
        yield self._finished(self._through(entry)), self.whole

    def _blocks(self) -> Pairs:
        for index in (0, self.layer.index, self.model.n_layers):
            yield from self._entered(AtBlock(self.model, index))

    @torch.no_grad()
    def _narrow(self) -> Pairs:
        shape = (*self.ids.shape, self.model.hidden_size)
        with self.model.last_mlp_at(self.at, shape):  # type: ignore[arg-type]
            yield self._finished(self._through(AtBlock(self.model, 0))), self.whole

    @torch.no_grad()
    def _tails(self) -> Pairs:
        given = (self.rows, [2, 1], READS)
        for where in ("mlp", "block"):
            plain = PlainInjection(self.model, self.layer.name, where, *given)
            tail = TailInjection(self.model, self.layer.name, where, *given)
            yield tail.keys, plain.keys
            yield tail.out, plain.out
            yield tail.unmoved, plain.unmoved
            yield tail.read(plain.out), plain.read(plain.out)

    def _recorded(self) -> Pairs:
        """The same loss and gradient, at other numbers than those of the recording."""
        tail = TailInjection(self.model, self.layer.name, "mlp", self.rows, [2, 1], READS)
        first, second = Differentiable(self._loss(tail)), Differentiable(self._loss(tail), record=True)
        for scale in (0.0, 1.0):
            for one in (first, second):
                values = one.values(scale * tail.out)
                gradient = one.gradient()
                if one is first:
                    wanted = (*values, gradient)
            yield from zip((*values, gradient), wanted, strict=True)
        if second.refused:
            raise NotImplementedError(second.refused)

    @staticmethod
    def _loss(tail: TailInjection) -> Callable[[Tensor], tuple[Tensor, ...]]:
        return lambda delta: (tail.read(delta).log_softmax(-1)[:, :2].t(),)


def _tensors(call: Call) -> list[Tensor]:
    """Tensors in what a block is called with, one level of tuples deep (cosines and sines come in pairs)."""
    args, kwargs = call
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        parts: Any = value if isinstance(value, tuple | list) else (value,)
        found += [p for p in parts if isinstance(p, Tensor)]
    return found
