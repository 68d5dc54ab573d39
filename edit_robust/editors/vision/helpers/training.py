"""Gradient descent on a classifier's weights, and the choice of a learning rate.

Settings as in arXiv 2303.00046, appendix D.2: SGD with momentum .9, weight decay 1e-4 on parameters whose name holds
"weight", frozen running statistics, a grid of learning rates, a stop when the accuracy of selection falls below half
its best, and the weights with the best accuracy kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edit_robust.core import Delta
from edit_robust.editors.vision.helpers.features import LabelledFeatures, accuracy, slices
from edit_robust.editors.vision.helpers.options import Training
from edit_robust.editors.vision.helpers.selection import Selection
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import SplitNetwork

Rows = Tensor | slice

CLIP = 1.0  # of the gradient's norm, in PAINT's recipe

#: Mean loss over some of the pairs at the present weights, with its gradient.
Loss = Callable[[Rows], Tensor]


@dataclass(frozen=True)
class Objective:
    """What is trained, and for what.

    names: parameters to train.   loss: their mean loss over rows of the pairs.   train: the training images x', whose
    accuracy is reported.   after_step: called with the number of each step (from 1) when it is done.
    """

    network: SplitNetwork
    names: tuple[str, ...]
    loss: Loss
    train: LabelledFeatures
    selection: Selection
    after_step: Callable[[int], None] | None = None


@dataclass(frozen=True)
class Fit:
    """The weights that one learning rate led to, as a change.

    step: at which they were taken.   loss, train_accuracy: on the training pairs.   accuracy: on the images of
    selection, NaN where there are none.   within: whether the clean images' accuracy dropped by no more than allowed.
    """

    delta: Delta
    lr: float
    step: int
    loss: float
    accuracy: float
    train_accuracy: float
    within: bool

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Larger is better: accuracy (without one, the loss); of changes that are equally good, the smaller one."""
        return self.within, -self.loss if math.isnan(self.accuracy) else self.accuracy, -self.delta.norm()

    @property
    def info(self) -> dict[str, float]:
        """The numbers of the fit that are finite, by the names they are recorded under."""
        found = {
            "edit_loss": self.loss,
            "edit_steps": float(self.step),
            "lr": self.lr,
            "search_accuracy": self.accuracy,
            "train_accuracy": self.train_accuracy,
            "delta_norm": self.delta.norm(),
        }
        return {k: v for k, v in found.items() if math.isfinite(v)}


def search(model: Classifier, objective: Objective, training: Training, generator: torch.Generator) -> Fit | None:
    """The best fit of all learning rates; None where every one of them diverges. The model is left as found."""
    best: Fit | None = None
    start = generator.get_state()
    steps = steps_of(objective, training)
    with model.progress(training.title, steps * len(training.lrs)) as advance:
        for lr in training.lrs:
            generator.set_state(start)  # every learning rate sees the same batches
            left = [steps]

            def stepped(left: list[int] = left) -> None:
                left[0] -= 1
                advance(1)

            with model.scratch(objective.names):
                fit = train(model, objective, training, lr, generator, stepped)
            advance(left[0])  # what a rate that was stopped early does not take
            if fit is not None and (best is None or fit.rank > best.rank):
                best = fit
    return best


def steps_of(objective: Objective, training: Training) -> int:
    """Steps of one learning rate that is not stopped early."""
    n = len(objective.train)
    return training.epochs * math.ceil(n / (training.batch_size or n))


def train(
    model: Classifier,
    objective: Objective,
    training: Training,
    lr: float,
    generator: torch.Generator,
    stepped: Callable[[], None] = lambda: None,
) -> Fit | None:
    """Train with one learning rate; None when loss or weights stop being finite. Inside `scratch` only.

    stepped: called after every step.
    """
    params = {n: model.param(n) for n in objective.names}
    before = model.snapshot(objective.names)
    if lr > torch.finfo(model.dtype).max / 1e3:  # the optimisers themselves could not count with it
        return None
    n, size = len(objective.train), training.batch_size or len(objective.train)
    steps = steps_of(objective, training)
    optimiser, rate = _optimiser(params, training, lr, steps)
    chosen = objective.selection
    top, kept, kept_step, rank = chosen.at_start, None, 0, (False, -1.0)
    for step, rows in enumerate(_batches(n, size, training.epochs, generator), start=1):
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        optimiser.zero_grad(set_to_none=True)
        if not math.isfinite(_backward(model, objective.loss, rows, n)):
            return None
        if training.optimizer == "paint":
            torch.nn.utils.clip_grad_norm_(list(params.values()), CLIP)
        optimiser.step()
        if objective.after_step:
            objective.after_step(step)
        stepped()
        if step % training.check_every and step < steps:
            continue
        if not all(bool(torch.isfinite(p).all()) for p in params.values()):
            return None
        now, within = _accuracies(model, objective.network, chosen, training)
        if chosen.edited is None or (within, now) > rank:
            rank, kept_step = (within, now), step
            kept = {k: p.detach().clone() for k, p in params.items()}
        top = max(top, now)
        if now < top / 2 or training.given_up(step, kept_step):
            break
    assert kept is not None  # weights are compared at the last step in any case
    with torch.no_grad():
        for k, value in kept.items():
            params[k].copy_(value)
        loss = _mean_loss(model, objective, n)
    if not math.isfinite(loss):
        return None
    found = rank[1] if chosen.edited else math.nan
    train_accuracy = accuracy(model, objective.network, objective.train)
    return Fit(model.difference(before), lr, kept_step, loss, found, train_accuracy, rank[0])


def _accuracies(model: Classifier, network: SplitNetwork, chosen: Selection, training: Training) -> tuple[float, bool]:
    """Accuracy on the edited images of selection, and whether the clean ones keep theirs."""
    if chosen.edited is None:
        return math.nan, True
    within = chosen.clean is None or chosen.clean_at_start - accuracy(model, network, chosen.clean) <= (
        training.max_drop or 0
    )
    return accuracy(model, network, chosen.edited), within


def _mean_loss(model: Classifier, objective: Objective, n: int) -> float:
    """The loss over all pairs, in parts that fit into memory."""
    parts = list(slices(n, model.batch_size))
    return sum(float(objective.loss(s)) * (s.stop - s.start) for s in parts) / n


def _backward(model: Classifier, loss: Loss, rows: Rows, n: int) -> float:
    """Gradient of the mean loss over the rows, in parts that fit into memory. -> the loss"""
    size = n if isinstance(rows, slice) else len(rows)
    total = 0.0
    for s in slices(size, model.batch_size):
        part = loss(s if isinstance(rows, slice) else rows[s]) * ((s.stop - s.start) / size)
        part.backward()
        total += float(part.detach())
    return total


def _batches(n: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[Rows]:
    """All pairs every time, or shuffled batches."""
    for _ in range(epochs):
        if size >= n:
            yield slice(0, n)
            continue
        yield from torch.randperm(n, generator=generator).split(size)


def _optimiser(
    params: dict[str, torch.nn.Parameter], training: Training, lr: float, steps: int
) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
    """The optimiser, and the learning rate of each step (from 1)."""
    decayed = [p for n, p in params.items() if "weight" in n]
    others = [p for n, p in params.items() if "weight" not in n]
    if training.optimizer == "paint":
        rest = max(steps - training.warmup, 1)

        def rate(step: int) -> float:
            if step <= training.warmup:
                return lr * step / training.warmup
            return lr * 0.5 * (1 + math.cos(math.pi * (step - 1 - training.warmup) / rest))

        return torch.optim.AdamW(params.values(), lr=lr, weight_decay=training.weight_decay), rate
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if training.optimizer == "adam":
        return torch.optim.Adam(groups, lr=lr), lambda step: lr
    return torch.optim.SGD(groups, lr=lr, momentum=training.momentum), lambda step: lr
