"""The edits of a run: made once, kept, and given back bit for bit when the run goes on.

Changes that are factors are kept one by one, and a walk is replayed by adding them again in the same order and with
the same arithmetic. A dense change (fine-tuning) of every step would fill the disk: of a walk that stacks them, the
weights after the newest edit are kept instead, and what is known about every edit as a line of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edit_robust.core import Delta, Editable, LowRank, UserError
from edit_robust.core.editable import Snapshot
from edit_robust.core.files import atomic_path
from edit_robust.editors.base import Edit
from edit_robust.runs.files import TOTAL, WEIGHTS, append, as_line, read_lines
from edit_robust.runs.folder import RunFolder

#: Dense changes of independent edits are kept as long as all of them together take no more bytes than this.
DENSE_BYTES = 4 << 30


class EditLedger:
    """Gives edits back, or makes and keeps them; see `trajectories.Ledger`. n: how many edits the run makes."""

    def __init__(self, folder: RunFolder, n: int) -> None:
        self.folder, self.n = folder, n
        self._at: dict[str, Any] | None = None
        self._infos: dict[int, list[dict[str, float]]] | None = None

    def measured(self, step: int) -> bool:
        return step in self.folder.done

    def _delta_path(self, step: int) -> Path:
        return self.folder.path / "deltas" / f"{step:06d}.safetensors"

    def _carry_path(self, step: int) -> Path:
        return self.folder.path / "state" / f"{step:06d}.safetensors"

    def _kept(self, step: int) -> Edit | None:
        path = self._delta_path(step)
        if not path.exists():
            return None
        delta = Delta.load(path)
        carry = load_file(self._carry_path(step)) if self._carry_path(step).exists() else {}
        return Edit(delta, list(delta.info["edits"]), carry)

    def _keep(self, step: int, edit: Edit) -> None:
        self._keep_carry(step, edit)
        Delta(edit.delta.terms, edit.delta.base, {**edit.delta.info, "edits": edit.info}).save(self._delta_path(step))

    def _keep_carry(self, step: int, edit: Edit) -> None:
        if edit.carry:
            with atomic_path(self._carry_path(step)) as temporary:
                save_file({k: v.detach().cpu().contiguous() for k, v in edit.carry.items()}, temporary)

    def independent(self, steps: Sequence[int], make: Callable[[], list[Edit]]) -> list[Edit]:
        kept = [self._kept(step) for step in steps]
        if all(e is not None for e in kept):
            return [e for e in kept if e is not None]
        with self.folder.phase("edit"):
            edits = make()
        for step, edit in zip(steps, edits, strict=True):
            if is_factored(edit.delta) or self.n * _bytes(edit.delta) <= DENSE_BYTES:
                self._keep(step, edit)
        return edits

    def advance(self, model: Editable, step: int, make: Callable[[], Edit]) -> Edit:
        at = self._position()
        if at is not None and step <= at["step"]:
            return self._jumped(model, at, step)
        edit = self._kept(step)
        if edit is not None:
            if edit.delta.terms and edit.delta.base != model.position:
                raise UserError(
                    f"{self._delta_path(step)} was made at other weights than this run's: the model or its files have "
                    "changed since; use force=true to start anew"
                )
            model.add(edit.delta)
            return edit
        with self.folder.phase("edit"):
            edit = make()
        if is_factored(edit.delta):
            self._keep(step, edit)
            model.add(edit.delta)
        else:
            model.add(edit.delta)
            self._keep_weights(model, step, edit)
        return edit

    def _position(self) -> dict[str, Any] | None:
        """Where the kept weights stand, and what is known of the edits up to there; None where none are kept."""
        if self._infos is None:
            self._at = kept_weights(self.folder.path)
            lines = read_lines(self.folder.path / "state" / "edits.jsonl")
            self._infos = {line["step"]: line["info"] for line in lines}
        return self._at

    def _keep_weights(self, model: Editable, step: int, edit: Edit) -> None:
        state = self.folder.path / "state"
        self._keep_carry(step, edit)
        append(state / "edits.jsonl", as_line({"step": step, "info": edit.info}))
        about = {"step": step, "base": model.base, "position": model.position, "norms": edit.delta.norms()}
        tensors = {name: model.param(name).detach().cpu().contiguous() for name in edit.delta.terms}
        with atomic_path(state / WEIGHTS) as temporary:
            save_file(tensors, temporary, metadata={"edit-robust": json.dumps(about)})

    def _jumped(self, model: Editable, at: dict[str, Any], step: int) -> Edit:
        """An edit up to the kept weights: the last one brings the model there, those before it change nothing."""
        assert self._infos is not None
        kept = self._kept(step)  # a refused one
        info = kept.info if kept else self._infos[step]
        carry = load_file(self._carry_path(step)) if self._carry_path(step).exists() else {}
        if step < at["step"]:
            return Edit(Delta({}, model.position), info, carry)
        put_weights(self.folder.path, model, at)
        return Edit(Delta({}, model.position, {"norms": at["norms"]}), info, carry)

    def keep_total(self, before: Snapshot, model: Editable) -> None:
        """Of a walk of dense changes, keep the whole change as one."""
        weights = self.folder.path / "state" / WEIGHTS
        total = self.folder.path / "deltas" / TOTAL
        if weights.exists() and not total.exists():
            now = model.snapshot(before.values)
            try:
                put_weights(self.folder.path, model, {"position": ""})
                model.difference(before).save(total)
            finally:
                model.restore(now)


def is_factored(delta: Delta) -> bool:
    """Whether a change is small on disk: factors of low rank for every parameter."""
    return all(isinstance(t, LowRank) for t in delta.terms.values())


def _bytes(delta: Delta) -> int:
    return sum(x.numel() * x.element_size() for t in delta.terms.values() for x in t.tensors().values())


# -- reading the edits of a run ------------------------------------------------------------------------------------


def deltas(path: Path) -> list[Delta]:
    """The changes kept in a run's folder, in the order they were made (a walk of dense ones is kept as one)."""
    return [Delta.load(p) for p in sorted((path / "deltas").glob("[0-9]*.safetensors"))]


def stacked(path: Path) -> list[Delta]:
    """The changes of a walk that stacked them. Raises UserError where each was made at the unedited model."""
    found = deltas(path)
    if not found:
        raise UserError(f"{path.name} has kept no change of the weights")
    if len(found) > 1 and len({d.base for d in found}) == 1:
        raise UserError(f"{path.name} made {len(found)} independent edits; take one of `deltas()`")
    return found


def whole(path: Path) -> Delta:
    """The whole change of a sequential walk."""
    total = path / "deltas" / TOTAL
    return Delta.load(total) if total.exists() else Delta.chain(stacked(path))


def replay(path: Path, model: Editable, name: str) -> None:
    """Bring the unedited model to where a sequential walk ended, each step rounded as the walk rounded it.

    Raises UserError when the model is not the one that was edited; `name` is what the run called it.
    """
    weights = kept_weights(path)
    made = [] if weights else stacked(path)
    if (weights["base"] if weights else made[0].base) != model.position:
        raise UserError(f"this is not the model that {path.name} edited ({name}): other weights")
    for delta in made:
        model.add(delta)
    if weights:
        put_weights(path, model, weights)


def kept_weights(path: Path) -> dict[str, Any] | None:
    """What is known about the weights that a run of dense changes keeps: step, base, position, norms."""
    if not (path / "state" / WEIGHTS).exists():
        return None
    with safe_open(str(path / "state" / WEIGHTS), framework="pt") as f:
        return dict(json.loads(f.metadata()["edit-robust"]))


def put_weights(path: Path, model: Editable, about: Mapping[str, Any]) -> None:
    """Copy a run's kept weights into the model."""
    with torch.no_grad():
        for name, value in load_file(path / "state" / WEIGHTS).items():
            model.param(name).copy_(value)
    model.position = about["position"]
