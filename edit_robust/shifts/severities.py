"""The `corruption` part of a config: which shifts at which severities, of images or of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edit_robust.core.errors import UserError, nearest

SEVERITIES = range(1, 6)


def read_shifts(
    node: Mapping[str, Any] | None, known: Sequence[str], foreign: Sequence[str] = (), problem: str = ""
) -> dict[str, tuple[int, ...]]:
    """Names with severities; `none: null` is no shift.

    known: the names that there are.   foreign: names of shifts of another kind of data.   problem: what is wrong with
    those, in words. Raises UserError with the nearest name for another one, and for severities other than 1 to 5.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, severities in (node or {}).items():
        if severities is None:
            continue
        if name in foreign:
            raise UserError(f"corruption={name} {problem}; {nearest(name, known, 'corruptions for it')}")
        if name not in known:
            raise UserError(f"there is no corruption {name!r}; {nearest(name, known, 'corruptions')}")
        some = severities if isinstance(severities, list | tuple) else [severities]
        for s in some:
            if isinstance(s, bool) or not isinstance(s, int) or s not in SEVERITIES:
                raise UserError(f"corruption.{name}: severity {s} does not exist; severities are 1 to 5")
        if not some or len(set(some)) != len(some):
            raise UserError(f"corruption.{name}={list(some)} must name each severity once, at least one")
        found[name] = tuple(some)
    return found
