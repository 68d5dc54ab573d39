"""The way to a model that was edited, fine-tuned, merged or quantised elsewhere, as an edit like any other.

The change is the difference between the checkpoint's weights and the model's; it is walked, measured and kept as every
other change. What the task requests is asked and not written: the checkpoint is what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from edit_robust.core import Delta, Dense, Editable, Request, UserError
from edit_robust.core.editable import Snapshot
from edit_robust.core.options import DataFile
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State
from edit_robust.editors.helpers.ranks import numerical_rank
from edit_robust.tasks.base import Task


class ReadsWeights(Protocol):
    """A model that finds its own parameters in a checkpoint."""

    def weights_in(self, path: str) -> dict[str, Tensor]:
        """Every parameter's value in a checkpoint of the same network, on the CPU. UserError for any other."""
        ...


@dataclass(frozen=True)
class Given:
    """The checkpoints, in their order; the unedited values of all parameters that differ in one of them; the position
    of the model that it is a difference from."""

    paths: tuple[str, ...]
    before: Snapshot


class Checkpoint:
    """The difference to a checkpoint.

    path:  a model of the same architecture, in any form that the model can read (`weights_in`): folders and files of
           weights, adapters of peft; or a list of them along a training run, which `trajectory=checkpoints` walks.
    ranks: whether the numerical rank of every matrix's change is found: a decomposition each.
    layers: says nothing here: whatever differs is changed.
    """

    needs: ClassVar[tuple[str, ...]] = ("weights_in",)
    takes: ClassVar[type[Request]] = Request
    batches = True

    def __init__(
        self,
        path: DataFile | list[DataFile],
        name: str = "checkpoint",
        layers: int | list[int] | str = "auto",
        ranks: bool = True,
    ) -> None:
        self.paths = tuple([path] if isinstance(path, str) else path)
        if not self.paths:
            raise UserError("editor.path is empty: give a checkpoint, or a list of them")
        self.name, self.layers, self.ranks = name, layers, ranks

    def auto_layers(self, n_layers: int) -> list[int]:
        """All blocks."""
        return list(range(n_layers))

    def prepare(self, model: Any, layers: Sequence[str], task: Task, work: Workspace) -> State[Given]:
        """Which parameters differ in any of the checkpoints. UserError where none does, and for other networks."""
        names: dict[str, None] = {}
        with work.progress("reading checkpoints", len(self.paths)) as advance:
            for path in self.paths:
                names |= dict.fromkeys(_different(model, model.weights_in(path)))
                advance(1)
        if not names:
            raise UserError(f"editor.path={', '.join(self.paths)}: no weight differs from those of {model.name}")
        order = [n for n, _ in model.net.named_parameters() if n in names]
        return State(tuple(layers), Given(self.paths, model.snapshot(order)), tuple(order))

    @property
    def stages(self) -> int:
        """How many checkpoints there are."""
        return len(self.paths)

    def stage(self, i: int) -> Checkpoint:
        """The editor of the i-th checkpoint alone: its edit leads from wherever the model stands to that one."""
        return Checkpoint(self.paths[i], self.name, self.layers, self.ranks)

    def edit_each(self, model: Any, requests: Sequence[Request], state: State[Given]) -> list[Edit]:
        """The same change for each request."""
        first = self.edit(model, requests[:1], state)
        return [first, *(replace(first, info=[dict(_plain(first.info[0]))]) for _ in requests[1:])]

    def edit(self, model: Any, requests: Sequence[Request], state: State[Given]) -> Edit:
        """From where the model stands to the checkpoint. UserError for a list, of which a walk takes one at a time."""
        if self.stages > 1:
            raise UserError(f"{self.name} has {self.stages} checkpoints: trajectory=checkpoints walks along them")
        with model.at(state.given.before):  # adapters are merged into the unedited weights
            found = model.weights_in(self.paths[0])
        terms = {}
        for name in state.changes(model):
            now = model.param(name).detach()
            new = found[name].to(now.device, now.dtype)
            if not torch.equal(now, new):
                difference = model.as_matrix(name, new).float() - model.as_matrix(name, now).float()
                terms[name] = Dense(difference.contiguous())
        delta = Delta(terms, model.position)
        about = self._about(model, delta, found)
        return Edit(delta, [about, *(_plain(about) for _ in requests[1:])])

    def _about(self, model: Editable, delta: Delta, found: Mapping[str, Tensor]) -> dict[str, float]:
        """Size and rank of the change, whole and of each parameter (`name@parameter`).

        change_share: of ||dW||_F^2, summing to 1.   change_relative: ||dW||_F / ||W||_F.
        change_rank, change_stable_rank: see `numerical_rank`; of matrices alone.
        """
        total = delta.norm()
        out: dict[str, float] = {"refused": 0.0, "delta_norm": total, "changed_parameters": float(len(delta.terms))}
        ranks = []
        for name, term in delta.terms.items():
            weight = model.matrix(name).float()
            size, own = term.norm(), float(torch.linalg.vector_norm(weight))
            out[f"change_share@{name}"] = (size / total) ** 2
            if own > 0:
                out[f"change_relative@{name}"] = size / own
            if self.ranks and min(term.shape) > 1:
                eps = max(torch.finfo(t).eps for t in (model.param(name).dtype, found[name].dtype))
                rank, stable = numerical_rank(term.dense(), weight, eps)
                out[f"change_rank@{name}"], out[f"change_stable_rank@{name}"] = float(rank), stable
                ranks.append(rank)
        if ranks:
            out["change_rank"] = float(max(ranks))
        return out


def _different(model: Any, found: Mapping[str, Tensor]) -> list[str]:
    """Names of the parameters whose values in a checkpoint, in the model's type of number, are others."""
    return [
        name
        for name, p in model.net.named_parameters()
        if not torch.equal(p.detach(), found[name].to(p.device, p.dtype))
    ]


def _plain(about: Mapping[str, float]) -> dict[str, float]:
    """What is told of a request beside the first: the numbers of single parameters stand there."""
    return {k: v for k, v in about.items() if "@" not in k}
