"""Records of language measures at the moments that a table shows, and which requests are asked at a point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from edit_robust.core.errors import UserError

if TYPE_CHECKING:
    from edit_robust.trajectories import Point, Scope

#: Scope -> prefix of its keys in the summary.
PREFIXES = (("unedited", "unedited_"), ("at-edit", ""), ("retention", "retention_"), ("final", "final_"))


def at_moments(records: pd.DataFrame, probe: str, metric: str) -> dict[str, float]:
    """Prefix -> value: right after each edit the mean over its points (weighted by n), else the last point's."""
    some = records[(records.probe == probe) & (records.metric == metric) & (records.request == "")]
    out: dict[str, float] = {}
    for scope, prefix in PREFIXES:
        rows = some[some.scope == scope]
        rows = rows[rows.value.notna()]
        if len(rows):
            last = rows[rows.step == rows.step.max()]
            rows = rows if scope == "at-edit" else last
            out[prefix] = float(np.average(rows.value, weights=np.maximum(rows.n, 1)))
    return out


def check_number(option: str, value: int | None) -> int | None:
    """The value of a measure's option; UserError where it is less than 1."""
    if value is not None and value < 1:
        raise UserError(f"measure.{option}={value} must be at least 1")
    return value


def watched(n: int, n_checked: int | None) -> frozenset[int]:
    """Of n requests the indices of at most `n_checked`, evenly spaced, that are asked again; None: all."""
    many = n if n_checked is None else min(n, n_checked)
    return frozenset(i * n // many for i in range(many))


def asked(point: Point, again: frozenset[int], probe: str | None = None) -> Iterator[tuple[Scope, Sequence[int]]]:
    """The scopes of a point with the requests to ask there: those just edited, and of all others those in `again`.

    probe: a kind of question, which is asked at every check that asks it; None: only where everything is asked.
    """
    for scope in point.scopes:
        if scope.probes is not None and (probe is None or probe not in scope.probes):
            continue
        which = [r for r in scope.requests if scope.name == "at-edit" or r in again]
        if which:
            yield scope, which
