"""Many optimisations of a layer's low-rank change at once: all learning rates from all starts, side by side.

A run is one learning rate from one start. Runs do not touch each other: they are stacked along the batch, and a run
that is over leaves it. A step of g runs is two small products (see `taps`) and the blocks above on g times the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from edit_robust.core import Delta, Layer, LowRank
from edit_robust.core.work import ShowProgress, silent
from edit_robust.editors.helpers.adam import Adam
from edit_robust.editors.vision.helpers.features import LabelledFeatures, correct, slices
from edit_robust.editors.vision.helpers.options import Training
from edit_robust.editors.vision.helpers.selection import Selection
from edit_robust.editors.vision.helpers.taps import add_changes, expand_to_taps, sum_taps
from edit_robust.editors.vision.helpers.training import Fit
from edit_robust.models.vision.split import Features, SplitNetwork

ELEMENTS = 1 << 21  # activations of the edited layer that are computed side by side: more do not fit into the cache
Starts = tuple[Float[Tensor, "s d_out r"], Float[Tensor, "s c_in r"]]  # U and V of every start


@dataclass(frozen=True)
class LayerInputs:
    """Images at the edited layer: features, the unchanged layer's output, and its input summed over the taps."""

    features: Features
    unchanged: Tensor
    summed: Float[Tensor, "n c_in p"]

    @staticmethod
    @torch.no_grad()
    def of(layer: Layer, features: Features, at_once: int) -> LayerInputs:
        """From features of a network that is split at the layer, `at_once` images at a time."""
        parts = [features.input[s] for s in slices(len(features), at_once)]
        return LayerInputs(
            features,
            torch.cat([layer.module(p) for p in parts]),
            torch.cat([sum_taps(layer, p) for p in parts]),
        )

    def take(self, rows: slice) -> LayerInputs:
        """The same for some of the images."""
        return LayerInputs(self.features.take(rows), self.unchanged[rows], self.summed[rows])

    def outputs(
        self, network: SplitNetwork, layer: Layer, u: Tensor, v: Tensor, until: nn.Module | None = None
    ) -> Tensor:
        """Logits, or the output of `until`, under each of g changes: [g, n, ...]."""
        out = add_changes(layer, self.unchanged, self.summed, u, v)
        after = network.suffix(self.features.repeat(len(u)), out, until)
        return after.reshape(len(u), -1, *after.shape[1:])

    @property
    def side_by_side(self) -> int:
        """How many changes are computed at once for these images."""
        return max(1, ELEMENTS // max(1, self.unchanged.numel()))


@dataclass(frozen=True)
class OutputTarget:
    """What the block that ends at `end` shall give for x': `target`, or its own output for x under the same change.

    edited: x' at the layer.   clean: x at the layer, where there is no fixed target.   weight: multiplies the
    difference (broadcast to it; None: 1).   power: 1 for the mean absolute error, 2 for the mean squared error.
    """

    edited: LayerInputs
    end: nn.Module
    target: Tensor | None
    clean: LayerInputs | None
    weight: Tensor | None = None
    power: int = 2

    def losses(self, network: SplitNetwork, layer: Layer, u: Tensor, v: Tensor) -> Float[Tensor, " g"]:
        """The loss of each change."""
        got = self.edited.outputs(network, layer, u, v, self.end)
        want = self.target if self.clean is None else self.clean.outputs(network, layer, u, v, self.end)
        assert want is not None
        difference = (got - want).float()
        if self.weight is not None:
            difference = difference * self.weight
        return (difference.abs() if self.power == 1 else difference.square()).flatten(1).mean(1)


@dataclass(frozen=True)
class LowRankProblem:
    """A low-rank change of `layer` to be found: what its block shall give, and what the best change is chosen by.

    network: split at the layer.   train: the images x' of `goal`, whose accuracy is reported.
    batch_size: images that run at once where no change multiplies them.
    """

    layer: Layer
    network: SplitNetwork
    goal: OutputTarget
    train: LabelledFeatures
    selection: Selection
    batch_size: int

    def losses(self, u: Tensor, v: Tensor) -> Float[Tensor, " g"]:
        """The loss of each change."""
        return self.goal.losses(self.network, self.layer, u, v)

    def gradients(self, u: Tensor, v: Tensor, train_v: bool) -> tuple[Float[Tensor, " g"], list[Tensor]]:
        """Losses, and their gradients by U (and V, where it is trained), in groups of changes that fit into memory."""
        losses, grads = [], []
        for s in slices(len(u), self.goal.edited.side_by_side):
            with torch.enable_grad():
                a, b = u[s].clone().requires_grad_(True), v[s].clone().requires_grad_(train_v)
                each = self.losses(a, b)
                grads.append(torch.autograd.grad(each.sum(), [a, b] if train_v else [a]))
            losses.append(each.detach())
        return torch.cat(losses), [torch.cat(g) for g in zip(*grads, strict=True)]

    def accuracies(self, inputs: LayerInputs, labels: Int[Tensor, " n"], u: Tensor, v: Tensor) -> Float[Tensor, " g"]:
        """Share of images that are classified right under each change."""
        found = []
        for s in slices(len(u), inputs.side_by_side):
            rows = max(1, ELEMENTS // max(1, inputs.unchanged[:1].numel()))  # of one change, should they be too many
            parts = [
                correct(
                    inputs.take(r).outputs(self.network, self.layer, u[s], v[s]),
                    labels[r].expand(s.stop - s.start, -1),
                )
                for r in slices(len(labels), rows)
            ]
            found.append(torch.cat(parts, 1).float().mean(1))
        return torch.cat(found)

    def at_layer(self, images: LabelledFeatures | None) -> LayerInputs | None:
        """Images of selection at the layer; None where there are none."""
        return None if images is None else LayerInputs.of(self.layer, images.features, self.batch_size)


class _Steps:
    """SGD with momentum, or Adam, of many runs that each have a learning rate [g, 1, 1]."""

    def __init__(self, training: Training, rate: Tensor, params: Sequence[Tensor]) -> None:
        self.training, self.rate, self.count = training, rate, 0
        adam = training.optimizer == "adam"
        self.adam = [Adam.like(p, rounding="fused") for p in params] if adam else []
        self.velocity = [] if adam else [torch.zeros_like(p) for p in params]

    def step(self, params: list[Tensor], grads: Sequence[Tensor]) -> None:
        self.count += 1
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            g = g + self.training.weight_decay * p
            if self.adam:
                p -= self.adam[i].move(g, self.count, self.rate)
            else:
                self.velocity[i].mul_(self.training.momentum).add_(g)
                p -= self.rate * self.velocity[i]

    def keep(self, runs: Tensor) -> None:
        """Go on with some of the runs."""
        self.rate, self.velocity = self.rate[runs], [t[runs] for t in self.velocity]
        for adam in self.adam:
            adam.keep(runs)


class _Runs:
    """The runs that go on (u, v, and their indices `active`), and what has been found of all of them.

    best_u, best_v: the best change of each run.   rank: (within the allowed drop, accuracy) of it, -1 before the first.
    at_step: the step that it was found at.   top: the highest accuracy seen.   diverged: whether numbers became
    infinite.
    """

    def __init__(self, problem: LowRankProblem, training: Training, starts: Starts) -> None:
        self.problem, self.training = problem, training
        n = len(training.lrs)
        self.u, self.v = (t.repeat(n, 1, 1) for t in starts)
        self.lrs = [lr for lr in training.lrs for _ in range(len(starts[0]))]
        self.rates = torch.tensor(self.lrs, dtype=torch.float64).clamp_max(1e38).to(starts[0])
        self.active = torch.arange(len(self.lrs), device=self.u.device)
        self.best_u, self.best_v = self.u.clone(), self.v.clone()
        self.rank = torch.full((len(self.lrs), 2), -1.0, device=self.u.device)
        self.at_step = [0] * len(self.lrs)
        self.diverged = self.rates > torch.finfo(self.u.dtype).max / 1e3
        self.top = torch.full((len(self.lrs),), problem.selection.at_start, device=self.u.device)
        self._edited, self._clean = (problem.at_layer(x) for x in (problem.selection.edited, problem.selection.clean))

    def note_losses(self, losses: Float[Tensor, " g"]) -> None:
        """A run whose loss is not finite has diverged."""
        self.diverged[self.active] |= ~torch.isfinite(losses)

    def compare(self, step: int) -> Tensor:
        """Keep the present changes that are the best of their runs so far. -> which of the active runs go on"""
        active = self.active
        self.diverged[active] |= ~(torch.isfinite(self.u).all((1, 2)) & torch.isfinite(self.v).all((1, 2)))
        now, within, better = self._accuracies()
        better &= ~self.diverged[active]
        best = active[better]
        self.best_u[best], self.best_v[best] = self.u[better], self.v[better]
        self.rank[best] = torch.stack([within, now], 1)[better]
        for i in best.tolist():
            self.at_step[i] = step
        self.top[active] = torch.fmax(self.top[active], now)
        given_up = torch.tensor([self.training.given_up(step, self.at_step[i]) for i in active.tolist()])
        return ~self.diverged[active] & ~(now < self.top[active] / 2) & ~given_up.to(active.device)

    def _accuracies(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the active runs: accuracy, whether the clean images keep theirs (1 or 0), whether both beat the best."""
        chosen, rank = self.problem.selection, self.rank[self.active]
        if chosen.edited is None or self._edited is None:
            return rank[:, 1], rank[:, 0], torch.ones_like(self.active, dtype=torch.bool)
        now = self.problem.accuracies(self._edited, chosen.edited.labels, self.u, self.v)
        within = torch.ones_like(now)
        if chosen.clean is not None and self._clean is not None:
            clean = self.problem.accuracies(self._clean, chosen.clean.labels, self.u, self.v)
            within = (chosen.clean_at_start - clean <= (self.training.max_drop or 0.0)).to(now)
        return now, within, (within > rank[:, 0]) | ((within == rank[:, 0]) & (now > rank[:, 1]))

    def keep(self, on: Tensor) -> None:
        """Let only some of the active runs go on."""
        self.active, self.u, self.v = self.active[on], self.u[on], self.v[on]

    def fit(self, i: int) -> Fit | None:
        """What run i has found; None where it has diverged."""
        if self.diverged[i] or not self.at_step[i]:
            return None
        problem, u, v = self.problem, self.best_u[i : i + 1], self.best_v[i : i + 1]
        loss = float(problem.losses(u, v))
        if loss != loss or loss == float("inf"):
            return None
        term = LowRank(u[0].float().clone(), expand_to_taps(problem.layer, v[0]).float())
        known = problem.selection.edited is not None
        return Fit(
            Delta({problem.layer.weight_name: term}),
            self.lrs[i],
            self.at_step[i],
            loss,
            float(self.rank[i, 1]) if known else float("nan"),
            float(problem.accuracies(problem.goal.edited, problem.train.labels, u, v)),
            not known or bool(self.rank[i, 0]),
        )


@torch.no_grad()
def optimise(
    problem: LowRankProblem, training: Training, starts: Starts, train_v: bool, progress: ShowProgress = silent
) -> list[Fit | None]:
    """Every learning rate of `training` from every start; None for a run that diverges.

    The same numbers, up to rounding, come from one run at a time. train_v: False keeps V fixed.
    """
    runs = _Runs(problem, training, starts)
    moved = [runs.u, runs.v] if train_v else [runs.u]
    steps = _Steps(training, runs.rates[:, None, None], moved)
    with progress(training.title, training.epochs) as advance:
        for step in range(1, training.epochs + 1):
            losses, grads = problem.gradients(runs.u, runs.v, train_v)
            runs.note_losses(losses)
            steps.step([runs.u, runs.v] if train_v else [runs.u], grads)
            advance(1)
            if step % training.check_every and step < training.epochs:
                continue
            on = runs.compare(step)
            if not bool(on.all()):
                runs.keep(on)
                steps.keep(on)
            if not len(runs.active):
                advance(training.epochs - step)
                break
    return [runs.fit(i) for i in range(len(runs.lrs))]


@torch.no_grad()
def clean_output(network: SplitNetwork, clean: LayerInputs, end: nn.Module) -> Tensor:
    """f_<=l(x), the output of the block that ends at `end`, at the present weights."""
    return network.suffix(clean.features, clean.unchanged, end)


def best_of(fits: Sequence[Fit | None]) -> Fit | None:
    """The best run, the first of equal ones."""
    found = [f for f in fits if f is not None]
    return max(found, key=lambda f: f.rank) if found else None
