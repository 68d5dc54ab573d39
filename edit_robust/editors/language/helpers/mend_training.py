"""How MEND's hypernetwork is trained (Mitchell et al. 2022, as the public code does it).

An iteration is an edit of `n_edits` requests and `n_loc` texts about something else. With W~ the edited weights

    loss = c_edit * (-log p of the targets after a rephrasing, at W~)  +  c_loc * KL(p at W || p at W~)

The edit's factors come from one backward pass at the unedited weights and are constants: no second-order terms. The
gradient of the loss over `accumulation`, summed over as many iterations (one more before the first step), is clipped to
a norm of `grad_clip` over networks and rates together and goes to Adam. Between two steps nothing depends on the order
but the statistics, so that all iterations of a step are run side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edit_robust.editors.helpers.reproducible import reproducible
from edit_robust.editors.language.helpers.edited_passes import Change, EditedPasses, Store
from edit_robust.editors.language.helpers.factors import Text, factors_of, together
from edit_robust.editors.language.helpers.hypernetwork import Hypernetwork, Shape, ShapeNetwork, Statistics, Tokens
from edit_robust.models.language.causal_lm import CausalLM


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of the training, see `Mend`."""

    rank: int
    n_hidden: int
    lr: float
    lr_lr: float
    edit_lr: float
    c_edit: float
    c_loc: float
    accumulation: int
    grad_clip: float
    n_edits: int
    n_loc: int
    loc_tokens: int
    locality_dataset: str
    locality_n_samples: int
    max_iterations: int
    validate_every: int
    n_validation: int
    n_val_loc: int
    patience: int


@dataclass(frozen=True)
class Material:
    """What is trained on: the requests' own texts, their rephrasings (one or more each), and locality texts."""

    edits: Sequence[Text]
    rephrasings: Sequence[Sequence[Text]]
    locality: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Iteration:
    """Indices into the material: requests, which rephrasing of each, locality texts."""

    edits: tuple[int, ...]
    rephrasings: tuple[int, ...]
    locality: tuple[int, ...]


@dataclass(frozen=True)
class Losses:
    """Of some iterations: -log p of the rephrasings' targets and KL, each a value an iteration, in nats."""

    edit: Tensor
    locality: Tensor


class Training:
    """A hypernetwork under training.

    hypernetwork: at the start; its tensors are copied.   material: texts of the training and of the validation.
    skipped: iterations whose gradient was not finite and so was left out.
    """

    def __init__(self, model: CausalLM, hypernetwork: Hypernetwork, material: Material, recipe: Recipe) -> None:
        self.model, self.material, self.recipe = model, material, recipe
        device = hypernetwork.targets[0].layer.weight.device
        found = hypernetwork.to(device)
        networks = {
            shape: ShapeNetwork({n: _leaf(t) for n, t in net.parameters.items()}, net.statistics)
            for shape, net in found.networks.items()
        }
        self.hypernetwork = replace(found, networks=networks, rates=_leaf(found.rates))
        self.passes = EditedPasses(model, hypernetwork.targets, Store(model.cache_gb))
        own = [p for net in networks.values() for p in net.parameters.values()]
        groups = [{"params": own, "lr": recipe.lr}, {"params": [self.hypernetwork.rates], "lr": recipe.lr_lr}]
        self.optimiser = torch.optim.Adam(groups, foreach=False)
        self.skipped = 0

    @property
    def parameters(self) -> list[Tensor]:
        """Everything that learns, the rates last."""
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    # -- iterations ------------------------------------------------------------------------------------------------

    def accumulate(self, iterations: Sequence[Iteration]) -> Losses:
        """Add the gradients of some iterations, and let the statistics follow what they see."""
        edits = self._seen(iterations)
        statistics, after = self.hypernetwork.follow(edits, self.hypernetwork.statistics)
        found = []
        with reproducible(self.model.device):
            for part in self._parts(iterations):
                some = [iterations[i] for i in part]
                with_these = [statistics[i] for i in part]
                found.append(self._add_gradients(some, [edits[i] for i in part], with_these))
        self.hypernetwork = self.hypernetwork.with_statistics(after)
        return Losses(torch.cat([f.edit for f in found]), torch.cat([f.locality for f in found]))

    def step(self) -> float:
        """One step of Adam on what was accumulated. -> the gradient's norm before it was clipped"""
        for p in self.parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.grad_clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(norm)

    @torch.no_grad()
    def evaluate(self, iterations: Sequence[Iteration]) -> Losses:
        """Losses with the statistics frozen, without learning from them."""
        found = []
        for part in self._parts(iterations):
            some = [iterations[i] for i in part]
            changes = self._changes(self._seen(some), None)
            found.append(self._losses(some, changes))
        return Losses(torch.cat([f.edit for f in found]), torch.cat([f.locality for f in found]))

    def total(self, losses: Losses) -> Tensor:
        """c_edit * edit + c_loc * locality, for each iteration."""
        return self.recipe.c_edit * losses.edit + self.recipe.c_loc * losses.locality

    def _add_gradients(
        self, some: Sequence[Iteration], edits: Sequence[Change], statistics: Sequence[Mapping[str, Statistics]]
    ) -> Losses:
        losses = self._losses(some, self._changes(edits, statistics))
        wanted = self.total(losses).sum() / self.recipe.accumulation
        gradients = torch.autograd.grad(wanted, self.parameters)
        if all(bool(torch.isfinite(g).all()) for g in gradients):
            for p, g in zip(self.parameters, gradients, strict=True):
                p.grad = g if p.grad is None else p.grad + g
        elif len(some) == 1:
            self.skipped += 1
        else:  # the others shall not be lost with it
            alone = [
                self._add_gradients(some[i : i + 1], edits[i : i + 1], statistics[i : i + 1]) for i in range(len(some))
            ]
            return Losses(torch.cat([a.edit for a in alone]), torch.cat([a.locality for a in alone]))
        return Losses(losses.edit.detach(), losses.locality.detach())

    def _changes(self, edits: Sequence[Change], statistics: Sequence[Mapping[str, Statistics]] | None) -> list[Change]:
        """The factors of each edit's change, its rates included."""
        found = self.hypernetwork.transform(edits, statistics)
        rates = dict(zip((t.name for t in self.hypernetwork.targets), self.hypernetwork.rates, strict=True))
        return [{name: t.scale(rates[name]) for name, t in one.items()} for one in found]

    def _losses(self, some: Sequence[Iteration], changes: Sequence[Change]) -> Losses:
        texts = [self.material.rephrasings[e][r] for i in some for e, r in zip(i.edits, i.rephrasings, strict=True)]
        others = [self.material.locality[k] for i in some for k in i.locality]
        return Losses(self.passes.nll(texts, changes), self.passes.divergence(others, changes))

    def _seen(self, iterations: Sequence[Iteration]) -> list[dict[str, Tokens]]:
        """What each iteration's edit sees at the unedited weights, from one backward pass for all of them."""
        texts = [self.material.edits[e] for i in iterations for e in i.edits]
        found = iter(factors_of(self.model, texts, self.hypernetwork.targets))
        return [together([next(found) for _ in i.edits]) for i in iterations]

    def _parts(self, iterations: Sequence[Iteration]) -> list[list[int]]:
        """Indices of iterations, in parts whose padded texts fit into a batch of the model."""
        longest = max(max(len(self.material.locality[k]) for k in i.locality) * len(i.locality) for i in iterations)
        some = max(1, self.model.batch_tokens // longest)
        return [list(range(i, min(i + some, len(iterations)))) for i in range(0, len(iterations), some)]

    # -- between two steps everything that later ones depend on ------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Parameters, Adam's moments and statistics, by name."""
        found = {f"parameter/{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, p in enumerate(self.parameters):
            found |= {f"adam/{i}/{name}": t for name, t in self.optimiser.state.get(p, {}).items()}
        return found

    @torch.no_grad()
    def put_state(self, found: Mapping[str, Tensor], statistics: Mapping[Shape, Statistics]) -> None:
        """Go on from what `state` gave."""
        for i, p in enumerate(self.parameters):
            p.copy_(found[f"parameter/{i}"])
            own = {n.rpartition("/")[2]: t for n, t in found.items() if n.startswith(f"adam/{i}/")}
            if own:
                self.optimiser.state[p] = {
                    name: t.clone() if name == "step" else t.to(p.device, copy=True) for name, t in own.items()
                }
        self.hypernetwork = self.hypernetwork.with_statistics(statistics)


def _leaf(tensor: Any) -> Tensor:
    return tensor.detach().clone().requires_grad_(True)
