"""Walks through weight space. A walk yields points; at each point the model stands in its changed state.

A walk takes its edits from a ledger, which makes them or, when a run goes on after an interruption, gives them back
bit for bit. Points that have been measured already are walked through without being yielded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from edit_robust.core import Delta, Editable, Request, UserError
from edit_robust.core.combining import SoFar, lines, task_arithmetic, ties
from edit_robust.editors.base import Edit, Editor, State, edit_each_or_refuse, edit_or_refuse

#: Times that past edits are asked all questions in a sequence, unless `trajectory.every_full` says otherwise.
FULL_CHECKS = 10


@dataclass(frozen=True)
class Scope:
    """Some of the requests, to be evaluated at a point: the scope's name (see `core.data.SCOPES`) and their indices.

    probes: the kinds of questions to ask about them, by name; None: all there are.
    """

    name: str
    requests: Sequence[int]
    probes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Point:
    """A point of a walk; the model's weights are those of the point while it is evaluated.

    step:    0 is the unedited model.                 alpha:  part of the edit that is applied.
    n_edits: edits in the model.                      scopes: which requests to evaluate.
    whole:   whether to evaluate what concerns the model as a whole, too: drift and perplexity.
    edits:   the edits just made: index of each request, and what the editor tells about it.
    terms:   Frobenius norm of the newest change of each parameter.
    change:  gives the change W - W0 that `alpha` is a part of.
    """

    step: int
    alpha: float
    n_edits: int
    scopes: tuple[Scope, ...]
    whole: bool = False
    edits: tuple[tuple[int, dict[str, float]], ...] = ()
    terms: dict[str, float] = field(default_factory=dict)
    change: Callable[[], Delta] = lambda: Delta({})


class Ledger(Protocol):
    """Gives edits back, or makes and keeps them."""

    def measured(self, step: int) -> bool:
        """Has the point been measured before?"""
        ...

    def independent(self, steps: Sequence[int], make: Callable[[], list[Edit]]) -> list[Edit]:
        """Edits that all start from the unedited model; made together, so kept or made together."""
        ...

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
        """Bring the model from where `step` - 1 left it to where `step` leaves it: by replaying the kept change, by
        jumping to kept weights, or by making the edit.

        check:  past edits are evaluated after this one.   last: no edit comes after it.
        points: every step is a point of the walk, so that those jumped over must have been measured.
        """
        ...


class Trajectory(Protocol):
    name: str

    def points(self, n: int) -> int:
        """How many points the walk has for n requests, the unedited one included."""
        ...

    def walk(
        self, model: Editable, editor: Editor, state: State[Any], requests: Sequence[Request], ledger: Ledger
    ) -> Iterator[Point]: ...

    def looked_at(self, point: Point) -> Point:
        """A point of the walk with everything asked there that can be, whether the walk asks it there or not."""
        ...


@runtime_checkable
class TellsDepth(Protocol):
    """A model that knows in which order its parameters act."""

    def depths(self, names: Sequence[str]) -> dict[str, float]:
        """From 0 (the first block) to 1 (the last one), by parameter."""
        ...


def _terms(delta: Delta) -> dict[str, float]:
    """Frobenius norm of the change of each parameter; kept ones where the change itself was not kept."""
    kept = delta.info.get("norms")
    return dict(kept) if kept else delta.norms()


def _given(delta: Delta) -> Callable[[], Delta]:
    return lambda: delta


def _with_requests(edit: Edit, requests: Sequence[int]) -> tuple[tuple[int, dict[str, float]], ...]:
    return tuple(zip(requests, edit.info, strict=True))


def _check_every(every: int, name: str = "every") -> int:
    if every < 1:
        raise UserError(f"trajectory.{name}={every} must be at least 1")
    return every


def _check_batch(batch_size: int | None) -> int | None:
    if batch_size is not None and batch_size < 1:
        raise UserError(f"trajectory.batch_size={batch_size} must be at least 1")
    return batch_size


def _needs_batches(editor: Editor, size: int) -> None:
    if size > 1 and not editor.batches:
        raise UserError(
            f"{editor.name} writes one fact at a time: trajectory.batch_size must be 1 (memit and ft can write more)"
        )


class Single:
    """Each edit from the unedited model, one after the other. `chunk` edits are made side by side."""

    def __init__(self, name: str = "single", every: int = 10, chunk: int = 8) -> None:
        if chunk < 1:
            raise UserError(f"trajectory.chunk={chunk} must be at least 1")
        self.name, self.every, self.chunk = name, _check_every(every), chunk

    def points(self, n: int) -> int:
        return n + 1

    def walk(
        self, model: Editable, editor: Editor, state: State[Any], requests: Sequence[Request], ledger: Ledger
    ) -> Iterator[Point]:
        n = len(requests)
        yield Point(0, 1.0, 0, (Scope("unedited", range(n)),), whole=True)
        with model.held(state.changes(model)):  # a change of anything else is refused
            for start in range(0, n, self.chunk):
                some = range(start, min(start + self.chunk, n))
                if all(ledger.measured(i + 1) for i in some):
                    continue
                made = ledger.independent(
                    [i + 1 for i in some],
                    lambda some=some: edit_each_or_refuse(editor, model, [requests[i] for i in some], state),  # type: ignore[misc]
                )
                for i, edit in zip(some, made, strict=True):
                    with model.patched(edit.delta):
                        due = (i + 1) % self.every == 0 or i == n - 1
                        scope = Scope("at-edit", [i])
                        edits = _with_requests(edit, [i])
                        yield Point(i + 1, 1.0, 1, (scope,), due, edits, _terms(edit.delta), _given(edit.delta))

    def looked_at(self, point: Point) -> Point:
        return replace(point, whole=True)


class Batch:
    """`batch_size` requests in one change (all of them when null), each batch from the unedited model."""

    def __init__(self, name: str = "batch", batch_size: int | None = None) -> None:
        self.name, self.batch_size = name, _check_batch(batch_size)

    def points(self, n: int) -> int:
        return -(-n // (self.batch_size or n)) + 1

    def walk(
        self, model: Editable, editor: Editor, state: State[Any], requests: Sequence[Request], ledger: Ledger
    ) -> Iterator[Point]:
        n = len(requests)
        size = self.batch_size or n
        _needs_batches(editor, size)
        yield Point(0, 1.0, 0, (Scope("unedited", range(n)),), whole=True)
        with model.held(state.changes(model)):  # a change of anything else is refused
            for step, start in enumerate(range(0, n, size), start=1):
                some = range(start, min(start + size, n))
                if ledger.measured(step):
                    continue
                made = ledger.independent(
                    [step],
                    lambda some=some: [edit_or_refuse(editor, model, [requests[i] for i in some], state)],  # type: ignore[misc]
                )
                with model.patched(made[0].delta):
                    scope, delta = Scope("at-edit", some), made[0].delta
                    edits = _with_requests(made[0], some)
                    yield Point(step, 1.0, len(some), (scope,), True, edits, _terms(delta), _given(delta))

    def looked_at(self, point: Point) -> Point:
        return replace(point, whole=True)


class Sequential:
    """Edits stack up, `batch_size` at a time, and are never undone.

    Every `every` edits all past ones are asked their own question (the probe `edit`), which is what forgetting is
    computed from. Every `every_full` edits, and at the end, they are asked all questions; None: ten times a run.
    """

    def __init__(
        self, name: str = "sequential", every: int = 10, batch_size: int = 1, every_full: int | None = None
    ) -> None:
        _check_batch(batch_size)
        self.name, self.every, self.batch_size = name, _check_every(every), batch_size
        self.every_full = None if every_full is None else _check_every(every_full, "every_full")

    def full_every(self, n: int) -> int:
        """Of n requests, after how many past ones are asked everything: a multiple of `every` unless it was given."""
        return self.every_full or self.every * max(1, -(-n // (FULL_CHECKS * self.every)))

    def points(self, n: int) -> int:
        return -(-n // self.batch_size) + 1

    def walk(
        self, model: Editable, editor: Editor, state: State[Any], requests: Sequence[Request], ledger: Ledger
    ) -> Iterator[Point]:
        n = len(requests)
        _needs_batches(editor, self.batch_size)
        yield Point(0, 1.0, 0, (Scope("unedited", range(n)),), whole=True)
        with model.held(state.changes(model)) as before:
            so_far = SoFar(model, before)
            for step, some, edit in _stack(model, editor, state, requests, ledger, self.batch_size, self.every):
                so_far.add(edit.delta)
                if ledger.measured(step):
                    continue
                done = some[-1] + 1
                last = done == n
                full = last or _crosses(some, self.full_every(n))
                due = full or _crosses(some, self.every)
                scopes = [Scope("at-edit", some)]
                scopes += [Scope("retention", range(done), None if full else ("edit",))] if due else []
                scopes += [Scope("final", range(n))] if last else []
                edits = _with_requests(edit, some)
                yield Point(step, 1.0, done, tuple(scopes), due, edits, _terms(edit.delta), so_far.change)

    def looked_at(self, point: Point) -> Point:
        """All past edits are asked all questions."""
        scopes = [s for s in point.scopes if s.name != "retention"]
        if point.n_edits:
            scopes.insert(1, Scope("retention", range(point.n_edits)))
        return replace(point, whole=True, scopes=tuple(scopes))


class Interpolate:
    """W0 + alpha (W - W0) between the unedited weights and those after all edits, alpha in `alphas` (beyond 1, too).

    The edits are made at once where the editor can, else one after the other, and every point asks all requests; or,
    with `each`, every edit is made in the unedited model and has a line of its own.
    """

    def __init__(
        self,
        name: str = "interpolate",
        alphas: list[float] | None = None,
        batch_size: int | None = None,
        each: bool = False,
    ) -> None:
        self.name, self.batch_size, self.each = name, _check_batch(batch_size), each
        if each and batch_size is not None:
            raise UserError(f"trajectory.batch_size={batch_size} goes with edits made together, not with each=true")
        self.alphas = _coefficients(alphas)

    def points(self, n: int) -> int:
        return len(self.alphas) * (n if self.each else 1) + 1

    def walk(
        self, model: Editable, editor: Editor, state: State[Any], requests: Sequence[Request], ledger: Ledger
    ) -> Iterator[Point]:
        return (self._lines if self.each else self._line)(model, editor, state, requests, ledger)

    def _lines(
        self, model: Editable, editor: Editor, state: State[Any], requests: Sequence[Request], ledger: Ledger
    ) -> Iterator[Point]:
        """A line for every request; the edit of request i has the step of its line's last point."""
        yield Point(0, 1.0, 0, (Scope("unedited", range(len(requests))),), whole=True)
        k = len(self.alphas)
        with model.held(state.changes(model)):
            for i, request in enumerate(requests):
                steps = [i * k + j + 1 for j in range(k)]
                if all(ledger.measured(s) for s in steps):
                    continue
                made = ledger.independent(
                    steps[-1:],
                    lambda request=request: edit_each_or_refuse(editor, model, [request], state),  # type: ignore[misc]
                )[0]
                for step, alpha in zip(steps, self.alphas, strict=True):
                    if ledger.measured(step):
                        continue
                    part = made.delta.scale(alpha)
                    edits = _with_requests(made, [i]) if step == steps[-1] else ()
                    with model.patched(part):
                        yield Point(
                            step, alpha, 1, (Scope("at-edit", [i]),), True, edits, _terms(part), _given(made.delta)
                        )

    def _line(
        self, model: Editable, editor: Editor, state: State[Any], requests: Sequence[Request], ledger: Ledger
    ) -> Iterator[Point]:
        n = len(requests)
        size = self.batch_size or (n if editor.batches else 1)
        _needs_batches(editor, size)
        yield Point(0, 1.0, 0, (Scope("unedited", range(n)),), whole=True)
        info: list[tuple[int, dict[str, float]]] = []
        edited = 0
        with model.held(state.changes(model)) as before:
            for step, some, edit in _stack(model, editor, state, requests, ledger, size):
                info += _with_requests(edit, some) if edit.info else ()
                edited = step
            total = model.difference(before)
        yield from _along(model, total, self.alphas, edited, n, info, ledger)

    def looked_at(self, point: Point) -> Point:
        return replace(point, whole=True)


class Combine:
    """W0 + alpha T, where T is made of all edits, each made in the unedited model.

    method: `task-arithmetic` (their sum) or `ties`, see `core.combining`.   density: share of elements that TIES keeps.
    alphas: coefficients of T.   depth_low: LiNeS: the first block's change is scaled by this, the last one's by 1, and
        those between in proportion; None: all alike.
    """

    def __init__(
        self,
        name: str = "combine",
        method: Literal["task-arithmetic", "ties"] = "task-arithmetic",
        density: float = 0.2,
        alphas: list[float] | None = None,
        depth_low: float | None = None,
    ) -> None:
        if not 0 < density <= 1:
            raise UserError(f"trajectory.density={density} must be above 0 and at most 1")
        if depth_low is not None and not math.isfinite(depth_low):
            raise UserError(f"trajectory.depth_low={depth_low} must be a finite number, or null")
        self.name, self.method, self.density, self.depth_low = name, method, density, depth_low
        self.alphas = _coefficients(alphas)

    def points(self, n: int) -> int:
        return len(self.alphas) + 1

    def walk(
        self, model: Editable, editor: Editor, state: State[Any], requests: Sequence[Request], ledger: Ledger
    ) -> Iterator[Point]:
        n = len(requests)
        yield Point(0, 1.0, 0, (Scope("unedited", range(n)),), whole=True)
        if all(ledger.measured(n + i + 1) for i in range(len(self.alphas))):
            return
        with model.held(state.changes(model)):  # a change of anything else is refused
            made = ledger.independent(
                range(1, n + 1), lambda: edit_each_or_refuse(editor, model, list(requests), state)
            )
            info = [pair for i, edit in enumerate(made) for pair in _with_requests(edit, [i])]
            total = self._combined(model, [edit.delta for edit in made if edit.delta.terms])
            yield from _along(model, total, self.alphas, n, n, info, ledger)

    def _combined(self, model: Editable, deltas: Sequence[Delta]) -> Delta:
        if not deltas:
            return Delta({}, model.position)  # every edit was refused
        total = ties(deltas, self.density) if self.method == "ties" else task_arithmetic(deltas)
        if self.depth_low is None:
            return total
        if not isinstance(model, TellsDepth):
            raise UserError("trajectory.depth_low needs a model that tells how deep parameters lie (one of images)")
        return lines(total, model.depths(list(total.terms)), self.depth_low)

    def looked_at(self, point: Point) -> Point:
        return replace(point, whole=True)


def _coefficients(alphas: Sequence[float] | None) -> list[float]:
    """The alphas of a line; None: 0 to 1 in steps of .1. UserError for none at all, and for what is not finite."""
    found = [i / 10 for i in range(11)] if alphas is None else [float(a) for a in alphas]
    if not found:
        raise UserError("trajectory.alphas is empty: give at least one coefficient")
    if wrong := [a for a in found if not math.isfinite(a)]:
        raise UserError(f"trajectory.alphas has {wrong[0]} in it: coefficients must be finite numbers")
    return found


def _along(
    model: Editable,
    total: Delta,
    alphas: Sequence[float],
    done: int,
    n: int,
    info: Sequence[tuple[int, dict[str, float]]],
    ledger: Ledger,
) -> Iterator[Point]:
    """Points on the line W0 + alpha `total`, numbered from `done` + 1 on; the last one tells of the n edits."""
    for i, alpha in enumerate(alphas):
        step, part = done + i + 1, total.scale(alpha)
        if ledger.measured(step):
            continue
        with model.patched(part):
            edits = tuple(info) if i == len(alphas) - 1 else ()
            scopes = (Scope("final", range(n)),)
            yield Point(step, alpha, n, scopes, True, edits, _terms(part), _given(total))


def _crosses(some: range, every: int) -> bool:
    """Whether a multiple of `every` edits is reached with these requests."""
    return some.stop // every > some.start // every


def _stack(
    model: Editable,
    editor: Editor,
    state: State[Any],
    requests: Sequence[Request],
    ledger: Ledger,
    size: int,
    every: int | None = None,
) -> Iterator[tuple[int, range, Edit]]:
    """Edit upon edit; at each yield the model stands after the edit.

    every: past edits are evaluated whenever a multiple of so many is reached; None: no step is a point of the walk.
    """
    n = len(requests)
    for step, start in enumerate(range(0, n, size), start=1):
        some = range(start, min(start + size, n))

        def make(some: range = some, state: State[Any] = state) -> Edit:
            return edit_or_refuse(editor, model, [requests[i] for i in some], state)

        check = every is not None and _crosses(some, every)
        edit = ledger.advance(model, step, make, check=check, last=some.stop == n, points=every is not None)
        state = state.after(edit)
        yield step, some, edit
