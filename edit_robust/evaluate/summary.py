"""A run in one flat object: what a table, a sweep or a tracker wants to know of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.statistics.success import harmonic_mean

_PROBES = {"edit": "ES", "paraphrase": "PS", "neighbourhood": "NS"}
_METRICS = {"success": "", "accuracy": "_acc", "token_accuracy": "_token_acc", "magnitude": "_magnitude"}


def summarise(
    records: pd.DataFrame, seconds: Mapping[str, float] | None = None, memory: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Final and unedited values; rates in percent.

    ES, PS, NS, S: each edit right after it was made (the last alpha of an interpolation). `unedited_`, `retention_`
    (the last check) and `final_` are the same at other moments. `_acc`: argmax, `_token_acc`: share of right tokens.
    """
    out: dict[str, Any] = {}
    scopes = [("unedited", "unedited_"), ("at-edit", ""), ("retention", "retention_"), ("final", "final_")]
    for scope, prefix in scopes:
        out |= _scope(records[records.scope == scope], prefix, latest=scope != "at-edit")
    if "ES_acc" not in out and "final_ES_acc" in out:  # an interpolation asks everybody at every alpha
        out |= {k.removeprefix("final_"): v for k, v in out.items() if k.startswith("final_")}
    retention = records[records.scope == "retention"]
    for metric in ("forgotten", "forgotten_sticky", "recovered", "forgotten_es", "forgotten_es_sticky", "recovered_es"):
        found = retention[retention.metric == metric]
        if len(found):
            out[f"{metric}_pct"] = 100 * float(found.value.iloc[-1])
    out |= _weights(records)
    made = records[(records.scope == "at-edit") & (records.metric == "refused")]
    out["n_requests"] = int(records[records.scope == "unedited"].n.max()) if len(records) else 0
    out["n_edits"] = len(made)
    out["n_refused"] = int(made.value.sum())
    for metric in ("division_factor", "edit_loss", "edit_steps", "delta_norm", "target_probability"):
        found = records[(records.scope == "at-edit") & (records.metric == metric)]
        if len(found):
            out[f"mean_{metric}"] = float(found.value.mean())
    for name, value in (seconds or {}).items():
        out[f"seconds_{name}"] = round(value, 3)
    for name, value in (memory or {}).items():
        out[f"peak_memory_mb_{name}"] = value
    return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in out.items()}


def _scope(some: pd.DataFrame, prefix: str, latest: bool) -> dict[str, float]:
    """Means over the scope's points, weighted by n; or the last point alone."""
    out: dict[str, float] = {}
    if latest and len(some):
        some = some[some.step == some.step.max()]
    for metric, suffix in _METRICS.items():
        for probe, short in _PROBES.items():
            rows = some[(some.probe == probe) & (some.metric == metric)]
            if len(rows):
                out[f"{prefix}{short}{suffix}"] = 100 * float(np.average(rows.value, weights=rows.n))
    for suffix in ("", "_token_acc"):
        three = [out.get(f"{prefix}{short}{suffix}") for short in _PROBES.values()]
        if all(v is not None for v in three):
            out[f"{prefix}S"] = harmonic_mean([float(v) for v in three if v is not None])
            break
    return out


def _weights(records: pd.DataFrame) -> dict[str, float]:
    out: dict[str, float] = {}
    model = records[records.scope == "model"]
    stacked = model[model.step > 0].n_edits.nunique() > 1 or records[records.scope == "final"].size > 0
    for metric in ("drift_fro", "drift_per_element", "drift_per_neuron"):
        found = model[(model.metric == metric) & (model.step > 0)]
        if not len(found):
            continue
        per_step = found.groupby("step").value.apply(lambda v: float(np.sqrt((v**2).sum())))
        key = "drift" if metric == "drift_fro" else metric
        out[key] = float(per_step.iloc[-1] if stacked else per_step.mean())
    text = model[model.metric == "perplexity"]
    if len(text):
        out["unedited_perplexity"] = float(text[text.step == 0].value.iloc[0])
        later = text[text.step > 0].value
        if len(later):
            out["perplexity"] = float(later.iloc[-1] if stacked else later.mean())
    return out
