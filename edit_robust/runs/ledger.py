"""The edits of a run: made once, kept, and given back bit for bit when the run goes on.

Changes that are factors are kept one by one, and a walk is replayed by adding them again in the same order and with
the same arithmetic, on the same device. Where that comes to take seconds, the weights are kept now and then, too. A
dense change (fine-tuning) of every step would fill the disk: of a walk that stacks them only the weights are kept, and
what is known about every edit as a line of its own. Either way writing takes a twentieth of the time at most, and the
newest weights replace those before. A run that goes on puts them back and replays, or makes again, the edits since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from edit_robust.core import Delta, Editable, LowRank, UserError
from edit_robust.core.editable import Snapshot
from edit_robust.core.files import atomic_path
from edit_robust.core.pace import Pace
from edit_robust.editors.base import Edit
from edit_robust.runs.checkpoints import ELSEWHERE, Check, keep_weights, kept_weights, put_weights
from edit_robust.runs.files import TOTAL, append, as_line, read_lines
from edit_robust.runs.folder import RunFolder

#: Dense changes of independent edits are kept as long as all of them together take no more bytes than this.
DENSE_BYTES = 4 << 30
#: Bytes of weights that a walk of dense changes writes for a second of editing, at most: a fast disk shall not be worn.
BYTES_A_SECOND = 4e6
#: Seconds that a walk of factors may take to replay before its weights are kept.
REPLAY = 2.0


class EditLedger:
    """Gives edits back, or makes and keeps them; see `trajectories.Ledger`.

    n: how many edits the run makes.   model: on whose devices changes are applied; None leaves them where they are.
    """

    def __init__(self, folder: RunFolder, n: int, model: Editable | None = None) -> None:
        self.folder, self.n, self._model = folder, n, model
        self._stack: Stack | None = None

    def measured(self, step: int) -> bool:
        return step in self.folder.done

    def independent(self, steps: Sequence[int], make: Callable[[], list[Edit]]) -> list[Edit]:
        kept = [kept_edit(self.folder.path, step) for step in steps]
        if all(e is not None for e in kept):
            return [settled(e, self._model) for e in kept if e is not None]
        with self.folder.phase("edit"):
            edits = [settled(e, self._model) for e in make()]
        for step, edit in zip(steps, edits, strict=True):
            if is_factored(edit.delta) or self.n * _bytes(edit.delta) <= DENSE_BYTES:
                keep_edit(self.folder.path, step, edit)
        return edits

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
        if self._stack is None:
            self._stack = Stack(self.folder, model, points)
        return self._stack.advance(step, make, check, last)

    def keep_total(self, before: Snapshot, model: Editable) -> None:
        """Of a walk of dense changes, keep the whole change as one."""
        about = kept_weights(self.folder.path)
        total = self.folder.path / "deltas" / TOTAL
        if about is not None and is_dense(about) and not total.exists():
            now = model.snapshot(before.values)
            try:
                put_weights(self.folder.path, model, {"position": ""})
                model.difference(before).save(total)
            finally:
                model.restore(now)


class Stack:
    """The edits of one walk on top of each other, from the unedited model or from kept weights on.

    Weights are kept when editing since the last time has taken twenty times as long as keeping them, and a second for
    every `BYTES_A_SECOND`: a minute for a projection of GPT-J, all that a kill costs. At checks of past edits the time
    of evaluating counts, too. Of a walk of dense changes they are always kept after the last edit; a walk of factors,
    which loses nothing by a kill, keeps them only when it would take `REPLAY` seconds to add the changes again.
    """

    def __init__(self, folder: RunFolder, model: Editable, points: bool) -> None:
        self.folder, self.path, self.model = folder, folder.path, model
        self.start = kept_weights(self.path) or {"step": 0}
        if points and any(step not in folder.done for step in range(1, self.start["step"])):
            self.start = {"step": 0}  # points that are answered together were not written before the process ended
        self.known = {line["step"]: line for line in read_lines(self.path / "state" / "edits.jsonl")}
        self.check = Check(self.path)
        self.changed: set[str] = set()
        self.dense = self.start["step"] > 0 and is_dense(self.start)  # whether the walk has made dense changes
        self.unkept = False  # whether there are changes that no kept weights hold
        self.editing, self.adding, self.kept_at = 0.0, 0.0, time.monotonic()
        self._known_pace: Pace | None = None

    def advance(self, step: int, make: Callable[[], Edit], check: bool, last: bool) -> Edit:
        """See `EditLedger.advance`."""
        if step < self.start["step"]:
            return self._passed(step)
        if step == self.start["step"]:
            edit = self._jumped(step)
        else:
            edit = self._made(step, make)
            self.changed |= set(edit.delta.terms)
            self.unkept |= bool(edit.delta.terms)
            if self.unkept and ((last and self.dense) or self._due(check)):
                self._keep_weights(step, edit)
        if check or last:
            self.check.at(self.model, step, self.changed)
        return edit

    def _passed(self, step: int) -> Edit:
        """An edit before the kept weights: its change is not there any more."""
        info = kept_info(self.path, step)
        return Edit(
            Delta({}, self.model.position), self.known[step]["info"] if info is None else info, self._carry(step)
        )

    def _jumped(self, step: int) -> Edit:
        """The edit behind which the kept weights stand."""
        edit = self._passed(step)
        self.changed = put_weights(self.path, self.model, self.start)
        return replace(edit, delta=Delta({}, self.model.position, {"norms": self.start["norms"]}))

    def _carry(self, step: int) -> dict[str, Any]:
        path = _carry_path(self.path, step)
        return load_file(path) if path.exists() else {}

    def _made(self, step: int, make: Callable[[], Edit]) -> Edit:
        """Add the kept change; else make the edit, keep what is to be kept of it, and add it."""
        began = time.monotonic()
        kept = kept_edit(self.path, step)
        if kept is not None:
            edit = settled(kept, self.model)
            if edit.delta.terms and edit.delta.base != self.model.position:
                raise UserError(
                    f"{_delta_path(self.path, step)} was made at other weights than this run's: the model or its files "
                    "have changed since; use force=true to start anew"
                )
            self.model.add(edit.delta)
            self.adding += time.monotonic() - began
            self.editing += time.monotonic() - began
            return edit
        with self.folder.phase("edit"):
            edit = settled(make(), self.model)
        if is_factored(edit.delta):
            keep_edit(self.path, step, edit)
        else:
            self.dense = True
        made = time.monotonic()
        self.model.add(edit.delta)
        self.adding += time.monotonic() - made
        if not is_factored(edit.delta):
            self._note(step, edit)
        self.editing += time.monotonic() - began
        return edit

    def _note(self, step: int, edit: Edit) -> None:
        """Keep what is known about an edit whose change is not kept. UserError where it was made before, and came out
        as another one."""
        known = self.known.get(step)
        if known is None:
            _keep_carry(self.path, step, edit)
            line = {"step": step, "info": edit.info, "position": self.model.position}
            append(self.path / "state" / "edits.jsonl", as_line(line))
        elif known["position"] != self.model.position:
            raise UserError(
                f"{self.path.name}: edit {step} was made again and is not the one that this run had. {ELSEWHERE}"
            )

    @property
    def pace(self) -> Pace:
        """How often the weights are kept."""
        if self._known_pace is None:
            size = sum(self.model.param(n).nbytes for n in self.changed)
            self._known_pace = Pace.for_bytes(size, at_least=size / BYTES_A_SECOND)
        return self._known_pace

    def _due(self, check: bool) -> bool:
        """Whether to keep the weights now; a walk of factors is in no hurry."""
        if not self.dense and self.adding < REPLAY:
            return False
        return self.pace.due(time.monotonic() - self.kept_at if check else self.editing)

    def _keep_weights(self, step: int, edit: Edit) -> None:
        norms = edit.delta.norms()
        about = {"step": step, "base": self.model.base, "position": self.model.position, "norms": norms}
        about["dense"] = self.dense
        with self.pace.writing():
            keep_weights(self.path, self.model, self.changed, about)
        self.unkept, self.editing, self.adding, self.kept_at = False, 0.0, 0.0, time.monotonic()


def is_dense(about: Mapping[str, Any]) -> bool:
    """Whether kept weights hold changes that are kept nowhere else; runs of older versions kept no others."""
    return bool(about.get("dense", True))


def settled(edit: Edit, model: Editable | None) -> Edit:
    """The edit as its files give it back: the change on the devices of the parameters, what it carries on the CPU.

    Made now or read from a file, it then goes through the same operations on the same device, with the same bits.
    """
    carry = {k: v.detach().cpu().contiguous() for k, v in edit.carry.items()}
    delta = edit.delta if model is None else edit.delta.on(lambda name: model.param(name).device)
    same = delta is edit.delta and all(
        v.device.type == "cpu" and v.is_contiguous() and not v.requires_grad for v in edit.carry.values()
    )
    return edit if same else replace(edit, delta=delta, carry=carry)


# -- edits as files ------------------------------------------------------------------------------------------------


def _delta_path(path: Path, step: int) -> Path:
    return path / "deltas" / f"{step:06d}.safetensors"


def _carry_path(path: Path, step: int) -> Path:
    return path / "state" / f"{step:06d}.safetensors"


def kept_edit(path: Path, step: int) -> Edit | None:
    """An edit as it was kept in a run's folder; None where its change was not."""
    file, carried = _delta_path(path, step), _carry_path(path, step)
    if not file.exists():
        return None
    delta = Delta.load(file)
    return Edit(delta, list(delta.info["edits"]), load_file(carried) if carried.exists() else {})


def kept_info(path: Path, step: int) -> list[dict[str, float]] | None:
    """What the editor told of an edit that was kept with its change, which is not read; None where it was not."""
    file = _delta_path(path, step)
    return list(Delta.read_info(file)["edits"]) if file.exists() else None


def keep_edit(path: Path, step: int, edit: Edit) -> None:
    """Keep an edit with its change."""
    _keep_carry(path, step, edit)
    Delta(edit.delta.terms, edit.delta.base, {**edit.delta.info, "edits": edit.info}).save(_delta_path(path, step))


def _keep_carry(path: Path, step: int, edit: Edit) -> None:
    if edit.carry:
        with atomic_path(_carry_path(path, step)) as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in edit.carry.items()}, temporary)


def is_factored(delta: Delta) -> bool:
    """Whether a change is small on disk: factors of low rank for every parameter."""
    return all(isinstance(t, LowRank) for t in delta.terms.values())


def _bytes(delta: Delta) -> int:
    return sum(x.numel() * x.element_size() for t in delta.terms.values() for x in t.tensors().values())


# -- reading the edits of a run ------------------------------------------------------------------------------------


def deltas(path: Path, after: int = 0, upto: int | None = None) -> list[Delta]:
    """The changes kept in a run's folder, in the order they were made (a walk of dense ones is kept as one).

    after: leave out those of this step and before.   upto: leave out those of later steps.
    """
    files = [p for p in sorted((path / "deltas").glob("[0-9]*.safetensors")) if int(p.stem) > after]
    return [Delta.load(p) for p in files if upto is None or int(p.stem) <= upto]


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


def replay(path: Path, model: Editable, name: str, upto: int | None = None) -> None:
    """Bring the unedited model to where a sequential walk ended, each step rounded as the walk rounded it.

    upto: the step after which to stop; None: the last one.
    Raises UserError when the model is not the one that was edited (`name` is what the run called it), and for a step
    whose weights cannot be made again.
    """
    weights = kept_weights(path)
    if weights and upto is not None and weights["step"] > upto:
        if is_dense(weights):
            raise UserError(
                f"{path.name} kept no change of edit {upto}: its edits change whole matrices, of which the weights "
                f"after step {weights['step']} alone are kept"
            )
        weights = None
    if not weights:
        stacked(path)
    made = deltas(path, after=weights["step"] if weights else 0, upto=upto)
    edited = weights["base"] if weights else made[0].base if made else model.base
    if model.position != model.base or edited not in (model.base, *model.older_bases):
        raise UserError(
            f"this is not the model that {path.name} edited ({name}): other weights, or another config or tokenizer"
        )
    if weights:
        put_weights(path, model, weights)
    for delta in made:
        model.add(delta)


def requests_by_step(path: Path) -> dict[int, int]:
    """Of how many requests each kept or noted edit of a run is, by its step."""
    found = {line["step"]: len(line["info"]) for line in read_lines(path / "state" / "edits.jsonl")}
    for file in (path / "deltas").glob("[0-9]*.safetensors"):
        found[int(file.stem)] = len(Delta.read_info(file).get("edits") or [None])
    return dict(sorted(found.items()))
