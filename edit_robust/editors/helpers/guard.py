"""A guard around any editor: edits whose warning sign passes a threshold are refused, or made smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from edit_robust.core import Editable, Request, UserError
from edit_robust.core.errors import nearest
from edit_robust.core.signs import BY_KEY, SIGNS
from edit_robust.editors.base import Edit, Editor, State, refusal, sized


class Guard:
    """What is not let pass.

    sign: what is watched: a warning sign, or any other number that the editor tells of its edits.
    below, above: an edit whose sign is below or above is stopped; without either, the sign's usual line.
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
        action: Literal["refuse", "rescale"] = "refuse",
    ) -> None:
        known = BY_KEY.get(sign)
        if below is None and above is None:
            if known is None or known.threshold is None:
                usual = ", ".join(s.key for s in SIGNS if s.threshold is not None)
                raise UserError(f"editor.guard.sign={sign} has no usual line ({usual} have): give below or above")
            below, above = (known.threshold, None) if known.danger == "low" else (None, known.threshold)
        if below is not None and above is not None and not below < above:
            raise UserError(f"editor.guard.below={below:g} must be less than guard.above={above:g}")
        for name, line in (("below", below), ("above", above)):
            if action == "rescale" and line is not None and not line > 0:
                raise UserError(f"editor.guard.{name}={line:g} must be above 0 for action=rescale")
        self.sign, self.below, self.above, self.action = sign, below, above, action

    def around(self, editor: Editor) -> Editor:
        """The editor with this guard. UserError for a sign that the editor is known not to tell."""
        told = getattr(editor, "signs", None)
        if told is not None and self.sign in BY_KEY and self.sign not in (*told, "relative_norm"):
            raise self._unknown(editor.name, [*told, "relative_norm"])
        return cast(Editor, Guarded(editor, self))

    def judge(self, edit: Edit, name: str = "the editor") -> Edit:
        """The edit as it is let pass. One without a change, as an editor refuses it, passes as it is."""
        if edit.refused:
            return _noted(edit, {})
        beyond = self.beyond(edit, name)
        if not beyond:
            return _noted(edit, {})
        worst = min(beyond, key=beyond.__getitem__)
        scale = beyond[worst] if self.action == "rescale" else 0.0
        reason = f"guard: {self._why(edit.info[worst][self.sign])}"
        if scale < 1e-12:
            stopped = refusal(edit, reason)
            return _noted(stopped, dict.fromkeys(range(len(edit.info)), 0.0))
        info = [{**i, "delta_norm": i["delta_norm"] * scale} if "delta_norm" in i else i for i in edit.info]
        delta = edit.delta.scale(scale)
        kept = Edit(type(delta)(delta.terms, delta.base, {**delta.info, "guard": reason}), info, edit.carry)
        return _noted(kept, dict.fromkeys(range(len(info)), scale))

    def beyond(self, edit: Edit, name: str = "the editor") -> dict[int, float]:
        """Which requests of the edit pass the line, and what part of the change the line would leave."""
        found = {}
        for place, info in enumerate(edit.info):
            if self.sign not in info:
                raise self._unknown(name, list(info))
            value = info[self.sign]
            if self.below is not None and not value >= self.below:
                found[place] = abs(value) / self.below if abs(value) < self.below else 1.0 if value == value else 0.0
            elif self.above is not None and not value <= self.above:
                found[place] = self.above / value if value == value else 0.0
        return found

    def _why(self, value: float) -> str:
        low = self.below is not None and not value >= self.below
        return f"{self.sign} {value:.4g} is {f'below {self.below:g}' if low else f'above {self.above:g}'}"

    def _unknown(self, name: str, told: Sequence[str]) -> UserError:
        return UserError(
            f"editor.guard.sign={self.sign}: {name} tells no such sign; {nearest(self.sign, told, 'signs')}"
        )


class Guarded:
    """An editor with a guard. Everything else is the editor's own."""

    def __init__(self, editor: Editor, guard: Guard) -> None:
        self._editor, self._guard = editor, guard

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_editor" not in self.__dict__:  # being copied or unpickled
            raise AttributeError(name)
        return getattr(self._editor, name)

    def edit(self, model: Editable, requests: Sequence[Request], state: State[Any]) -> Edit:
        """One change for the requests that pass. Those of several that do not are left out, and the others made anew,
        until all of them pass; where the action is to rescale, the whole change is made smaller."""
        edit = sized(self._editor.edit(model, requests, state), model)
        if edit.refused or self._guard.action == "rescale":
            return self._guard.judge(edit, self.name)
        left, told, first = list(range(len(requests))), list(edit.info), edit
        while beyond := {left[i] for i in self._guard.beyond(edit, self.name)}:
            left = [i for i in left if i not in beyond]
            if not left:
                return self._guard.judge(Edit(first.delta, told), self.name)
            edit = sized(self._editor.edit(model, [requests[i] for i in left], state), model)
            for place, info in zip(left, edit.info, strict=True):
                told[place] = info
            if edit.refused:
                break
        stopped = dict.fromkeys(set(range(len(requests))) - set(left), 0.0)
        told = [{**i, "refused": 1.0} if place in stopped else i for place, i in enumerate(told)]
        return _noted(Edit(edit.delta, told, edit.carry), stopped)

    def edit_each(self, model: Editable, requests: Sequence[Request], state: State[Any]) -> list[Edit]:
        """An independent change for each request, as far as it passes."""
        made = self._editor.edit_each(model, requests, state)
        return [self._guard.judge(sized(edit, model), self.name) for edit in made]


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
