"""A run in one flat object: what a table, a sweep or a tracker wants to know of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from edit_robust.core.data import Column
from edit_robust.core.images import Right
from edit_robust.evaluate.answers import Answers
from edit_robust.evaluate.base import Measure, Results
from edit_robust.evaluate.collapse import Collapse
from edit_robust.evaluate.columns import resources
from edit_robust.evaluate.downstream import Downstream
from edit_robust.evaluate.drift import Drift
from edit_robust.evaluate.edits import Edits
from edit_robust.evaluate.forgetting import Forgetting
from edit_robust.evaluate.free_generation import FreeGeneration
from edit_robust.evaluate.generation import Generation
from edit_robust.evaluate.image_answers import ImageAnswers
from edit_robust.evaluate.kl import Kl
from edit_robust.evaluate.lm_eval import LmEval
from edit_robust.evaluate.perplexity import Perplexity
from edit_robust.evaluate.retention import Retention
from edit_robust.evaluate.ripple import Ripple
from edit_robust.evaluate.text_shifts import TextShifts

#: The built-in measures in the order of the summary; each gives columns only where records hold numbers of its own.
BUILTIN: tuple[type[Measure], ...] = (
    *(Answers, TextShifts, FreeGeneration, Ripple, ImageAnswers, Forgetting, Retention),
    *(Downstream, LmEval, Generation, Perplexity, Kl, Drift, Edits, Collapse),
)


@dataclass(frozen=True)
class RecordsAlone:
    """Results of which only the records are known, not what single images got."""

    records: pd.DataFrame

    def right(self, step: int) -> Right:
        return {}

    def pictures(self, probe: str, request: str) -> Sequence[str]:
        return []


def columns_of(
    measures: Iterable[Measure | type[Measure]],
    results: Results,
    seconds: Mapping[str, float] | None = None,
    memory: Mapping[str, float] | None = None,
    versions_changed: Sequence[str] = (),
) -> list[Column]:
    """The measures' columns, then time and memory, each key once; numbers that are not finite become None.

    seconds: of each phase.   memory: peaks in MiB.   versions_changed: what differs between the run's processes.
    """
    cost: dict[str, float] = {f"seconds_{name}": round(value, 3) for name, value in (seconds or {}).items()}
    cost |= {f"peak_memory_mb_{name}": value for name, value in (memory or {}).items()}
    found: dict[str, Column] = {}
    for column in [c for m in measures for c in m.columns(results)] + resources(cost):
        found.setdefault(column.key, replace(column, value=_finite(column.value)))
    if versions_changed:
        text = "; ".join(versions_changed)
        found["versions_changed"] = Column("versions_changed", text, "versions changed while running", unit="text")
    return list(found.values())


def summarise(
    records: pd.DataFrame, seconds: Mapping[str, float] | None = None, memory: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The flat summary of records alone, by all built-in measures."""
    records = records if "request" in records else records.assign(request="")
    return flat(columns_of(BUILTIN, RecordsAlone(records.assign(request=records.request.fillna(""))), seconds, memory))


def flat(columns: Sequence[Column]) -> dict[str, Any]:
    """Columns as they stand in summary.json: each interval beside its value."""
    out: dict[str, Any] = {}
    for c in columns:
        out[c.key] = c.value
        if c.low is not None and c.high is not None:
            out |= {f"{c.key}_low": c.low, f"{c.key}_high": c.high}
    return out


def _finite(value: float | int | str | None) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
