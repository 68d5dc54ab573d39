"""What warning signs said of edits, beside what these did: for edits made apart, each in the unedited model."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from edit_robust.core.signs import Sign, known
from edit_robust.evaluate.collapse import PERPLEXITY, SHARE, edits, piles_up
from edit_robust.evaluate.statistics.roc import Auc, auc


def harms(records: pd.DataFrame) -> pd.DataFrame:
    """One row an edit that was made alone: what was told of it (a column a metric), and

    perplexity: of the model with it (NaN where it was not measured there).   neighbours: share of its neighbouring
    facts that it says by itself.   harm: what it cost, in doublings of perplexity or quarters of the neighbours'
    facts, whichever is more.   broke: whether harm is 1 or more; a perplexity that is not finite counts as broken.
    Empty for edits that pile up, or that were not made whole.
    """
    at = records[(records.scope == "at-edit") & (records.step > 0)]
    if at.empty or piles_up(records) or at.alpha.nunique() != 1:
        return pd.DataFrame()
    table = edits(records)
    table = table[table.groupby("step").step.transform("size") == 1].set_index("step")
    text = _by_step(records, "model", "text", "perplexity")
    around = _by_step(records, "at-edit", "neighbourhood", "accuracy")
    if table.empty or (text.empty and around.empty):
        return pd.DataFrame()
    table["perplexity"], table["neighbours"] = text.reindex(table.index), around.reindex(table.index)
    before = _by_step(records, "unedited", "neighbourhood", "accuracy")
    worse = pd.Series(-math.inf, index=table.index)
    if 0 in text.index:
        ratio = np.log(table.perplexity.to_numpy(dtype=float) / float(text[0])) / PERPLEXITY
        ratio[np.isnan(ratio) & table.index.isin(text.index)] = math.inf  # measured, and not finite
        worse = pd.Series(np.fmax(worse, ratio), index=table.index)
    if len(before):
        worse = pd.Series(np.fmax(worse, (float(before.iloc[0]) - table.neighbours) / SHARE), index=table.index)
    return table.assign(harm=worse, broke=worse >= 1).reset_index()


def _by_step(records: pd.DataFrame, scope: str, probe: str, metric: str) -> pd.Series:
    some = records[(records.scope == scope) & (records.probe == probe) & (records.metric == metric)]
    some = some[some["shift"].isin(["none", ""]) & (some.request == "")].drop_duplicates("step", keep="last")
    return pd.to_numeric(some.set_index("step").value).astype(float)


def risks(table: pd.DataFrame, sign: Sign) -> tuple[np.ndarray, np.ndarray]:
    """(risk, whether it broke the model) of the edits that told a sign and were made; both empty where none did."""
    if sign.key not in table:
        return np.empty(0), np.empty(0, dtype=bool)
    told = table[table[sign.key].notna()]
    if "refused" in told:
        told = told[told.refused == 0]
    return told[sign.key].map(sign.risk).to_numpy(dtype=float), told.broke.to_numpy(dtype=bool)


def ranked(table: pd.DataFrame) -> list[tuple[Sign, Auc]]:
    """The signs that were told, the one that tells best first; [] where every edit, or none, broke the model."""
    found = [(sign, one) for sign in known(table.columns) if (one := auc(*risks(table, sign))) is not None]
    return sorted(found, key=lambda pair: -pair[1].value)
