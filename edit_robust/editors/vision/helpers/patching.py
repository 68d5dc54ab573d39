"""Training as PAINT has it, of whatever parameters an editor names (arXiv 2208.05592, mlfoundations/patching).

AdamW with weight decay .1, learning rate 1e-5 after 500 steps of warm-up, then a cosine to zero, gradients clipped to
norm 1, cross entropy, batches of 128, 5 epochs. Each is an option.
"""

# No `from __future__ import annotations`: the options' types stand in the signatures of all subclasses, where names of
# this file are not known. They must be types here, not text.

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from edit_robust.core import Delta, ImageRequest, Request, UserError
from edit_robust.core.editable import Snapshot
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, check_numbers, refusal, refuse_nonfinite
from edit_robust.editors.helpers.masters import Masters
from edit_robust.editors.helpers.reproducible import reproducible
from edit_robust.editors.vision.helpers.editor import generator_for
from edit_robust.editors.vision.helpers.heads import Answers, AnswersTo, answers_for
from edit_robust.editors.vision.helpers.schedule import warm_cosine
from edit_robust.editors.vision.helpers.stream import TrainingImages
from edit_robust.models.vision.classifier import Classifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """What an edit needs beside the images: the run's seed, and how the model answers about the task's classes."""

    seed: int
    answers: Answers


class Moved(Protocol):
    """What an optimiser moves: tensors by name, and what they mean for the model's parameters."""

    @property
    def values(self) -> Mapping[str, Tensor]: ...

    def take_gradients(self) -> None:
        """Give the tensors the gradients that follow from the parameters'."""
        ...

    def write(self) -> None:
        """Write into the parameters what the tensors stand for."""
        ...

    def change(self) -> Delta:
        """What training has changed so far."""
        ...


@dataclass(frozen=True)
class Progress:
    """How training went: steps made, and loss and accuracy over the images of the last epoch, as they were seen."""

    steps: int
    loss: float
    accuracy: float


@dataclass(kw_only=True, eq=False)
class Patching(ABC):
    """An editor that fine-tunes on the images of a task with a frozen head. Its fields are its options.

    name: as runs and figures show it.   layers: the block to edit, for editors that edit one (see `resolve_layers`).
    lr: learning rate after `warmup` steps.   weight_decay: AdamW's, on every trained parameter.
    clip: largest norm of the gradient; null: any.   batch_size: images a step.   epochs: passes over the images.
    crop_scale: random crops show a share of the image's area between these two; null: the model's own crop. Images are
        never mirrored.
    Models of half precision are trained through copies in float32.
    """

    needs: ClassVar[tuple[str, ...]] = ("see", "block_of")
    takes: ClassVar[type[Request]] = ImageRequest
    batches = True

    name: str
    layers: int | list[int] | str = "auto"
    lr: float = 1e-5
    weight_decay: float = 0.1
    warmup: int = 500
    clip: float | None = 1.0
    batch_size: int = 128
    epochs: int = 5
    crop_scale: list[float] | None = field(default_factory=lambda: [0.9, 1.0])

    def __post_init__(self) -> None:
        above = {"lr": self.lr, "batch_size": self.batch_size, "epochs": self.epochs}
        if self.clip is not None:
            above["clip"] = self.clip
        check_numbers(above, {"weight_decay": self.weight_decay, "warmup": self.warmup})
        if not math.isfinite(self.lr):
            raise UserError(f"editor.lr={self.lr} must be a finite number")
        s = self.crop_scale
        if s is not None and (len(s) != 2 or not 0 < s[0] <= s[1] <= 1):
            raise UserError(f"editor.crop_scale={s} must be two shares of an image's area, as [0.9, 1.0], or null")

    def auto_layers(self, n_layers: int) -> list[int]:
        """The last block."""
        return [n_layers - 1]

    @abstractmethod
    def trained(self, model: Classifier, layers: Sequence[str]) -> list[str]:
        """Names of the parameters to train."""

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State[Given]:
        """The parameters to train, and the head, which is that of the unedited model."""
        return State(tuple(layers), Given(work.seed, answers_for(model, task)), tuple(self.trained(model, layers)))

    def edit_each(self, model: Classifier, requests: Sequence[Request], state: State[Given]) -> list[Edit]:
        """An independent change for each request."""
        return [self.edit(model, [r], state) for r in requests]

    def edit(self, model: Classifier, requests: Sequence[Request], state: State[Given]) -> Edit:
        """One change for the images of all requests; an empty one, marked as refused, where training diverges."""
        generator = generator_for(state.given.seed, requests)
        seed = int(torch.randint(1 << 62, (), generator=generator))
        images = TrainingImages.of(model, requests, self.crop_scale, seed)
        answers = state.given.answers.to(requests)
        answers.check(images)
        with model.scratch(state.changes(model)) as scratch, reproducible(model.device):
            trained = self.moved(model, scratch.before, generator)
            done = self._train(model, trained, images, answers)
            delta = trained.change() if done else Delta({}, model.position)
        info: dict[str, float] = {"lr": self.lr}
        if done is None:
            return refusal(Edit(delta, [dict(info) for _ in requests]), "diverged")
        info |= {"edit_loss": done.loss, "edit_steps": float(done.steps), "train_accuracy": done.accuracy}
        info["delta_norm"] = delta.norm()
        return refuse_nonfinite(Edit(delta, [dict(info) for _ in requests]))

    def moved(self, model: Classifier, before: Snapshot, generator: torch.Generator) -> Moved:
        """What the optimiser moves: the parameters themselves, or float32 copies of them."""
        return Masters.of(model, before)

    def _train(self, model: Classifier, trained: Moved, images: TrainingImages, answers: AnswersTo) -> Progress | None:
        """Train inside `scratch`; None where loss or weights stop being finite."""
        values = list(trained.values.values())
        if self.lr > torch.finfo(values[0].dtype).max / 1e3:  # the optimiser itself could not count with it
            return None
        optimiser = torch.optim.AdamW(values, lr=self.lr, weight_decay=self.weight_decay)
        steps = self.epochs * images.steps(self.batch_size)
        if 0 < steps <= self.warmup:
            log.warning("%s: all of its %d steps are warm-up (editor.warmup=%d)", self.name, steps, self.warmup)
        step, seen = 0, (math.nan, math.nan)
        with model.progress(f"{self.name}: training", steps) as advance:
            for epoch in range(self.epochs):
                loss, right = 0.0, 0
                for batch in images.epoch(epoch, self.batch_size, min(model.batch_size, self.batch_size)):
                    part, n = answers.judged(batch)
                    (part * batch.share).backward()
                    loss += float(part.detach()) * len(batch.labels)
                    right += n
                    if not math.isfinite(loss):
                        return None
                    if batch.last:
                        step += 1
                        self._step(optimiser, trained, warm_cosine(self.lr, step, self.warmup, steps))
                        advance(1)
                seen = loss / len(images), right / len(images)
        if not all(bool(torch.isfinite(v).all()) for v in values):
            return None
        return Progress(step, *seen)

    def _step(self, optimiser: torch.optim.Optimizer, trained: Moved, lr: float) -> None:
        """One step of the optimiser at a rate, with clipped gradients."""
        for group in optimiser.param_groups:
            group["lr"] = lr
        trained.take_gradients()
        if self.clip is not None:
            clip_grad_norm_(list(trained.values.values()), self.clip)
        optimiser.step()
        trained.write()
        optimiser.zero_grad(set_to_none=True)
