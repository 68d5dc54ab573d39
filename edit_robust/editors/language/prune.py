"""PRUNE (Ma et al. 2024, arXiv 2405.16821): a whole sequence's change is held to the size of the weights themselves.

    W = W0 + F(Delta),    Delta = the sum of all edits,    F as in `helpers/spectrum.py`

The edits themselves are MEMIT's and stack up unpruned; F is applied when the model is looked at. Here the model is
looked at after every edit, and stands at W0 + F(Delta_t) then. To make edit t + 1, what F took away,

    S_t = Delta_t - F(Delta_t),     of low rank: as many factors as Delta_t has singular values above those of W0,

is put back for as long as that takes; the change handed on is Delta_(t+1) - Delta_t + S_t - S_(t+1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Delta, Dense, LowRank, Request, UserError
from edit_robust.core.delta import Term, joined
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, Piece, State, refuse_nonfinite
from edit_robust.editors.language.helpers.contexts import Groups
from edit_robust.editors.language.helpers.family import Given
from edit_robust.editors.language.helpers.spectrum import excess, largest_singular_value
from edit_robust.editors.language.memit import Memit
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task

#: A change is handed on as factors while they are at most this share of the matrix's smaller side, else as a matrix.
_FACTORED = 0.25


@dataclass
class _Latest:
    """What F took away after the newest edit, kept so that it need not be computed twice."""

    pieces: int = 0
    newest: Piece = field(default_factory=dict)
    taken: Mapping[str, LowRank] = field(default_factory=dict)


@dataclass(frozen=True)
class PruneGiven(Given):
    """tops: the largest singular value of every edited weight before any edit, by the parameter's name."""

    tops: Mapping[str, float]
    latest: _Latest


@dataclass(kw_only=True, eq=False, repr=False)
class Prune(Memit):
    """MEMIT in a sequence whose total change is pruned.

    log_base: b, the base of the logarithm: the larger, the smaller what is left of large singular values.
    mode: `corrected` is the paper's W0 + F(Delta). `public` is W0 + Delta + F(Delta), which the closing block of the
        code behind several papers' figures computes: it adds F(Delta) where it should put it in Delta's place.
    The other options are MEMIT's.
    """

    name: str = "prune"
    log_base: float = math.e
    mode: Literal["corrected", "public"] = "corrected"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.log_base > 1:
            raise UserError(f"editor.log_base={self.log_base} must be above 1: it is the base of a logarithm")

    def given(
        self,
        model: CausalLM,
        groups: Groups,
        moments: dict[str, Float[Tensor, "d_in d_in"]],
        task: Task,
        work: Workspace,
    ) -> PruneGiven:
        layers = [model.layers[n] for n in moments]  # read first: they are taken out
        made = super().given(model, groups, moments, task, work)
        tops = {layer.weight_name: largest_singular_value(layer.matrix()) for layer in layers}
        for name, top in tops.items():
            if not top > 0:
                raise UserError(f"{self.name} holds changes to the size of the weights, and those of {name} are all 0")
        return PruneGiven(made.groups, made.inverses, tops, _Latest())

    def edit(self, model: CausalLM, requests: Sequence[Request], state: State[PruneGiven]) -> Edit:
        with self._unpruned(model, state):
            made = super().edit(model, requests, state)
        return self._pruned(model, made, state)

    def edit_each(self, model: CausalLM, requests: Sequence[Request], state: State[PruneGiven]) -> list[Edit]:
        with self._unpruned(model, state):
            made = super().edit_each(model, requests, state)
        return [self._pruned(model, edit, state) for edit in made]

    @contextmanager
    def _unpruned(self, model: CausalLM, state: State[PruneGiven]) -> Iterator[None]:
        """Inside the block the model stands at W0 + Delta, where the next edit is made."""
        with model.held(state.changes(model)):
            taken = self._taken(model, state.carried, state)
            if taken and self.mode == "public":  # the model stands at W0 + 2 Delta - S
                taken = {n: joined([s, _total(model, state.carried, n).scale(-1.0)]) for n, s in taken.items()}
            if taken:
                model.add(Delta(taken, model.position))
            yield

    def _pruned(self, model: CausalLM, made: Edit, state: State[PruneGiven]) -> Edit:
        """The change from where the model stands to where it shall stand after an edit of the unpruned weights."""
        if made.refused:
            return Edit(Delta({}, model.position, made.delta.info), made.info)
        new = {n: t for n, t in made.delta.terms.items() if isinstance(t, LowRank)}
        piece = {f"{n}|{side}": x.cpu().contiguous() for n, t in new.items() for side, x in t.tensors().items()}
        before = self._taken(model, state.carried, state)
        after = self._taken(model, [*state.carried, piece], state)
        times = 2.0 if self.mode == "public" else 1.0
        terms: dict[str, Term] = {}
        for name, term in new.items():
            gone = [before[name]] if before else []
            terms[name] = _compact(joined([term.scale(times), *gone, after[name].scale(-1.0)]))
        delta = Delta(terms, model.position)
        above = sum(t.rank for t in after.values())
        info = {"delta_norm": delta.norm(), "pruned_directions": float(above)}
        return refuse_nonfinite(Edit(delta, [{**i, **info} for i in made.info], piece))

    def _taken(self, model: CausalLM, pieces: Sequence[Piece], state: State[PruneGiven]) -> Mapping[str, LowRank]:
        """S of every weight, by name, for the sum of some edits; nothing where there are none."""
        if not len(pieces):
            return {}
        latest = state.given.latest
        if latest.pieces != len(pieces) or not _same(latest.newest, pieces[-1]):
            tops = state.given.tops
            latest.taken = {n: excess(_total(model, pieces, n), top, self.log_base)[0] for n, top in tops.items()}
            latest.pieces, latest.newest = len(pieces), pieces[-1]
        return latest.taken


def _total(model: CausalLM, pieces: Sequence[Piece], name: str) -> LowRank:
    """The sum of the edits of a weight, on its device."""
    u, v = (torch.cat([p[f"{name}|{side}"] for p in pieces], 1) for side in ("u", "v"))
    return LowRank(u, v).on(model.param(name).device)


def _same(a: Piece, b: Piece) -> bool:
    """Whether two pieces are the same memory, not only equal."""
    return a.keys() == b.keys() and all(a[k].data_ptr() == b[k].data_ptr() for k in a)


def _compact(term: LowRank) -> Term:
    """The same change as a matrix, where its factors are not small beside one."""
    if term.rank <= _FACTORED * min(term.shape):
        return term
    return Dense((term.u.double() @ term.v.double().T).float())
