"""A model that stands at edited weights, made from what a run has kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from edit_robust.config.nodes import build
from edit_robust.core import Delta, Dense, UserError
from edit_robust.core.delta import Term
from edit_robust.core.editable import Snapshot
from edit_robust.models.base import Model
from edit_robust.runs import ledger
from edit_robust.runs.checkpoints import kept_weights
from edit_robust.runs.reader import Run
from edit_robust.runs.replay import changed_parameters


@dataclass(frozen=True)
class Edited:
    """A model at W0 + alpha (W - W0).

    base:    what the unedited model is called (`Editable.base`).
    before:  the unedited values of all parameters that edits may change.
    config:  the model's own options.
    alpha, n_edits: how much of the change stands in the model, and of how many edits it is made.
    path:    the run's folder, and the step of its walk; None for a change that was read from a file.
    info:    what is known of the change, for its file and for the card.
    """

    model: Model
    base: str
    before: Snapshot
    config: Mapping[str, Any]
    alpha: float
    n_edits: int
    info: Mapping[str, Any]
    run: Run | None = None
    step: int | None = None
    made: Delta | None = None

    @cached_property
    def change(self) -> Delta:
        """What was added to W0: factors where every edit kept its own, else whole matrices. Without terms of zeros."""
        found = self.model.difference(self.before) if self.made is None else self.made.scale(self.alpha)
        return Delta({n: t for n, t in found.terms.items() if _moves(t)}, self.base, dict(self.info))


def _moves(term: Term) -> bool:
    return bool(torch.count_nonzero(term.m)) if isinstance(term, Dense) else term.norm() > 0


def steps_of(run: Run) -> dict[int, int]:
    """How many edits stand in the model after each step of a walk that stacked them, by step."""
    found, total = {}, 0
    for step, n in ledger.requests_by_step(run.path).items():
        total += n
        found[step] = total
    return found


def step_after(run: Run, upto: int) -> int:
    """The step of a walk after which `upto` edits stand in the model. UserError where there is none."""
    made = steps_of(run)
    if upto not in made.values():
        near = min(made.values(), key=lambda n: abs(n - upto), default=0)
        raise UserError(f"--upto {upto}: {run.id} never stood at {upto} edits; the nearest place is {near}")
    return next(step for step, n in made.items() if n == upto)


def check_kept(run: Run) -> None:
    """UserError for a run that has kept no change of the weights, or whose edits were made independently."""
    if kept_weights(run.path) is None:
        ledger.stacked(run.path)


def edited(run: Run, alpha: float = 1.0, upto: int | None = None) -> Edited:
    """The model of a run after its walk, or after `upto` of its edits, with `alpha` times the change.

    With alpha 1 its weights are those of the walk to the bit. Raises UserError where the run has not kept what that
    takes, and where the model is not the one that it edited.
    """
    check_kept(run)
    step = None if upto is None else step_after(run, upto)
    model: Model = build(run.config["model"], "model")
    base = model.base
    before = model.snapshot(changed_parameters(run.path))
    ledger.replay(run.path, model, str(run.config["model"].get("path")), step)
    if alpha != 1.0:
        total = model.difference(before)
        model.restore(before)
        model.add(total.scale(alpha))
    factors = ledger.deltas(run.path, upto=step)
    made = Delta.chain(factors) if factors and all(ledger.is_factored(d) for d in factors) else None
    n = upto if upto is not None else max(steps_of(run).values(), default=0)
    info = {
        "run": run.id,
        "model": model.name,
        "path": str(run.config["model"].get("path") or ""),
        "dtype": str(model.dtype).removeprefix("torch."),
        "editor": str(run.config["editor"].get("name")),
        "edits": n,
        "alpha": alpha,
    }
    return Edited(model, base, before, run.config["model"], alpha, n, info, run, step, made)
