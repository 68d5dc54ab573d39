"""What an editor offers, and what an edit is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from edit_robust.core import Delta, Editable, Request, UserError
from edit_robust.core.work import Workspace
from edit_robust.tasks.base import Task


@dataclass(frozen=True)
class Edit:
    """A change, what is known about how it was made (one dict a request), and the state to edit on with."""

    delta: Delta
    info: list[dict[str, float]]
    state: State

    @property
    def refused(self) -> bool:
        return not self.delta.terms


@dataclass(frozen=True)
class State:
    """What `prepare` made (`given`, can be made again) and what edits leave for later ones (`carried`, stored).

    layers:     the projections to edit.   parameters: names of all parameters that an edit may change, where these are
    others than the layers' weights and biases.
    """

    layers: tuple[str, ...]
    given: Any = None
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    parameters: tuple[str, ...] | None = None

    def changes(self, model: Editable) -> list[str]:
        """Names of the parameters that an edit may change."""
        return model.parameter_names(self.layers) if self.parameters is None else list(self.parameters)


def continuation(request: Request) -> str:
    """The target as it follows its prompt: one leading space, as the reference implementations have it."""
    target = str(request.target).strip()
    if not target:
        raise UserError(f"request {request.id} has an empty target")
    return f" {target}"


class Editor(Protocol):
    """A method.

    layers:  the blocks it edits unless `layer=` says otherwise: indices, or a word that `resolve_layers` knows.
    batches: whether several requests can be written in one change.
    """

    name: str
    layers: Any
    batches: bool

    def auto_layers(self, n_layers: int) -> list[int]:
        """The blocks to edit in a model of `n_layers` blocks for which no preset exists."""
        ...

    def prepare(self, model: Editable, layers: Sequence[str], task: Task, work: Workspace) -> State:
        """Statistics and templates, cached under a content key. The model must be unedited."""
        ...

    def edit(self, model: Editable, requests: Sequence[Request], state: State) -> Edit:
        """One change for all `requests`. The model is left as found, to the bit."""
        ...

    def edit_each(self, model: Editable, requests: Sequence[Request], state: State) -> list[Edit]:
        """An independent change for each request, all at the model's present weights."""
        ...


def check_numbers(above: Mapping[str, float], at_least: Mapping[str, float]) -> None:
    """UserError for an option of `above` that is not above 0, or one of `at_least` that is below 0."""
    for name, value in above.items():
        if not value > 0:
            raise UserError(f"editor.{name}={value} must be above 0")
    for name, value in at_least.items():
        if not value >= 0:
            raise UserError(f"editor.{name}={value} must be 0 or more")


def refuse_nonfinite(edit: Edit) -> Edit:
    """An edit with NaN or infinity in it is not applied: it becomes an empty change marked as refused."""
    if edit.delta.finite():
        return Edit(edit.delta, [{"refused": 0.0, **i} for i in edit.info], edit.state)
    return refusal(edit, "not-finite")


def refusal(edit: Edit, reason: str) -> Edit:
    """The same edit without its change, marked as refused."""
    info = [{**i, "refused": 1.0} for i in edit.info]
    return Edit(Delta({}, edit.delta.base, {"refused": reason}), info, edit.state)


WORDS = ("auto", "first", "middle", "last", "all")


def resolve_layers(wanted: Any, editor: Editor, n_layers: int) -> list[int]:
    """Block indices from what a config says: an int, a list of them, or one of the words of `WORDS`.

    Raises UserError for an index that the model does not have.
    """
    if isinstance(wanted, str):
        if wanted == "auto":
            return editor.auto_layers(n_layers)
        named = {"first": [0], "middle": [n_layers // 2], "last": [n_layers - 1], "all": list(range(n_layers))}
        if wanted not in named:
            raise UserError(f"layer.index={wanted} is neither a number nor one of {', '.join(WORDS)}")
        return named[wanted]
    indices = [wanted] if isinstance(wanted, int) else list(wanted)
    if not indices or any(isinstance(i, bool) or not isinstance(i, int) for i in indices):
        raise UserError(f"layer.index={wanted} must be a number, a list of numbers, or one of {', '.join(WORDS)}")
    for i in indices:
        if not -n_layers <= i < n_layers:
            raise UserError(f"layer.index={i} does not exist: the model has layers 0 to {n_layers - 1}")
    found = sorted({i % n_layers for i in indices})
    if len(found) != len(indices):
        raise UserError(f"layer.index={wanted} names a layer twice")
    return found
