"""What an editor offers, and what an edit is."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from edit_robust.core import Delta, Editable, Request, UserError
from edit_robust.core.work import Workspace
from edit_robust.tasks.base import Task

log = logging.getLogger(__name__)
Given = TypeVar("Given", covariant=True)
#: What one edit leaves for later ones: small named tensors, such as its keys.
Piece = Mapping[str, Tensor]


@dataclass(frozen=True)
class Edit:
    """A change, what is known about how it was made (one dict a request), and the piece it leaves for later edits."""

    delta: Delta
    info: list[dict[str, float]]
    carry: Piece = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        return not self.delta.terms


class Carried(Sequence[Piece]):
    """The pieces that edits have left so far, in their order. Never changed, only extended: `after` gives a longer one.

    Extending shares the pieces, so that ten thousand edits take ten thousand pieces and not their square.
    """

    def __init__(self, pieces: Sequence[Piece] = ()) -> None:
        self._pieces, self._n = list(pieces), len(pieces)

    def after(self, piece: Piece) -> Carried:
        """These pieces and one more."""
        longer = Carried()
        longer._pieces = self._pieces if len(self._pieces) == self._n else self._pieces[: self._n]
        longer._pieces.append(piece)
        longer._n = self._n + 1
        return longer

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: Any) -> Any:
        return self._pieces[: self._n][i]


@dataclass(frozen=True)
class State(Generic[Given]):
    """What an editor edits with.

    layers:     the projections to edit.
    given:      what `prepare` made, and can make again: statistics, templates, factors.
    parameters: names of all parameters that an edit may change, where these are others than the layers' weights and
        biases.
    carried:    what edits have left for later ones; kept on disk, one small file an edit. An editor builds whatever it
        needs (a sum over all keys, say) from these pieces.
    """

    layers: tuple[str, ...]
    given: Given = None  # type: ignore[assignment]
    parameters: tuple[str, ...] | None = None
    carried: Carried = field(default_factory=Carried)

    def changes(self, model: Editable) -> list[str]:
        """Names of the parameters that an edit may change."""
        return model.parameter_names(self.layers) if self.parameters is None else list(self.parameters)

    def after(self, edit: Edit) -> State[Given]:
        """The state to make the next edit with."""
        return replace(self, carried=self.carried.after(edit.carry)) if edit.carry else self


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
    needs:   names of the methods that it needs of a model; a model without them is refused when the config is checked.
    takes:   the kind of request that it can be given.
    An editor may have `signs`, the warning signs (`core.signs`) that it tells of its edits beside the one of all, and
    `any_layer`: true where the layers that it is given have no say, so that a sweep over layers makes one run of it.
    """

    name: str
    layers: Any
    batches: bool
    needs: ClassVar[tuple[str, ...]]
    takes: ClassVar[type[Request]]

    def auto_layers(self, n_layers: int) -> list[int]:
        """The blocks to edit in a model of `n_layers` blocks for which no preset exists."""
        ...

    def prepare(self, model: Editable, layers: Sequence[str], task: Task, work: Workspace) -> State[Any]:
        """Statistics and templates, cached under a content key. The model must be unedited."""
        ...

    def edit(self, model: Editable, requests: Sequence[Request], state: State[Any]) -> Edit:
        """One change for all `requests`. The model is left as found, to the bit."""
        ...

    def edit_each(self, model: Editable, requests: Sequence[Request], state: State[Any]) -> list[Edit]:
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
        return Edit(edit.delta, [{"refused": 0.0, **i} for i in edit.info], edit.carry)
    return refusal(edit, "not-finite")


def refusal(edit: Edit, reason: str) -> Edit:
    """The same edit without its change, marked as refused."""
    info = [{**i, "refused": 1.0} for i in edit.info]
    return Edit(Delta({}, edit.delta.base, {"refused": reason}), info)


def sized(edit: Edit, model: Editable, sizes: dict[str, float] | None = None) -> Edit:
    """The edit with the warning sign that every change has, told of each of its requests before it is applied.

    `relative_norm` is ||dW||_F / ||W||_F with W as it stands, the largest of all changed matrices (of biases where
    nothing else changes). An edit without a change tells none. sizes: ||W||_F by name, filled here for further edits
    of the same weights.
    """
    known = {} if sizes is None else sizes
    norms = edit.delta.norms()
    wide = {name for name, term in edit.delta.terms.items() if min(term.shape) > 1} or set(norms)
    known |= {n: float(torch.linalg.vector_norm(model.matrix(n).float())) for n in wide - set(known)}
    ratios = [norms[name] / known[name] for name in wide if known[name] > 0]
    if not ratios or any("relative_norm" in i for i in edit.info):
        return edit
    return replace(edit, info=[{**i, "relative_norm": max(ratios)} for i in edit.info])


#: How libraries say that a matrix cannot be factored or solved with; what else they complain of is a mistake.
_SINGULAR = re.compile(
    r"(linalg|cholesky|solve|lapack).*(singular|positive.?definite|converge|ill-conditioned)"
    r"|CUSOLVER_STATUS_EXECUTION_FAILED",
    re.IGNORECASE | re.DOTALL,
)


def is_singular(error: Exception) -> bool:
    """Whether an error says that the numbers of a matrix allow no solution, rather than that it has a wrong shape."""
    if isinstance(error, torch.linalg.LinAlgError):
        return True
    if isinstance(error, np.linalg.LinAlgError):  # of wrong shapes, too
        return re.search("singular|positive definite|converge", str(error), re.IGNORECASE) is not None
    return isinstance(error, RuntimeError) and _SINGULAR.search(str(error)) is not None


def edit_or_refuse(editor: Editor, model: Editable, requests: Sequence[Request], state: State[Any]) -> Edit:
    """`editor.edit`; where its linear algebra has no solution, an empty change refused as `singular`.

    Two requests about one subject have the same key, for example, and MEMIT without its penalty cannot give both of
    them their values. A walk goes on without such an edit. Every other error is raised.
    """
    try:
        return sized(editor.edit(model, requests, state), model)
    except (torch.linalg.LinAlgError, np.linalg.LinAlgError, RuntimeError) as error:
        if not is_singular(error):
            raise
        log.warning("An edit of %s is refused: %s", editor.name, " ".join(str(error).split())[:200])
        return refusal(Edit(Delta({}, model.position), [{} for _ in requests]), "singular")


def edit_each_or_refuse(editor: Editor, model: Editable, requests: Sequence[Request], state: State[Any]) -> list[Edit]:
    """`editor.edit_each`; where it has no solution for some of the requests, they are edited one by one and those
    refused as `singular`."""
    sizes: dict[str, float] = {}
    try:
        return [sized(edit, model, sizes) for edit in editor.edit_each(model, requests, state)]
    except (torch.linalg.LinAlgError, np.linalg.LinAlgError, RuntimeError) as error:
        if not is_singular(error):
            raise
    return [edit_or_refuse(editor, model, [request], state) for request in requests]


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
