"""Walks of edits upon edits, as the table of claims compares them: which belong together, and what they show.

Editors are compared on the same requests, in the same order and as many at a time, in the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.collapse import Diagnosis, diagnose
from edit_robust.evaluate.statistics.inflection import Inflection
from edit_robust.figures.frame import RunData, sequences, series, setting
from edit_robust.figures.grouping import groups, identity
from edit_robust.figures.language.samples import downstream
from edit_robust.report.claim_rows import Place
from edit_robust.report.numbers import finite
from edit_robust.runs.reader import Run

ROME, MEMIT, FT_C, MEND = "ROME", "MEMIT", "FT-C", "MEND"
#: The paper's names of editors, by ours.
ROLES = {"rome": ROME, "memit": MEMIT, "ft": FT_C, "ft-c": FT_C, "mend": MEND}
#: What two walks may differ in and still be compared.
FREE = ("editor", "layer", "measure", "corruption", "shifts")
#: A slope needs so many checks.
CHECKS = 3


@dataclass(frozen=True, eq=False)
class Walk:
    """One run. method: its editor, with the settings that differ where there are several.   role: the paper's name, "".

    repeat: which order and seed it has.   unit: the same for walks that may be compared with each other.
    """

    run: RunData
    method: str
    role: str
    model: str
    unit: str
    repeat: str

    @property
    def place(self) -> Place:
        """Where values of this walk stand."""
        return self.model, self.unit

    @cached_property
    def broke(self) -> Inflection | None:
        """Between which checks the model broke; None where it did not."""
        found: Diagnosis = self.run.derive(diagnose)
        return found.broke

    @property
    def edit(self) -> float | None:
        """The edit at which it broke: as an autopsy found it, else as the records tell."""
        found: Diagnosis = self.run.derive(diagnose)
        own = finite(self.run.summary, "inflection_edit")
        return None if found.broke is None else own if own is not None else found.edit

    @property
    def whole_until(self) -> float:
        """The last check before the break; infinite where nothing broke."""
        return float("inf") if self.broke is None else self.broke.after

    @property
    def edits(self) -> int:
        """How many edits were made."""
        return int(self.run.tidy["n_edits"].max())

    def forgotten(self, metric: str = "forgotten") -> pd.Series:
        """Share of the past edits that are forgotten, at every check."""
        return series(self.run, scope="retention", probe="edit", metric=metric)

    def before_break(self) -> pd.Series:
        """Share forgotten at every check before the break."""
        values = self.forgotten()
        return values[values.index <= self.whole_until]

    def jump(self) -> float:
        """How much more is forgotten after the break than before it, beyond what that many edits cost before."""
        values, before = self.forgotten(), self.before_break()
        later = values[values.index >= self.broke.until] if self.broke is not None else values[:0]
        if later.empty:
            return float("nan")
        start, level = (float(before.index[-1]), float(before.iloc[-1])) if len(before) else (0.0, 0.0)
        expected = max(slope(before), 0.0) if len(before) >= CHECKS else 0.0
        return float(later.iloc[0]) - level - expected * (float(later.index[0]) - start)

    def fall(self) -> tuple[float, float, float]:
        """(change of the downstream score over the break, beyond what that many edits cost before; before; after).

        Before: the last check up to the break, after: the first one from it on. NaN where one of them is missing.
        """
        values = downstream(self.run).sort_index()
        before = values[values.index <= self.whole_until]
        later = values[values.index >= self.broke.until] if self.broke is not None else values[:0]
        if before.empty or later.empty:
            return (float("nan"),) * 3
        first, last = float(before.index[0]), float(before.index[-1])
        cost = min((before.iloc[-1] - before.iloc[0]) / (last - first), 0.0) if last > first else 0.0
        change = later.iloc[0] - before.iloc[-1] - cost * (float(later.index[0]) - last)
        return float(change), float(before.iloc[-1]), float(later.iloc[0])

    @property
    def kind(self) -> str:
        """What an autopsy calls the edit that broke the model; "" where there was none."""
        return str(self.run.summary.get("culprit_kind") or "")

    @cached_property
    def autopsy(self) -> Mapping[str, Any]:
        """What an autopsy found; {} where there was none."""
        return {} if self.run.path is None else Run(self.run.path).autopsy


def walks(runs: Sequence[RunData]) -> list[Walk]:
    """The language runs among these whose edits pile up and were asked about again; of equal ones the first."""
    kept = [run for run in sequences(runs) if len(series(run, scope="retention", probe="edit", metric="forgotten"))]
    found: dict[tuple[str, Place], Walk] = {}
    for run, method in zip(kept, methods(kept), strict=True):
        order, seed = setting(run.config, "task.order", 0), setting(run.config, "seed", 0)
        repeat = f"order {order}, seed {seed}"
        place = identity(run.config, FREE)
        unit = f"{repeat}, {', '.join(f'{key} {place[key]}' for key in sorted(place))}"
        model = str(setting(run.config, "model.name") or setting(run.config, "model.path") or "model")
        walk = Walk(run, method, role(run), model, unit, repeat)
        found.setdefault((method, walk.place), walk)
    return list(found.values())


def role(run: RunData) -> str:
    """The paper's name of a run's editor; "" for another one, and for one that a guard stands around."""
    name = str(setting(run.config, "editor.name", "")).lower().replace("_", "-")
    return "" if setting(run.config, "editor.guard") else ROLES.get(name, "")


def methods(runs: Sequence[RunData]) -> list[str]:
    """What to call each run's method: its editor, with the settings that differ where one model was edited by several
    of that name. Settings that go with the model, as presets do, make no other method."""
    out = [str(setting(run.config, "editor.name") or run.run_id[:12]) for run in runs]
    alike: dict[tuple[str, str], list[int]] = {}
    for i, (run, name) in enumerate(zip(runs, out, strict=True)):
        alike.setdefault((name, str(setting(run.config, "model.name"))), []).append(i)
    for (name, _), those in alike.items():
        found = groups([RunData(str(i), pd.DataFrame(), _of_editor(runs[i])) for i in those])
        for group in found if len(found) > 1 else ():
            for one in group.runs:
                out[int(one.run_id)] = name if group.label in ("", name) else f"{name}, {group.label}"
    guarded = [bool(setting(run.config, "editor.guard")) for run in runs]
    return [f"{name}, guarded" if guard else name for name, guard in zip(out, guarded, strict=True)]


def _of_editor(run: RunData) -> dict[str, Any]:
    """The part of a config that says how edits are made."""
    size = setting(run.config, "trajectory.batch_size", 1)
    return {
        "editor": setting(run.config, "editor", {}),
        "layer": {"index": setting(run.config, "layer.index")},
        "trajectory": {"batch_size": size},
    }


# -- what they show ------------------------------------------------------------------------------------------------


def by_method(found: Sequence[Walk]) -> list[tuple[str, list[Walk]]]:
    """The walks of each editor, the paper's own editors first."""
    ranks = [ROME, MEMIT, FT_C, MEND, ""]
    ordered = sorted(found, key=lambda walk: (ranks.index(walk.role), walk.method))
    return [(name, list(some)) for name, some in groupby(ordered, key=lambda walk: walk.method)]


def of(found: Sequence[Walk], role: str) -> list[Walk]:
    """The walks of one of the paper's editors."""
    return [walk for walk in found if walk.role == role]


def pairs(found: Sequence[Walk], first: str, second: str) -> list[tuple[Walk, Walk]]:
    """Walks of two of the paper's editors on the same unit."""
    theirs = {walk.place: walk for walk in reversed(of(found, second))}
    ours = {walk.place: walk for walk in reversed(of(found, first))}
    return [(ours[place], theirs[place]) for place in ours if place in theirs]


def together(first: Walk, second: Walk, until: float, metric: str = "forgotten") -> tuple[float, float]:
    """Mean share forgotten by each of two walks over the checks that both have, up to `until` edits; NaN: none."""
    a, b = first.forgotten(metric), second.forgotten(metric)
    same = [n for n in a.index.intersection(b.index) if n <= until]
    return (float(a[same].mean()), float(b[same].mean())) if same else (np.nan, np.nan)


def slope(values: pd.Series) -> float:
    """By how much a series rises an edit, by least squares; NaN of fewer than `CHECKS` checks."""
    if len(values) < CHECKS:
        return float("nan")
    return float(np.polyfit(values.index.to_numpy(dtype=float), values.to_numpy(dtype=float), 1)[0])


def where_broken(some: Sequence[Walk]) -> str:
    """`3 of 4 walks broke, at edits 76 to 120`; `no break in 4 walks of up to 200 edits`."""
    at = sorted(walk.edit for walk in some if walk.edit is not None)
    n = f"{len(some)} walk{'s' if len(some) > 1 else ''}"
    if not at:
        return f"no break in {n} of up to {max(walk.edits for walk in some)} edits"
    place = f"edit {at[0]:.0f}" if at[0] == at[-1] else f"edits {at[0]:.0f} to {at[-1]:.0f}"
    return f"{len(at)} of {n} broke, at {place}"


def after(first: Walk, second: Walk) -> int:
    """1 where the first of two walks breaks later, -1 where earlier, 0 where that is not known."""
    a, b = first.edit, second.edit
    if a is not None and b is not None:
        return int(np.sign(a - b))
    if a is None and b is not None:
        return int(first.edits >= b)
    return -int(second.edits >= a) if a is not None else 0


def needs(found: Sequence[Walk], *roles: str) -> str:
    """Which runs are missing."""
    lacking = [role for role in roles if not of(found, role)]
    return f"no runs of {' and '.join(lacking)}" if lacking else "no runs of both on the same requests"
