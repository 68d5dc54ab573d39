"""A walk along the checkpoints of a training run. At every one of them all requests are asked everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from edit_robust.core import Editable, Request, UserError
from edit_robust.core.options import DataFile
from edit_robust.editors.base import Edit, Editor, State, edit_or_refuse
from edit_robust.trajectories import Ledger, Point, Scope


@runtime_checkable
class Staged(Protocol):
    """An editor that leads from one place to the next, whatever is requested."""

    @property
    def stages(self) -> int: ...

    def stage(self, i: int) -> Editor: ...


class Checkpoints:
    """From the unedited model to each of the editor's checkpoints in turn, each change from the one before.

    of: the editor's checkpoints (its option `path`), of which the walk's length follows.
    """

    def __init__(self, of: DataFile | list[DataFile] | None = None, name: str = "checkpoints") -> None:
        self.name, self.n = name, len(of) if isinstance(of, list) else 1

    def points(self, n: int) -> int:
        """One a checkpoint, and the unedited model."""
        return self.n + 1

    def walk(
        self, model: Editable, editor: Editor, state: State[Any], requests: Sequence[Request], ledger: Ledger
    ) -> Iterator[Point]:
        if not isinstance(editor, Staged):
            raise UserError(f"trajectory={self.name} walks along what editor=checkpoint is given, not {editor.name}")
        everyone = range(len(requests))
        yield Point(0, 1.0, 0, (Scope("unedited", everyone),), whole=True)
        with model.held(state.changes(model)) as before:
            for step in range(1, self.n + 1):

                def make(step: int = step, state: State[Any] = state) -> Edit:
                    return edit_or_refuse(editor.stage(step - 1), model, requests, state)

                edit = ledger.advance(model, step, make, check=True, last=step == self.n)
                state = state.after(edit)
                if ledger.measured(step):
                    continue
                told = tuple(zip(everyone, edit.info, strict=True))
                norms = dict(edit.delta.info.get("norms") or edit.delta.norms())
                so_far = partial(model.difference, before)
                yield Point(step, 1.0, len(requests), (Scope("final", everyone),), True, told, norms, so_far)

    def looked_at(self, point: Point) -> Point:
        return replace(point, whole=True)
