"""Several changes of one model made into one: edits upon edits, task arithmetic, TIES; and LiNeS, which scales a change
by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from edit_robust.core.delta import Delta, Dense, LowRank, Term, few
from edit_robust.core.editable import Editable, Snapshot, stepped
from edit_robust.core.errors import UserError

#: Bytes of factors that a walk keeps.
_KEPT = 64 << 20


class SoFar:
    """W - W0 along a walk: the sum of the edits' factors for as long as they are few, else the difference of weights.

    A difference takes the memory of the matrices; with factors a network is asked in a small part of the time.
    before: what the parameters were where the walk began; the model stands there.
    """

    def __init__(self, model: Editable, before: Snapshot) -> None:
        self.model, self.before, self._position = model, before, before.position
        exact = all(value.dtype == torch.float32 for value in before.values.values())  # others round at each edit
        self._made: list[Delta] | None = [] if exact else None
        self._ranks: dict[str, int] = {}
        self._bytes = 0

    def add(self, delta: Delta) -> None:
        """An edit was made, and the model stands behind it; or weights were put there in its place."""
        if self._made is None:
            return
        here = self.model.position
        enough = all(self._still_few(name, term) for name, term in delta.terms.items())
        moved = enough and here == stepped(self._position, delta)
        if moved or (here == self._position and not delta.terms):
            self._made.append(delta)
            self._position = here
        else:
            self._made = None

    def _still_few(self, name: str, term: Term) -> bool:
        self._ranks[name] = self._ranks.get(name, 0) + (term.rank if isinstance(term, LowRank) else min(term.shape))
        self._bytes += sum(x.numel() * x.element_size() for x in term.tensors().values())
        return few(self._ranks[name], term.shape) and self._bytes <= _KEPT

    def change(self) -> Delta:
        """W - W0 where the model stands."""
        made = [d for d in self._made or () if d.terms]
        return Delta(Delta.chain(made).terms, self.before.position) if made else self.model.difference(self.before)


def task_arithmetic(deltas: Sequence[Delta]) -> Delta:
    """The sum of the changes (Ilharco et al., arXiv 2212.04089). Small factors stay factors.

    UserError where the changes were made at different weights, and where there are none.
    """
    _same_base(deltas)
    return Delta(Delta.chain(list(deltas)).terms, deltas[0].base)


def ties(deltas: Sequence[Delta], density: float = 0.2) -> Delta:
    """TIES: trim, elect a sign, merge what agrees with it (Yadav et al., arXiv 2306.01708, section 3).

    Of every change the largest `density` of all its elements are kept (across parameters); each element's sign is that
    of the sum of what is left; the elements of that sign are averaged over the changes that have one. Dense.
    UserError for a density outside of (0, 1], and as `task_arithmetic`.
    """
    if not 0 < density <= 1:
        raise UserError(f"trajectory.density={density} must be above 0 and at most 1")
    _same_base(deltas)
    trimmed = [_trimmed(d, density) for d in deltas]
    terms = {}
    for name in dict.fromkeys(n for t in trimmed for n in t):
        stack = torch.stack([t[name] for t in trimmed if name in t])
        sign = torch.sign(stack.sum(0))
        agree = (torch.sign(stack) == sign) & (sign != 0)
        count = agree.sum(0).clamp_min(1)
        terms[name] = Dense((stack * agree).sum(0) / count)
    return Delta(terms, deltas[0].base)


def _trimmed(delta: Delta, density: float) -> dict[str, torch.Tensor]:
    """Each term as a matrix in which all but the largest elements of the whole change are zero."""
    dense = {n: t.dense() for n, t in delta.terms.items()}
    if not dense:
        return {}
    sizes = torch.cat([m.abs().reshape(-1) for m in dense.values()])
    keep = max(1, round(density * len(sizes)))
    least = torch.topk(sizes, keep).values[-1]
    return {n: torch.where(m.abs() >= least, m, torch.zeros_like(m)) for n, m in dense.items()}


def lines(delta: Delta, depth: Mapping[str, float], low: float, high: float = 1.0) -> Delta:
    """LiNeS: a parameter's change times low + (high - low) * depth (Wang et al., arXiv 2410.17146).

    depth: from 0 (the first layer, which serves everything) to 1 (the last one, which serves the task), by parameter.
    """
    terms = {n: t.scale(low + (high - low) * depth[n]) for n, t in delta.terms.items()}
    return Delta(terms, delta.base, delta.info)


def depths(names: Sequence[str], prefixes: Sequence[str], behind: Sequence[str]) -> dict[str, float]:
    """How deep parameters lie, from 0 to 1.

    prefixes: of the blocks' parameters, in the blocks' order.   behind: parameters that act after the last block's
    layer. A parameter of block i of n lies at i / (n - 1), one behind all blocks at 1, any other (a stem, embeddings)
    at 0.
    """
    last, after = max(len(prefixes) - 1, 1), set(behind)
    found = {}
    for name in names:
        inside = [i for i, p in enumerate(prefixes) if name.startswith(p)]
        found[name] = inside[-1] / last if inside else float(name in after)
    return found


def _same_base(deltas: Sequence[Delta]) -> None:
    if not deltas:
        raise UserError("there are no changes to combine")
    if len({d.base for d in deltas}) > 1:
        raise UserError("changes that were made at different weights cannot be combined")
