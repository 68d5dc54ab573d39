"""Where a sequence of edits broke the model, and which edit is suspected: read from what other measures recorded.

Three curves of what is lost tell where: perplexity (its logarithm), forgotten edits, and neighbouring facts that the
model no longer says by itself (NS_acc, of the edits since the check before). Between the two checks around the break
the edit with the largest change of the weights is the suspect, where it sticks out. Whether it breaks the model by
itself is known once it is replayed alone: `edit-robust autopsy`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from edit_robust.core.data import Column
from edit_robust.core.signs import ENOUGH, SIGNS, Sign
from edit_robust.evaluate.base import Measure, Measured, Results
from edit_robust.evaluate.statistics.inflection import Inflection, inflection

if TYPE_CHECKING:
    from edit_robust.trajectories import Point

#: What must be lost for a rise to matter: perplexity doubled; a quarter of the past edits, or of the neighbours' facts.
PERPLEXITY, SHARE = math.log(2), 0.25
#: Curves by which a model is called broken, in the order in which they are asked.
OUTCOMES = ("perplexity", "forgotten", "NS_acc")
#: An edit sticks out when its sign is so many times as bad as that of the median edit.
STICKS_OUT = 3.0
#: What an edit is suspected by: how far it moved the weights.
SIZES = ("relative_norm", "delta_norm")


class Collapse(Measure):
    """The edit at which the model broke, and the one that is suspected. Asks the model nothing."""

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        return Measured()

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """inflection_edit, culprit_edit, culprit_id, culprit_kind and what goes with them; None where nothing broke.

        Nothing for edits that do not pile up. What an autopsy of the run has found stands in place of the suspicion.
        """
        if not piles_up(results.records):
            return []
        found: dict[str, Any] = diagnose(results.records).to_dict()
        found |= {key: value for key, value in getattr(results, "autopsy", {}).items() if key in found}
        return [
            Column(
                key,
                value,
                LABELS.get(key, ""),
                unit="text" if isinstance(value, str) else "count" if key in LABELS else "number",
            )
            for key, value in found.items()
        ]


LABELS = {"inflection_edit": "the model broke at edit number"}


@dataclass(frozen=True)
class Suspect:
    """An edit that may have broken the model.

    edit: its number, counted from 1.   id: of its request.   values: its warning signs.
    medians: of the same signs over all edits until the break.
    """

    edit: int
    id: str
    values: Mapping[str, float]
    medians: Mapping[str, float]

    @property
    def worst(self) -> Sign | None:
        """The first sign that sticks out."""
        for sign in SIGNS:
            if sign.key in self.values and sign.key in self.medians:
                beyond = sign.risk(self.values[sign.key]) - sign.risk(self.medians[sign.key])
                if beyond >= math.log(STICKS_OUT):
                    return sign
        return None


@dataclass(frozen=True)
class Prevention:
    """A guard that would not have let the suspect pass. catches: how many of the run's edits it would have stopped."""

    option: str
    catches: int


@dataclass(frozen=True)
class Diagnosis:
    """What the records say of a walk. broke: between which checks, by the curve that tells it first.

    curves: every curve that breaks.   edit: at which the model broke, as exactly as the records tell.
    """

    broke: Inflection | None = None
    edit: int | None = None
    suspect: Suspect | None = None
    prevention: Prevention | None = None
    curves: Mapping[str, Inflection] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the summary."""
        s, b, p = self.suspect, self.broke, self.prevention
        worst = s.worst if s else None
        return {
            "inflection_edit": self.edit,
            "inflection_after": int(b.after) if b else None,
            "inflection_until": int(b.until) if b else None,
            "culprit_edit": s.edit if s else None,
            "culprit_id": s.id if s else None,
            "culprit_kind": None,
            "culprit_sign": worst.key if worst else None,
            "culprit_sign_value": s.values[worst.key] if s and worst else None,
            "culprit_sign_median": s.medians[worst.key] if s and worst else None,
            "prevented_by": p.option if p else None,
            "prevented_catches": p.catches if p else None,
        }


def diagnose(records: pd.DataFrame) -> Diagnosis:
    """Whether and where the edits of a walk broke the model, and which one is suspected."""
    curves = inflections(records)
    outcomes = [curves[name] for name in OUTCOMES[:2] if name in curves]
    outcomes = outcomes or [curves[name] for name in OUTCOMES if name in curves]
    if not outcomes:
        return Diagnosis(curves=curves)
    broke = min(outcomes, key=lambda one: one.until)
    table = edits(records)
    suspect = suspect_of(table, broke)
    edit = suspect.edit if suspect else first_lost(records, broke) or int(broke.until)
    return Diagnosis(broke, edit, suspect, prevention(table, suspect) if suspect else None, curves)


# -- curves --------------------------------------------------------------------------------------------------------


def piles_up(records: pd.DataFrame) -> bool:
    """Whether the edits of a run were made on top of each other."""
    made = records[(records.scope == "at-edit") & (records.step > 0)].drop_duplicates("step").sort_values("step")
    return len(made) > 1 and bool((np.diff(made.n_edits.to_numpy(dtype=float)) > 0).all())


def inflections(records: pd.DataFrame) -> dict[str, Inflection]:
    """The abrupt phase of every curve that has one: `OUTCOMES`, and drift."""
    found = {}
    text = _series(records, "model", "text", "perplexity")
    if len(text):
        values = pd.to_numeric(text.value).to_numpy(dtype=float)
        logs = np.log(np.where(np.isfinite(values) & (values > 0), values, np.nan))
        logs[np.isnan(logs)] = (np.nanmax(logs) if (~np.isnan(logs)).any() else 0.0) + math.log(1000)  # not finite
        found["perplexity"] = inflection(_edits(text), logs, lambda level: PERPLEXITY)
    lost = _series(records, "retention", "edit", "forgotten")
    if len(lost):
        x, y, n = (np.r_[0.0, part] for part in (_edits(lost), _values(lost), lost.n.to_numpy(dtype=float)))
        found["forgotten"] = inflection(x, y, lambda level: SHARE, n)
    checks = _edits(lost) if len(lost) else _edits(text[text.n_edits > 0]) if len(text) else np.empty(0)
    x, y, n = neighbours_lost(records, checks)
    found["NS_acc"] = inflection(x, y, lambda level: SHARE, n, widest=2)
    moved = records[(records.scope == "model") & (records.metric == "drift_fro") & (records.step > 0)]
    if len(moved):
        drift = moved.assign(square=_values(moved) ** 2).groupby("n_edits").square.sum() ** 0.5
        found["drift"] = inflection(
            drift.index.to_numpy(dtype=float), drift.to_numpy(dtype=float), lambda level: max(level, 1e-12)
        )
    return {name: one for name, one in found.items() if one is not None}


def neighbours_lost(records: pd.DataFrame, checks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(edits, share, of how many requests): facts about the newest edits' neighbours that the model does not say.

    The edits between two checks are taken together. The unedited model is left out: an edit costs its own neighbours
    something from the first one on, without the model being broken.
    """
    asked = _series(records, "at-edit", "neighbourhood", "accuracy")
    if asked.empty or not len(checks):
        return np.empty(0), np.empty(0), np.empty(0)
    block = np.searchsorted(checks, _edits(asked))
    inside = block < len(checks)
    weights = asked.n.to_numpy(dtype=float)[inside]
    size = np.bincount(block[inside], weights=weights, minlength=len(checks))
    lost = np.bincount(block[inside], weights=weights * (1 - _values(asked)[inside]), minlength=len(checks))
    full = size > 0
    x, y, n = checks[full], lost[full] / size[full], size[full]
    return x, y, n


def first_lost(records: pd.DataFrame, broke: Inflection) -> int | None:
    """Of the edits around the break, the first from which on the newest edits' neighbours are mostly wrong.

    Mostly: by half of the way from what they were before to nothing. None where there is no such edit.
    """
    asked = _series(records, "at-edit", "neighbourhood", "accuracy")
    x, y = _edits(asked), _values(asked)
    before, around = y[x <= broke.after], (x > broke.after) & (x <= broke.until)
    if not len(before) or not around.any():
        return None
    wrong = y[around] < np.median(before) / 2
    last_right = np.flatnonzero(~wrong)
    first = int(last_right[-1]) + 1 if len(last_right) else 0
    return int(x[around][first]) if first < int(around.sum()) else None


def _series(records: pd.DataFrame, scope: str, probe: str, metric: str) -> pd.DataFrame:
    """Records of one number of the whole edits, one a number of edits, in their order."""
    some = records[(records.scope == scope) & (records.probe == probe) & (records.metric == metric)]
    some = some[some["shift"].isin(["none", ""]) & (some.request == "")]
    return some.drop_duplicates("n_edits", keep="last").sort_values("n_edits")


def _edits(some: pd.DataFrame) -> np.ndarray:
    return some.n_edits.to_numpy(dtype=float)


def _values(some: pd.DataFrame) -> np.ndarray:
    return pd.to_numeric(some.value).to_numpy(dtype=float)


# -- the suspect ---------------------------------------------------------------------------------------------------


def edits(records: pd.DataFrame) -> pd.DataFrame:
    """What editors told of every edit: a row a request with its number (from 1), id, and a column a metric."""
    told = records[(records.scope == "at-edit") & (records.probe == "") & (records.layer == "")]
    told = told[(told.request != "") & (told.step > 0)].drop_duplicates(["step", "request", "metric"], keep="last")
    if told.empty:
        return pd.DataFrame(columns=["step", "number", "id"])
    order = told.drop_duplicates(["step", "request"])[["step", "request", "n_edits"]].sort_values("step", kind="stable")
    size = order.groupby("step").step.transform("size")
    order = order.assign(number=order.n_edits - size + order.groupby("step").cumcount() + 1)
    wide = told.assign(value=_values(told)).pivot(index=["step", "request"], columns="metric", values="value")
    joined = order.set_index(["step", "request"]).join(wide).reset_index().rename(columns={"request": "id"})
    return joined.sort_values("number").reset_index(drop=True)


def suspect_of(table: pd.DataFrame, broke: Inflection) -> Suspect | None:
    """The edit around the break that moved the weights most, where that sticks out from the edits until then."""
    size = next((name for name in SIZES if name in table), None)
    if size is None:
        return None
    part = table["guard_scale"].fillna(1.0) if "guard_scale" in table else 1.0
    applied = table[size] * part
    if "refused" in table:
        applied = applied.where(table["refused"] == 0, 0.0)
    until = table.assign(applied=applied)[table.number <= broke.until]
    around = until[until.number > broke.after]
    if around.applied.isna().all():
        return None
    top = around.iloc[int(np.nanargmax(around.applied.to_numpy(dtype=float)))]
    return described(until, top) if top.applied >= STICKS_OUT * float(until.applied.median()) else None


def described(table: pd.DataFrame, row: pd.Series) -> Suspect:
    """An edit as a suspect, its signs beside their medians over `table`."""
    keys = [sign.key for sign in SIGNS if sign.key in table and math.isfinite(float(row[sign.key]))]
    values = {key: float(row[key]) for key in keys}
    return Suspect(int(row.number), str(row.id), values, {key: float(table[key].median()) for key in keys})


def prevention(table: pd.DataFrame, suspect: Suspect, signs: Sequence[Sign] = SIGNS) -> Prevention | None:
    """The guard that would have stopped the suspect: the first whose usual line it passes, else one with a line of its
    own between the suspect and the next worst edit. None where no sign of it is the worst of the run."""
    here = [sign for sign in signs if sign.key in suspect.values]
    for sign in here:
        stopped = stopped_by(sign, table) if sign.guard else set()
        if suspect.edit in stopped:
            return Prevention(f"editor.guard={sign.guard}", len(stopped))
    for sign in here:
        risks = table[table.number != suspect.edit][sign.key].dropna().map(sign.risk)
        own = sign.risk(suspect.values[sign.key])
        if len(risks) and math.isfinite(own) and own - float(risks.max()) >= math.log(1.5):
            middle = (own + float(risks.max())) / 2
            line = float(f"{math.exp(middle if sign.danger == 'high' else -middle):.2g}")
            side = "above" if sign.danger == "high" else "below"
            option = f"'editor.guard={{sign:{sign.key},{side}:{line:g}}}'"
            return Prevention(option, int(sum(sign.passes(float(v), line) for v in table[sign.key].dropna())))
    return None


def stopped_by(sign: Sign, table: pd.DataFrame) -> set[int]:
    """Numbers of the edits that the sign's guard would have stopped with its usual line."""
    passed: list[float] = []
    stopped = set()
    told = table[["number", sign.key]].dropna().itertuples(index=False, name=None)
    for number, value in told:
        beyond = sign.threshold is not None and sign.passes(value, sign.threshold)
        if sign.times is not None and len(passed) >= ENOUGH:
            beyond |= sign.passes(value, sign.line(float(np.median(np.abs(passed))), sign.times))
        if beyond:
            stopped.add(int(number))
        else:
            passed.append(value)
    return stopped
