"""Which of a network's parameters are its head, and how it answers about a task's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from edit_robust.core import UserError
from edit_robust.core.projections import is_projection
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.editors.vision.helpers.pairs import known_labels
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


@dataclass(frozen=True)
class Answers:
    """Logits about a task's classes, with gradients.

    head: [classes, d] of a model that reads the classes' names, fixed; None: the network's own logits.
    """

    model: Classifier
    head: Float[Tensor, "classes d"] | None = None

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


def answers_for(model: Classifier, task: Any) -> Answers:
    """How the model answers about a task's classes: by its own logits where they are its own, else by a zero-shot head.

    UserError where the task has other classes than the model, and the model cannot read their names.
    """
    if not isinstance(task, NamesClasses):
        return Answers(model)
    words = Vocabulary.of(task.class_names, task.templates)
    if getattr(model, "classes", None) == words.class_names:
        return Answers(model)
    if not isinstance(model, ReadsNames):
        some = ", ".join(words.class_names[:3])
        raise UserError(
            f"the task asks about {len(words.class_names)} classes of its own ({some}, ...), and {model.name} "
            "answers about others; give a model that reads the names of classes, such as model=scene-clip"
        )
    with torch.no_grad():
        return Answers(model, model.head(words.class_names, words.templates).detach())
