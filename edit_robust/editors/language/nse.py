"""NSE (Jiang et al. 2024, arXiv 2410.04045): values of the unedited model, written where neurons are most active.

z of every request is optimised on the unedited model, however far the sequence has come. An edit makes passes over the
layers. A pass takes the requests with alpha < ||z - h|| < ub, h being the output of the last edited block before it. It
writes them as MEMIT-Seq does, into the inputs S of each projection alone ("neurons"): the most active ones, by sum |k|
over these requests, up to a share p of all activity,

    dW[:, S] = R K_S^T (lambda C_SS + (K_p K_p^T)_SS + K_S K_S^T)^-1,     dW = 0 elsewhere.

Past keys K_p are those of all requests of an edit, read after its last pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edit_robust.core import Delta, LowRank, Request, UserError
from edit_robust.core.delta import Term, joined
from edit_robust.core.editable import Snapshot
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, check_numbers, refuse_nonfinite
from edit_robust.editors.language.helpers.contexts import Groups
from edit_robust.editors.language.helpers.family import Climb, LayerProblem, Read, bare_and_mean_keys
from edit_robust.editors.language.helpers.moments import Inverse
from edit_robust.editors.language.helpers.past import Past, Scaled
from edit_robust.editors.language.helpers.remembering import GivenPast, RememberingEditor
from edit_robust.editors.language.helpers.signs import key_signs, over_layers
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task


@dataclass(frozen=True)
class NseGiven(GivenPast):
    """original: the edited layers' weights before any edit."""

    original: Snapshot


@dataclass(kw_only=True, eq=False, repr=False)
class Nse(RememberingEditor):
    """Neuron-level sequential editing.

    alpha: a request whose block output is within this distance of its value is left alone, and so is one beyond `ub`
        (null: none is): both depend on the size of the model's residual stream.
    p: the share of all activity that the chosen neurons stand for; 1 takes all neurons.
    max_iterations: the last one only looks, so that there are at most max_iterations - 1 passes.
    mom2_update_weight: lambda, the weight of what the layer already holds against new and past facts.
    The other options are those of `LayerEditor`.
    """

    name: str = "nse"
    mom2_update_weight: float = 15000.0
    alpha: float = 0.0
    ub: float | None = None
    p: float = 1.0
    max_iterations: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers({"mom2_update_weight": self.mom2_update_weight}, {"alpha": self.alpha})
        if self.ub is not None and not self.ub > self.alpha:
            raise UserError(f"editor.ub={self.ub} must be above editor.alpha={self.alpha}: no request could be written")
        if not 0 < self.p <= 1:
            raise UserError(f"editor.p={self.p} must be above 0 and at most 1: a share of the neurons' activity")
        if self.max_iterations < 2:
            raise UserError(f"editor.max_iterations={self.max_iterations} must be at least 2: the last one only looks")

    def pasts(
        self, moments: dict[str, Float[Tensor, "d_in d_in"]], inverses: Mapping[str, Inverse], work: Workspace
    ) -> Mapping[str, Past]:
        """Solves with lambda C."""
        return {n: Past(Scaled(inverses[n], self.mom2_update_weight), n, c.device) for n, c in moments.items()}

    def given(
        self,
        model: CausalLM,
        groups: Groups,
        moments: dict[str, Float[Tensor, "d_in d_in"]],
        task: Task,
        work: Workspace,
    ) -> NseGiven:
        made = super().given(model, groups, moments, task, work)
        original = model.snapshot(model.layers[n].weight_name for n in moments)
        return NseGiven(made.groups, made.inverses, made.pasts, original)

    def targets(
        self, model: CausalLM, requests: Sequence[Request], state: State[NseGiven]
    ) -> tuple[Float[Tensor, "n d"], list[dict[str, float]]]:
        """z of every request in the unedited model."""
        with model.at(state.given.original):
            return super().targets(model, requests, state)

    def factors(self, problem: LayerProblem, state: State[NseGiven]) -> Float[Tensor, "d_in n"]:
        past = state.given.pasts[problem.layer.name]
        k = past.coordinates(problem.keys)
        if self.p == 1:
            return past.solve(state.carried, k)
        some = most_active(k, self.p)
        known = past.grown(state.carried, k)
        kept, new = known.keys[some], k[some]
        m = known.base.matrix()[some][:, some] + kept @ kept.T + new @ new.T
        found = torch.zeros_like(k)
        found[some] = torch.cholesky_solve(new, torch.linalg.cholesky(m))
        return found

    def spread(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        targets: Float[Tensor, "n d"],
        infos: list[dict[str, float]],
        state: State[Any],
        first: Read | None = None,
    ) -> Edit:
        base, passes = model.position, [0] * len(requests)
        climbs: list[Climb] = []
        distance = before = self._distance(model, requests, targets, state)
        with model.held(state.changes(model)):
            for i in range(self.max_iterations - 1):
                some = self._due(distance)
                if not some:
                    break
                begun = None if i or len(some) < len(requests) else first
                climbs.append(self.climb(model, [requests[i] for i in some], targets[some], state, begun))
                passes = [n + (i in some) for i, n in enumerate(passes)]
                if not Delta(climbs[-1].terms).finite():
                    break
                distance = self._distance(model, requests, targets, state)
            keys = {n: bare_and_mean_keys(model, n, requests, state.given.groups) for n in state.layers}
        told = [{"value_distance": float(d), "passes": float(n)} for d, n in zip(before, passes, strict=True)]
        return self._of_passes(model, climbs, keys, [{**i, **t} for i, t in zip(infos, told, strict=True)], base, state)

    def side_by_side(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        targets: Float[Tensor, "n d"],
        infos: list[dict[str, float]],
        state: State[Any],
    ) -> list[Edit]:
        """Pass by pass, those that are not close enough yet."""
        climbs: list[list[Climb]] = [[] for _ in requests]
        written: list[dict[str, Term]] = [{} for _ in requests]
        distance = before = self._distance(model, requests, targets, state)
        going = list(range(len(requests)))
        for _ in range(self.max_iterations - 1):
            going = [going[k] for k in self._due(distance)]
            if not going:
                break
            some, begun = [requests[j] for j in going], [written[j] for j in going]
            made = self.climb_each(model, some, targets[going], state, begun)
            for j, climb in zip(going, made, strict=True):
                climbs[j].append(climb)
            going = [j for j in going if Delta(climbs[j][-1].terms).finite()]
            if not going:
                break
            with model.each_under([written[j] for j in going]):
                distance = self._distance(model, [requests[j] for j in going], targets[going], state)
        with model.each_under(written):
            keys = {n: bare_and_mean_keys(model, n, requests, state.given.groups) for n in state.layers}
        edits = []
        for j, info in enumerate(infos):
            own = {n: (bare[j : j + 1], mean[j : j + 1]) for n, (bare, mean) in keys.items()}
            told = {"value_distance": float(before[j]), "passes": float(len(climbs[j]))}
            edits.append(self._of_passes(model, climbs[j], own, [{**info, **told}], model.position, state))
        return edits

    def _of_passes(
        self,
        model: CausalLM,
        climbs: Sequence[Climb],
        keys: Mapping[str, tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_in"]]],
        infos: Sequence[Mapping[str, float]],
        base: str,
        state: State[Any],
    ) -> Edit:
        """The edit that some passes make of a model that stands at `base`. keys: after the last pass, by layer name."""
        names = [model.layers[n].weight_name for n in state.layers]
        terms = {n: _all_passes([c.terms[n] for c in climbs if n in c.terms], model.matrix(n)) for n in names}
        delta = Delta(terms, base)
        signs = over_layers({n: key_signs(*k, state.given.inverses[n]) for n, k in keys.items()}, len(infos))
        info = [{**i, **s, "delta_norm": delta.norm()} for i, s in zip(infos, signs, strict=True)]
        return refuse_nonfinite(Edit(delta, info, {n: mean for n, (_, mean) in keys.items()}))

    def _distance(
        self, model: CausalLM, requests: Sequence[Request], targets: Float[Tensor, "n d"], state: State[Any]
    ) -> Float[Tensor, " n"]:
        """||z - h|| of every request, with h as the model now has it."""
        return self.residual(model, requests, targets, state, 1).norm(dim=1)

    def _due(self, distance: Float[Tensor, " n"]) -> list[int]:
        """The requests to write in this pass. Those that are not numbers are, so that their edit is refused."""
        ub = float("inf") if self.ub is None else self.ub
        return [i for i, d in enumerate(distance.tolist()) if not (d <= self.alpha or d >= ub)]


def most_active(keys: Float[Tensor, "d_in n"], p: float) -> Int[Tensor, " s"]:
    """The most active inputs whose activities, sum |k| over the keys, make up no more than p of all; at least one."""
    activity = keys.abs().sum(1)
    sizes, order = activity.sort(descending=True, stable=True)
    n = int((sizes.cumsum(0) <= p * sizes.sum()).sum())
    return order[: max(n, 1)]


def _all_passes(parts: Sequence[Term], w: Float[Tensor, "d_out d_in"]) -> LowRank:
    """The sum of what several passes have written, as factors; of rank 0 where there was none."""
    found = [LowRank(*(w.new_zeros(size, 0, dtype=torch.float32) for size in w.shape))]
    for part in parts:
        assert isinstance(part, LowRank)
        found.append(part)
    return joined(found)
