"""The edits of a finished run, given back once more so that something new can be asked along its walk."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open

from edit_robust.core import Delta, Editable, UserError
from edit_robust.editors.base import Edit
from edit_robust.runs.checkpoints import kept_weights, put_weights
from edit_robust.runs.files import WEIGHTS, read_json, read_lines
from edit_robust.runs.ledger import is_dense, kept_edit, kept_info, settled


class Replay:
    """A ledger that makes no edit: it gives back those that a run has kept. See `trajectories.Ledger`.

    path:   the run's folder.   model: on whose devices changes are added.
    wanted: the steps to be yielded; a step that is not among them counts as measured.

    Raises UserError where a change is wanted that the run has not kept.
    """

    def __init__(self, path: Path, model: Editable, wanted: Collection[int]) -> None:
        self.path, self.model, self.wanted = path, model, frozenset(wanted)
        self.known = {line["step"]: line["info"] for line in read_lines(path / "state" / "edits.jsonl")}
        about = kept_weights(path) or {"step": 0}
        later = [step for step in self.wanted if step]
        self.only = about["step"] if about["step"] and is_dense(about) else 0  # the one place that can be jumped to
        early = sorted(step for step in later if step < self.only)
        if early:
            raise UserError(
                f"{path.name} kept no change of edit {early[0]}: its edits change whole matrices, of which the weights "
                f"after edit {self.only} alone are kept; ask with steps=last"
            )
        self.start = about if later and min(later) >= about["step"] else {"step": 0}

    def measured(self, step: int) -> bool:
        return step not in self.wanted

    def independent(self, steps: Sequence[int], make: Callable[[], list[Edit]]) -> list[Edit]:
        return [self._kept(step) for step in steps]

    def advance(
        self,
        model: Editable,
        step: int,
        make: Callable[[], Edit],
        *,
        check: bool = False,
        last: bool = False,
        points: bool = True,
    ) -> Edit:
        if step > self.start["step"]:
            edit = self._kept(step)
            if edit.delta.terms and edit.delta.base != model.position:
                raise UserError(f"{self.path.name}: the change of edit {step} was made at other weights than these")
            model.add(edit.delta)
            return edit
        info = kept_info(self.path, step)
        passed = Edit(Delta({}, model.position), self.known.get(step, []) if info is None else info)
        if step == self.start["step"]:
            put_weights(self.path, model, self.start)
            passed = replace(passed, delta=Delta({}, model.position, {"norms": self.start["norms"]}))
        return passed

    def _kept(self, step: int) -> Edit:
        kept = kept_edit(self.path, step)
        if kept is None:
            raise UserError(f"{self.path.name} kept no change of edit {step}: nothing can be asked after it any more")
        return settled(replace(kept, carry={}), self.model)


def changed_parameters(path: Path) -> list[str]:
    """Names of the parameters that a run's edits may change: as the run noted them, else those of the kept changes."""
    noted = read_json(path / "status.json").get("changes")
    if noted:
        return list(noted)
    names: dict[str, None] = {}
    for file in sorted((path / "deltas").glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as f:
            names |= dict.fromkeys(json.loads((f.metadata() or {}).get("order", "[]")))
    if (path / "state" / WEIGHTS).exists():
        with safe_open(str(path / "state" / WEIGHTS), framework="pt") as f:
            names |= dict.fromkeys(f.keys())
    return list(names)
