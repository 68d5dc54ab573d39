"""What shifts of text take from an edit and from its neighbours: both penalties of the vision paper, for language.

eq. 1, original-task penalty: Acc(edited, shifted neighbourhood) - Acc(unedited, shifted neighbourhood).
eq. 2, editing-task penalty:  Acc(edited, shifted edit questions) - Acc(edited, clean edit questions).

Records are brought into the form that `statistics.penalties` takes, which computes them for images, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from edit_robust.core.data import Column
from edit_robust.evaluate.columns import END, UNEDITED
from edit_robust.evaluate.statistics import penalties
from edit_robust.evaluate.statistics.paired import bootstrap_mean

#: Metric of the records -> end of the keys, and the protocol in words.
PROTOCOLS = {"accuracy": ("", "argmax"), "success": ("_success", "preference")}
#: Probe of the records -> what it is in the paper's equations.
TASKS = {"edit": "edit", "neighbourhood": "original"}
#: Scope -> prefix of its keys, and what to call it.
SCOPES = {"at-edit": ("", "right after its edit"), "final": ("final_", END)}
EQ1, EQ2 = "original_ood_penalty", "editing_ood_penalty"
LABELS = {
    EQ1: "neighbours, text shifted (eq. 1, {})",
    EQ2: "the edit, text shifted (eq. 2, {})",
    "paraphrase_ood_penalty": "rewordings, text shifted (eq. 2, {})",
}


def table(records: pd.DataFrame, scope: str = "at-edit", metric: str = "accuracy", edit: str = "edit") -> pd.DataFrame:
    """What `penalties` takes: a row for each point, task, shift and severity, the unedited model's rate beside.

    edit: the probe that stands for the edit's own questions (paraphrase: its rewordings). After a single edit the
    unedited model's accuracy under a shift is that of the same questions; else, and where there is none, it is the mean
    over all requests. Columns as of `penalties.scores`; `request` is "".
    """
    tasks = {edit: "edit", "neighbourhood": "original"}
    kept = records[(records.request.fillna("") == "") & records.probe.isin(list(tasks))]
    kept = kept.assign(shift=kept["shift"].replace("", "none").fillna("none"))
    keys = ["probe", "shift", "severity"]
    own = kept[kept.scope == scope].drop_duplicates(["step", "alpha", *keys, "metric"], keep="last")
    wide = own[own.metric == metric][["step", "alpha", *keys, "value", "n"]].rename(columns={"value": "accuracy"})
    before = kept[(kept.scope == "unedited") & (kept.metric == metric)].drop_duplicates(keys, keep="last")
    wide = wide.merge(before[[*keys, "value"]].rename(columns={"value": "unedited"}), on=keys, how="left")
    for name in ("gained", "lost"):
        found = own[own.metric == name][["step", "alpha", *keys, "value", "n"]]
        found = found.rename(columns={"value": name, "n": "questions"} if name == "gained" else {"value": name})
        wide = wide.merge(found.drop(columns="n", errors="ignore"), on=["step", "alpha", *keys], how="left")
    if metric == "accuracy":
        same = wide.accuracy - (wide.gained - wide.lost) / wide.questions  # of one request, whose questions count alike
        wide["unedited"] = same.where((wide.n == 1) & same.notna(), wide.unedited)
    wide = wide.assign(probe=wide.probe.map(tasks), request="", loss=np.nan, unedited_loss=np.nan)
    order = [*penalties.MODEL, *penalties.SHIFT, *penalties.VALUES, "n", "unedited", "unedited_loss"]
    return wide[order]


def columns(records: pd.DataFrame) -> list[Column]:
    """Both penalties at both moments by both protocols: means over shifts and severities, then over requests; by
    severity (`_1` to `_5`) and by shift, right after each edit; and the unedited model's own drop (eq. 2)."""
    mine = records[(records.request.fillna("") == "") & records.probe.isin([*TASKS, "paraphrase"])]
    return list(_columns(mine)) if (mine.severity > 0).any() else []


def _columns(records: pd.DataFrame) -> Iterator[Column]:
    for metric, (end, protocol) in PROTOCOLS.items():
        for scope, (prefix, moment) in SCOPES.items():
            for key, rows in _penalties(records, scope, metric).items():
                if rows.empty:
                    continue
                label, name = LABELS[key].format(protocol), f"{prefix}{key}{end}"
                mean, low, high = _mean(rows)
                heading = {EQ1: "eq. 1", EQ2: "eq. 2"}.get(key, "") if not prefix and not end else ""
                known = np.isfinite(low) and not prefix
                yield Column(
                    name, mean, label, moment, "difference",
                    low if known else None, high if known else None, heading, score=True, brief=not end,
                )  # fmt: skip
                if scope == "at-edit":
                    yield from _parts(rows, key, end, protocol)
        yield from _own_drop(records, metric, end, protocol)
    variants = records[records.severity > 0][["shift", "severity"]].drop_duplicates()
    yield Column("n_variants", len(variants), "shifts of text times severities", UNEDITED, "count", brief=False)


def _penalties(records: pd.DataFrame, scope: str, metric: str) -> dict[str, pd.DataFrame]:
    """Penalties of the points of a scope by name: the last point's alone where it is about the end of the walk."""
    own = table(records, scope, metric)
    reworded = table(records, scope, metric, "paraphrase")
    if scope == "final" and len(own):
        own, reworded = own[own.step == own.step.max()], reworded[reworded.step == own.step.max()]
    found = {
        EQ2: penalties.editing_ood_penalty(own),
        EQ1: penalties.original_ood_penalty(own),
        "paraphrase_ood_penalty": penalties.editing_ood_penalty(reworded),
    }
    return {key: rows[rows.severity > 0] for key, rows in found.items()}


def _mean(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Mean over shifts and severities, then over points by their requests; its interval over single requests."""
    each = rows.groupby("step").agg(penalty=("penalty", "mean"), n=("n", "max"))
    each = each[each.penalty.notna()]
    if each.empty:
        return float("nan"), float("nan"), float("nan")
    mean = float(np.average(each.penalty, weights=each.n))
    if len(each) < 2 or (each.n != 1).any():
        return mean, float("nan"), float("nan")
    return bootstrap_mean(each.penalty.to_numpy())


def _parts(rows: pd.DataFrame, key: str, end: str, protocol: str) -> Iterator[Column]:
    """By severity, which no table shows, and by shift."""
    for severity, some in rows.groupby("severity"):
        yield Column(f"{key}{end}_{severity}", _mean(some)[0])
    for shift, some in rows.groupby("shift"):
        whose = "neighbours" if key == EQ1 else "the edit"
        label = f"... {whose}, {str(shift).replace('-', ' ')} ({protocol})"
        shown = "" if key not in (EQ1, EQ2) else label
        name = f"{key}{end}_{str(shift).replace('-', '_')}"
        yield Column(name, _mean(some)[0], shown, "right after its edit", "difference", brief=False)


def _own_drop(records: pd.DataFrame, metric: str, end: str, protocol: str) -> Iterator[Column]:
    """The unedited model's own drop on the edit's questions: what eq. 2 is to be compared with."""
    rows = penalties.editing_ood_penalty(table(records, "unedited", metric))
    rows = rows[rows.severity > 0]
    if len(rows):
        label = LABELS[EQ2].format(protocol)
        yield Column(f"unedited_{EQ2}{end}", _mean(rows)[0], label, UNEDITED, "difference", score=True, brief=not end)
