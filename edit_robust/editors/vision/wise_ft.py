"""WiSE-FT: fine-tuning of tower and head together, to be interpolated (Wortsman et al. 2021, arXiv 2109.01903).

It differs from PAINT in that the head is trained, too, which changes what the model answers about other classes. The
classes are the model's own: a head that is made anew from words has no weights to interpolate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.vision.helpers.heads import head_parameters, tower_parameters
from edit_robust.editors.vision.helpers.patching import Given, Patching
from edit_robust.models.vision.classifier import Classifier


@dataclass(kw_only=True, eq=False)
class WiseFt(Patching):
    """WiSE-FT as an editor; its options are those of `Patching`. `layers` says nothing here."""

    any_layer: ClassVar[bool] = True
    name: str = "wise-ft"

    def trained(self, model: Classifier, layers: Sequence[str]) -> list[str]:
        """The tower's parameters and the head's. UserError where the head is no parameter of the model."""
        head = head_parameters(model)
        if not head:
            raise UserError(
                f"{self.name} trains the head, and the head of {model.name} is no parameter of it: it is made from the "
                "classes' names; editor=paint leaves it as it is"
            )
        return [*tower_parameters(model), *head]

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State[Given]:
        """As PAINT's; UserError for a task about other classes than the model's own, whose head is made anew."""
        state = super().prepare(model, layers, task, work)
        if state.given.answers.head is not None:
            raise UserError(
                f"{self.name} trains the head of the model's own classes, and the task asks about others; "
                "editor=paint leaves heads as they are"
            )
        return state
