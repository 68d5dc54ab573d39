"""Which of a network's parameters are its head, and how it answers about a task's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edit_robust.core import ImageRequest, Request, UserError
from edit_robust.core.projections import is_projection
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.editors.vision.helpers.pairs import known_labels
from edit_robust.editors.vision.helpers.stream import Batch, TrainingImages
from edit_robust.models.base import ReadsNames
from edit_robust.models.vision.classifier import Classifier
from edit_robust.tasks.base import NamesClasses


@runtime_checkable
class NamesHead(Protocol):
    """A model that says itself which of its parameters are the head; () where no parameter is."""

    @property
    def head_parameters(self) -> Sequence[str]: ...


def head_parameters(model: Classifier) -> list[str]:
    """Names of the weight and bias that make logits of features; [] where the head is no parameter of the network.

    A model may say so itself. Of others it is the projection that is called last, where its outputs are the classes.
    """
    if isinstance(model, NamesHead):
        return list(model.head_parameters)
    if isinstance(model, ReadsNames):
        return []
    name, module = _last_projection(model)
    if len(module.get_parameter("weight")) != model.n_classes:
        return []
    return [f"{name}.{own}" for own, _ in module.named_parameters(recurse=False)]


def _last_projection(model: Classifier) -> tuple[str, nn.Module]:
    """The projection that is called last in a forward pass."""
    called: list[tuple[str, nn.Module]] = []
    hooks = [
        m.register_forward_hook(lambda module, args, out, name=name: called.append((name, module)))
        for name, m in model.net.named_modules()
        if is_projection(m)
    ]
    try:
        with torch.no_grad():
            model.net(model.sample(1))
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1]


def tower_parameters(model: Classifier) -> list[str]:
    """Names of all parameters that images pass through but for the head's, in the order in which they act."""
    head = set(head_parameters(model))
    return [n for n in model.parameters_between(None, None) if n not in head]


@dataclass(frozen=True, eq=False)
class Answers:
    """Logits about a task's classes, with gradients.

    head: [classes, d] of a model that reads the classes' names, fixed; None: the network's own logits.
    words: the classes that the head was made of.
    """

    model: Classifier
    head: Float[Tensor, "classes d"] | None = None
    words: Vocabulary | None = None

    def __call__(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n classes"]:
        if self.head is None:
            logits: Tensor = self.model.net(x)
            return logits
        assert isinstance(self.model, ReadsNames)
        return self.model.embed(x) @ self.head.T

    def check(self, labels: Int[Tensor, " n"]) -> None:
        """UserError for a label that is none of the classes."""
        if self.head is None:
            known_labels(self.model, labels)
        elif int(labels.max()) >= len(self.head):
            raise UserError(f"labels go up to {int(labels.max())}, but the task names {len(self.head)} classes")

    def to(self, requests: Sequence[Request]) -> AnswersTo:
        """How each of several requests is answered: about the classes that it names itself, else as here."""
        made: dict[Vocabulary, Answers] = {} if self.words is None else {self.words: self}
        parts = []
        for r in requests:
            words = r.words if isinstance(r, ImageRequest) else None
            if words is None:
                parts.append(self)
                continue
            if words not in made:
                made[words] = answers_about(self.model, words)
            parts.append(made[words])
        return AnswersTo(tuple(parts))


@dataclass(frozen=True)
class AnswersTo:
    """How the images of several requests are answered, each about its own request's classes.

    parts: one a request; those that ask alike are the same object.
    """

    parts: tuple[Answers, ...]

    def check(self, images: TrainingImages) -> None:
        """UserError for a label that is none of its request's classes."""
        for i, answers in enumerate(self.parts):
            if len(own := images.labels[torch.from_numpy(images.part == i)]):
                answers.check(own)

    def judged(self, batch: Batch) -> tuple[Float[Tensor, ""], int]:
        """Mean cross entropy of a batch, with gradients, and how many images are answered right."""
        first = self.parts[0]
        if all(p is first for p in self.parts):
            logits = first(batch.x)
            hits = int((logits.detach().argmax(-1) == batch.labels).sum())
            return cross_entropy(logits.float(), batch.labels), hits
        total, right = batch.x.new_zeros((), dtype=torch.float32), 0
        for answers in dict.fromkeys(self.parts[i] for i in batch.part):
            mine = np.array([self.parts[i] is answers for i in batch.part])
            rows = torch.from_numpy(np.flatnonzero(mine)).to(batch.x.device)
            logits, labels = answers(batch.x[rows]), batch.labels[rows]
            total = total + cross_entropy(logits.float(), labels, reduction="sum")
            right += int((logits.detach().argmax(-1) == labels).sum())
        return total / len(batch.labels), right


def answers_for(model: Classifier, task: Any) -> Answers:
    """How the model answers about a task's classes: by its own logits where they are its own, else by a zero-shot head.

    UserError where the task has other classes than the model, and the model cannot read their names.
    """
    if not isinstance(task, NamesClasses):
        return Answers(model)
    return answers_about(model, Vocabulary.of(task.class_names, task.templates))


def answers_about(model: Classifier, words: Vocabulary) -> Answers:
    """How the model answers about classes in words; see `answers_for`."""
    if getattr(model, "classes", None) == words.class_names:
        return Answers(model, words=words)
    if not isinstance(model, ReadsNames):
        some = ", ".join(words.class_names[:3])
        raise UserError(
            f"the task asks about {len(words.class_names)} classes of its own ({some}, ...), and {model.name} "
            "answers about others; give a model that reads the names of classes, such as model=scene-clip"
        )
    with torch.no_grad():
        return Answers(model, model.head(words.class_names, words.templates).detach(), words)
