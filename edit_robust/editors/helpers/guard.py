"""A guard around any editor: edits whose warning sign passes a threshold are refused, or made smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Literal, cast

import torch

from edit_robust.core import Editable, Request, UserError
from edit_robust.core.errors import nearest
from edit_robust.core.signs import BY_KEY, ENOUGH, SIGNS
from edit_robust.editors.base import Carried, Edit, Editor, Piece, State, refusal, sized


class Guard:
    """What is not let pass.

    sign: what is watched: a warning sign, or any other number that the editor tells of its edits.
    below, above: an edit whose sign is below or above is stopped.
    times: ... or so many times as bad as the median of the edits let pass so far, once there are `ENOUGH`. Edits that
        are made apart from each other have none before them.
        Without any of the three, the sign's usual line.
    action: `refuse` leaves the model as it is; `rescale` makes the change smaller by as much as the sign is beyond the
        line (times value / below, or above / value): a division by too little becomes one by the line.

    What is told of an edit then holds `guarded` (1 where the guard stepped in, else 0) and, where it did, the part of
    the change that was made as `guard_scale`; its signs stay those of the edit asked for. The delta says why.
    """

    def __init__(
        self,
        sign: str,
        below: float | None = None,
        above: float | None = None,
        times: float | None = None,
        action: Literal["refuse", "rescale"] = "refuse",
    ) -> None:
        known = BY_KEY.get(sign)
        if below is None and above is None and times is None:
            if known is None or (known.threshold is None and known.times is None):
                usual = ", ".join(s.key for s in SIGNS if s.guard)
                raise UserError(f"editor.guard.sign={sign} has no usual line ({usual} have): give below or above")
            below, above = (known.threshold, None) if known.danger == "low" else (None, known.threshold)
            times = known.times
        if below is not None and above is not None and not below < above:
            raise UserError(f"editor.guard.below={below:g} must be less than editor.guard.above={above:g}")
        for name, line in (("below", below), ("above", above)):
            if action == "rescale" and line is not None and not line > 0:
                raise UserError(f"editor.guard.{name}={line:g} must be above 0 for action=rescale")
        if times is not None and (known is None or not times > 1):
            signs = nearest(sign, BY_KEY, "signs")
            raise UserError(f"editor.guard.times={times:g} must be above 1, and sign={sign} a warning sign; {signs}")
        self.sign, self.below, self.above, self.times, self.action = sign, below, above, times, action

    def around(self, editor: Editor) -> Editor:
        """The editor with this guard. UserError for a sign that the editor is known not to tell."""
        told = getattr(editor, "signs", None)
        if told is not None and self.sign in BY_KEY and self.sign not in (*told, "relative_norm"):
            raise self._unknown(editor.name, [*told, "relative_norm"])
        return cast(Editor, Guarded(editor, self))

    def judge(self, edit: Edit, name: str = "the editor", past: Sequence[float] = ()) -> Edit:
        """The edit as it is let pass. One without a change, as an editor refuses it, passes as it is.

        past: the signs of the edits let pass so far, for `times`.
        """
        if edit.refused:
            return _noted(edit, {})
        beyond = self.beyond(edit, name, past)
        if not beyond:
            return _noted(edit, {})
        worst = min(beyond, key=beyond.__getitem__)
        scale = beyond[worst] if self.action == "rescale" else 0.0
        reason = f"guard: {self._why(edit.info[worst][self.sign], *self.lines(past))}"
        if scale < 1e-12:
            stopped = refusal(edit, reason)
            return _noted(stopped, dict.fromkeys(range(len(edit.info)), 0.0))
        info = [{**i, "delta_norm": i["delta_norm"] * scale} if "delta_norm" in i else i for i in edit.info]
        delta = edit.delta.scale(scale)
        kept = Edit(type(delta)(delta.terms, delta.base, {**delta.info, "guard": reason}), info, edit.carry)
        return _noted(kept, dict.fromkeys(range(len(info)), scale))

    def lines(self, past: Sequence[float]) -> tuple[float | None, float | None]:
        """Below what and above what an edit is stopped, after edits with these signs."""
        below, above = self.below, self.above
        if self.times is not None and len(past) >= ENOUGH:
            sign = BY_KEY[self.sign]
            line = sign.line(float(median(abs(v) for v in past)), self.times)
            if sign.danger == "low":
                below = line if below is None else max(below, line)
            else:
                above = line if above is None else min(above, line)
        return below, above

    def beyond(self, edit: Edit, name: str = "the editor", past: Sequence[float] = ()) -> dict[int, float]:
        """Which requests of the edit pass the line, and what part of the change the line would leave."""
        below, above = self.lines(past)
        found = {}
        for place, info in enumerate(edit.info):
            if self.sign not in info:
                raise self._unknown(name, list(info))
            value = info[self.sign]
            if value != value:
                found[place] = 0.0
            elif below is not None and value < below:
                found[place] = min(abs(value) / below, 1.0) if below > 0 else 0.0
            elif above is not None and value > above:
                found[place] = max(above / value, 0.0)
        return found

    def _why(self, value: float, below: float | None, above: float | None) -> str:
        low = below is not None and value < below
        return f"{self.sign} {value:.4g} is {f'below {below:.4g}' if low else f'above {above:.4g}'}"

    def _unknown(self, name: str, told: Sequence[str]) -> UserError:
        return UserError(
            f"editor.guard.sign={self.sign}: {name} tells no such sign; {nearest(self.sign, told, 'signs')}"
        )


class Guarded:
    """An editor with a guard. Everything else is the editor's own."""

    def __init__(self, editor: Editor, guard: Guard) -> None:
        self._editor, self._guard = editor, guard
        self._mark = f"guard.{guard.sign}"
        self._pieces: list[Piece] = []  # as the walk carries them, and
        self._own = Carried()  # as the editor left them

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_editor" not in self.__dict__:  # being copied or unpickled
            raise AttributeError(name)
        return getattr(self._editor, name)

    def edit(self, model: Editable, requests: Sequence[Request], state: State[Any]) -> Edit:
        """One change for the requests that pass. Those of several that do not are left out, and the others made anew,
        until all of them pass; where the action is to rescale, the whole change is made smaller."""
        past, state = self._before(state)
        edit = sized(self._editor.edit(model, requests, state), model)
        if edit.refused or self._guard.action == "rescale":
            return self._let_pass(self._guard.judge(edit, self.name, past))
        left, told, first = list(range(len(requests))), list(edit.info), edit
        while beyond := {left[i] for i in self._guard.beyond(edit, self.name, past)}:
            left = [i for i in left if i not in beyond]
            if not left:
                return self._guard.judge(Edit(first.delta, told), self.name, past)
            edit = sized(self._editor.edit(model, [requests[i] for i in left], state), model)
            for place, info in zip(left, edit.info, strict=True):
                told[place] = info
            if edit.refused:
                break
        stopped = dict.fromkeys(set(range(len(requests))) - set(left), 0.0)
        told = [{**i, "refused": 1.0} if place in stopped else i for place, i in enumerate(told)]
        return self._let_pass(_noted(Edit(edit.delta, told, edit.carry), stopped))

    def edit_each(self, model: Editable, requests: Sequence[Request], state: State[Any]) -> list[Edit]:
        """An independent change for each request, as far as it passes."""
        past, state = self._before(state)
        made = self._editor.edit_each(model, requests, state)
        return [self._guard.judge(sized(edit, model), self.name, past) for edit in made]

    def _before(self, state: State[Any]) -> tuple[list[float], State[Any]]:
        """The signs of the edits let pass so far, and the state as the editor itself has made it."""
        if self._guard.times is None:
            return [], state
        pieces, n = state.carried[:], len(self._pieces)
        if len(pieces) < n or any(a is not b for a, b in zip(self._pieces, pieces, strict=False)):
            self._pieces, self._own, n = [], Carried(), 0
        for piece in pieces[n:]:
            self._pieces.append(piece)
            if own := {name: tensor for name, tensor in piece.items() if name != self._mark}:
                self._own = self._own.after(own)
        past = [float(piece[self._mark]) for piece in pieces if self._mark in piece]
        return past, replace(state, carried=self._own)

    def _let_pass(self, edit: Edit) -> Edit:
        """The edit with its worst sign among what it carries on, where later edits are compared with it."""
        if self._guard.times is None or edit.refused:
            return edit
        worst = max((i[self._guard.sign] for i in edit.info if not i.get("guarded")), key=self._risk, default=None)
        if worst is None:
            return edit
        return replace(edit, carry={**edit.carry, self._mark: torch.tensor(worst, dtype=torch.float64)})

    def _risk(self, value: float) -> float:
        return BY_KEY[self._guard.sign].risk(value)


def _noted(edit: Edit, scales: dict[int, float]) -> Edit:
    """The edit with what the guard did to each of its requests: the part of the change that was made of it."""
    info = [
        {
            **i,
            "guarded": max(i.get("guarded", 0.0), float(place in scales)),
            **({"guard_scale": scales[place]} if place in scales else {}),
        }
        for place, i in enumerate(edit.info)
    ]
    return Edit(edit.delta, info, edit.carry)
