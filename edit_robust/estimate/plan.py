"""What a config will do, in numbers: how many edits, at which matrices, by what arithmetic, and what is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edit_robust.config.nodes import build
from edit_robust.core.errors import UserError
from edit_robust.editors.base import resolve_layers
from edit_robust.estimate.sizes import Sizes

#: Questions about an edit in CounterFact's form: its own, two paraphrases, ten neighbours.
QUESTIONS = 13
#: Contexts of a value optimisation (20 templates and the bare prompt), and tokens that it runs in each: the subject's
#: last one and what follows.
CONTEXTS, TAIL = 21, 8
#: Tokens of a question with one of its choices.
TOKENS = 15


@dataclass(frozen=True)
class Plan:
    """n: edits, None where only the data can tell.   edited: (d_out, d_in) of the edited matrices.   at: their blocks.

    Which of an editor's costs a run has is read off the editor's options and methods:
    moments: it solves with second moments.   spectral: with their eigenvectors.   remembers: edits leave their keys.
    values: steps of a value optimisation, 0 without one.   trains: parameters that gradient steps train, 0 for none.
    steps: of that training.   factors: rank of a change that is kept as factors, 0 for a dense one.
    sequence: whether edits pile up.   every: edits between two checks.   points: models that are measured.
    """

    n: int | None
    sizes: Sizes
    at: tuple[int, ...]
    edited: tuple[tuple[int, int], ...]
    moments: bool
    spectral: bool
    remembers: bool
    values: int
    trains: int
    steps: int
    factors: int
    sequence: bool
    every: int
    points: int

    @property
    def weights(self) -> int:
        """Numbers in the edited matrices."""
        return sum(a * b for a, b in self.edited)

    @property
    def changed(self) -> int:
        """Numbers that an edit may change."""
        return max(self.weights, self.trains)


def plan_of(values: Mapping[str, Any], sizes: Sizes) -> Plan:
    """The plan of a checked config (see `config.check`) of a model of these sizes."""
    editor, node = build(values["editor"], "editor"), values["editor"]
    index = values["layer"]["index"]
    if getattr(editor, "any_layer", False):
        index = "last"
    at = tuple(resolve_layers(index, editor, sizes.n_layers))
    edited = tuple(sizes.matrices[i] for i in at)
    matrices = sum(a * b for a, b in edited)
    n, trajectory = edits_of(values), values["trajectory"]
    values_steps = int(node.get("v_num_grad_steps") or 0)
    steps = next((int(node[k]) for k in ("num_steps", "max_epochs", "epochs") if isinstance(node.get(k), int)), 0)
    dense = not values_steps and (steps > 0 or sizes.image > 0)
    # of the whole network where no layer has a say, or where a word says so; else the edited matrices
    trains = 0 if not dense else sizes.parameters if _everything(editor, node) else matrices
    rank = next((int(node[k]) for k in ("rank", "d") if isinstance(node.get(k), int)), 0)
    alphas = trajectory.get("alphas")
    per_edit = len(alphas) if alphas else 1
    return Plan(
        n=n,
        sizes=sizes,
        at=at,
        edited=edited,
        moments="mom2" in node,
        spectral="nullspace_threshold" in node,
        remembers=bool(getattr(editor, "remembers", False)),
        values=values_steps,
        trains=trains,
        steps=steps,
        factors=1 if values_steps else rank,
        sequence=trajectory.get("name") == "sequential",
        every=int(trajectory.get("every") or 1),
        points=per_edit * (n or 1) if trajectory.get("each", not alphas) else per_edit,
    )


def _everything(editor: Any, node: Mapping[str, Any]) -> bool:
    """Whether gradient steps train all parameters: an editor that no layer has a say in, or whose scope is global."""
    return bool(getattr(editor, "any_layer", False)) or any(
        str(node.get(key)) in ("global", "all", "whole") for key in ("scope", "parameters", "trained")
    )


def edits_of(values: Mapping[str, Any]) -> int | None:
    """How many edits: what the task's options say; of a task that needs nothing, what it makes; None where unknown."""
    wanted = values["task"].get("n_requests")
    found = re.fullmatch(r"(?:up-to-)?(\d+)", str(wanted))
    if found:
        return int(found[1])
    try:
        task = build(values["task"], "task")
        if str(getattr(task, "needs", "")).startswith("nothing"):
            return len(task.requests())
    except UserError:
        return None
    return None
