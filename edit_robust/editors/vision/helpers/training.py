"""Gradient descent on a classifier's weights, and the choice of a learning rate.

Settings as in arXiv 2303.00046, appendix D.2: SGD with momentum .9, weight decay 1e-4 on parameters whose name holds
"weight", frozen running statistics, a grid of learning rates, a stop when the accuracy of selection falls below half
its best, and the weights with the best accuracy kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edit_robust.core import Delta, UserError
from edit_robust.editors.base import check_numbers
from edit_robust.editors.vision.helpers.pairs import Asked, Select, Selection, accuracy, spans
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import Spine

Rows = Tensor | slice

GRID = tuple(10.0**e for e in range(-5, 3))  # 1e-5 .. 100
CLIP = 1.0  # of the gradient, in PAINT's recipe


@dataclass(frozen=True)
class Training:
    """How weights are trained and which of them are kept.

    lrs: learning rates to choose among.   epochs: passes over the pairs, at most.   check_every: steps between looks at
    the selection.   max_drop: prefer weights that cost the clean images at most this accuracy.
    optimizer: sgd | adam | paint (AdamW with linear warm-up, cosine and clipping: mlfoundations/patching).
    """

    lrs: tuple[float, ...]
    epochs: int
    check_every: int = 10
    select: Select = "search"
    max_drop: float | None = None
    optimizer: Literal["sgd", "adam", "paint"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int | None = None
    warmup: int = 500

    def __post_init__(self) -> None:
        whole = {"max_epochs": self.epochs, "check_every": self.check_every}
        rest = {"momentum": self.momentum, "weight_decay": self.weight_decay, "warmup": self.warmup}
        if self.max_drop is not None:
            rest["max_drop"] = self.max_drop
        if self.batch_size is not None:
            whole["batch_size"] = self.batch_size
        check_numbers({**{k: float(v) for k, v in whole.items()}}, rest)
        if self.select == "none" and len(self.lrs) > 1:
            raise UserError("editor.select=none keeps the last weights: it needs one editor.lr, not a search")


def learning_rates(lr: float | str, grid: Sequence[float] | None) -> tuple[float, ...]:
    """The rates to try: one, or the grid (null: the paper's, 1e-5 to 100)."""
    found = tuple(GRID if grid is None else grid) if isinstance(lr, str) else (lr,)
    if not found or not all(x > 0 and math.isfinite(x) for x in found):
        raise UserError(f"editor.lr={lr}, editor.lr_grid={grid}: learning rates must be numbers above 0")
    return tuple(float(x) for x in found)


#: Mean loss over some of the pairs at the present weights, with its gradient.
Loss = Callable[[Rows], Tensor]


@dataclass(frozen=True)
class Objective:
    """What to train: parameters, their loss over n pairs, the training images for the report, and what to do with the
    weights after a step (`settle(step)`)."""

    spine: Spine
    names: tuple[str, ...]
    loss: Loss
    train: Asked
    settle: Callable[[int], None] | None = None


@dataclass(frozen=True)
class Fit:
    """What one learning rate led to. within: the clean images' accuracy dropped by no more than is allowed."""

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
        found = {
            "edit_loss": self.loss,
            "edit_steps": float(self.step),
            "lr": self.lr,
            "search_accuracy": self.accuracy,
            "train_accuracy": self.train_accuracy,
            "delta_norm": self.delta.norm(),
        }
        return {k: v for k, v in found.items() if math.isfinite(v)}


def search(
    model: Classifier, objective: Objective, chosen: Selection, how: Training, generator: torch.Generator
) -> Fit | None:
    """The best of the learning rates, None where every one of them diverges."""
    best: Fit | None = None
    start = generator.get_state()
    for lr in how.lrs:
        generator.set_state(start)  # every learning rate sees the same batches
        with model.scratch(objective.names):
            fit = train(model, objective, chosen, how, lr, generator)
        if fit is not None and (best is None or fit.rank > best.rank):
            best = fit
    return best


def train(
    model: Classifier, objective: Objective, chosen: Selection, how: Training, lr: float, generator: torch.Generator
) -> Fit | None:
    """Train with one learning rate; None when loss or weights stop being finite. Inside `scratch` only."""
    params = {n: model.param(n) for n in objective.names}
    before = model.snapshot(objective.names)
    if lr > torch.finfo(model.dtype).max / 1e3:  # the optimisers themselves could not count with it
        return None
    n, size = len(objective.train), how.batch_size or len(objective.train)
    steps = how.epochs * math.ceil(n / size)
    optimiser, rate = _optimiser(params, how, lr, steps)
    top, kept, kept_step, rank = chosen.at_start, None, 0, (False, -1.0)
    for step, rows in enumerate(_batches(n, size, how.epochs, generator), start=1):
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        optimiser.zero_grad(set_to_none=True)
        if not math.isfinite(_backward(model, objective.loss, rows, n)):
            return None
        if how.optimizer == "paint":
            torch.nn.utils.clip_grad_norm_(list(params.values()), CLIP)
        optimiser.step()
        if objective.settle:
            objective.settle(step)
        if step % how.check_every and step < steps:
            continue
        if not all(bool(torch.isfinite(p).all()) for p in params.values()):
            return None
        now, within = _standing(model, objective.spine, chosen, how)
        if chosen.edited is None or (within, now) > rank:
            rank, kept_step = (within, now), step
            kept = {k: p.detach().clone() for k, p in params.items()}
        top = max(top, now)
        if now < top / 2:
            break
    assert kept is not None  # the last step is always looked at
    with torch.no_grad():
        for k, value in kept.items():
            params[k].copy_(value)
        parts = list(spans(n, model.batch_size))
        loss = sum(float(objective.loss(s)) * (s.stop - s.start) for s in parts) / n
    if not math.isfinite(loss):
        return None
    told = accuracy(model, objective.spine, objective.train)
    return Fit(model.difference(before), lr, kept_step, loss, rank[1] if chosen.edited else math.nan, told, rank[0])


def _standing(model: Classifier, spine: Spine, chosen: Selection, how: Training) -> tuple[float, bool]:
    """Accuracy of selection, and whether the clean images keep theirs."""
    if chosen.edited is None:
        return math.nan, True
    within = chosen.clean is None or chosen.clean_at_start - accuracy(model, spine, chosen.clean) <= (how.max_drop or 0)
    return accuracy(model, spine, chosen.edited), within


def _backward(model: Classifier, loss: Loss, rows: Rows, n: int) -> float:
    """Gradient of the mean loss over the rows, in parts that fit into memory. -> the loss"""
    size = n if isinstance(rows, slice) else len(rows)
    total = 0.0
    for s in spans(size, model.batch_size):
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
    params: dict[str, torch.nn.Parameter], how: Training, lr: float, steps: int
) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
    """The optimiser, and the learning rate of each step (from 1)."""
    decayed = [p for n, p in params.items() if "weight" in n]
    others = [p for n, p in params.items() if "weight" not in n]
    if how.optimizer == "paint":
        rest = max(steps - how.warmup, 1)

        def rate(step: int) -> float:
            if step <= how.warmup:
                return lr * step / how.warmup
            return lr * 0.5 * (1 + math.cos(math.pi * (step - 1 - how.warmup) / rest))

        return torch.optim.AdamW(params.values(), lr=lr, weight_decay=how.weight_decay), rate
    groups = [{"params": decayed, "weight_decay": how.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if how.optimizer == "adam":
        return torch.optim.Adam(groups, lr=lr), lambda step: lr
    return torch.optim.SGD(groups, lr=lr, momentum=how.momentum), lambda step: lr
