"""When a measure that takes long looks at a walk: before it, after every so many edits, and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edit_robust.trajectories import Point


def due(point: Point, every: int, n: int) -> bool:
    """Whether a point is the unedited model, reaches a multiple of `every` edits, or is the last of n requests.

    Points between the unedited and the edited model (alpha) and separate batches count as ends.
    """
    if point.step == 0 or any(scope.name == "final" for scope in point.scopes):
        return True
    newest = [i for scope in point.scopes if scope.name == "at-edit" for i in scope.requests]
    if not newest:
        return point.whole
    first, done = min(newest), max(newest) + 1
    return crosses(first, done, every) or done == n


def crosses(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` edits is reached on the way from `before` edits to `after`."""
    return after // every > before // every
