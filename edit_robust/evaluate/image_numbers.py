"""The numbers of a run on images: accuracies and penalties of the unedited and the edited models, from its records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.core.images import Right
from edit_robust.evaluate.chosen_alpha import chosen_alphas
from edit_robust.evaluate.image_intervals import Pictures, intervals
from edit_robust.evaluate.statistics import penalties as images

#: `matched_`: where the edit has put right this share of what the unedited model got wrong on the edit's images.
MATCH = 0.25
#: `constrained_`: the best edit for which the original task's accuracy falls by no more than this.
MAX_DROP = 0.01
#: A record of this metric says that the original task is ImageNet's, with its 1000 classes.
IMAGENET = "imagenet"
PARTS = ("edit_accuracy", "original_accuracy", "original_ood_penalty", "editing_ood_penalty")


def numbers(
    records: pd.DataFrame, right: Callable[[int], Right] | None = None, pictures: Pictures | None = None
) -> dict[str, Any]:
    """Means over requests; accuracies and penalties are fractions in [0, 1], as the vision paper writes them.

    edit_accuracy, original_accuracy, original_ood_penalty (eq. 1), editing_ood_penalty (eq. 2): each request's whole
    edit (its largest alpha); penalties are means over corruptions and severities, with `_1` to `_5` for one severity.
    `unedited_`: the same of the untouched model (for eq. 2 its own drop). `<shift>_accuracy`: natural shifts.
    `matched_` (an alpha curve only): at the alpha where a quarter of the edit's errors are gone, over the
    `matched_n_requests` that get so far. `constrained_`: at the best alpha with a small loss on the original task.
    right: which images are answered right at a step; with it come the numbers of `image_intervals`, over `pictures`.
    {} where no image was asked about.
    """
    records = records if "request" in records else records.assign(request="")
    records = records.assign(request=records.request.fillna("").astype(str))
    records = records[~((records.probe == "edit") & (records.request == ""))]  # questions in words
    before = images.unedited(records)
    table = images.scores(records, before)
    if table.empty and before.empty:
        return {}
    along = images.curve(table)
    final = images.last(along)
    out: dict[str, Any] = {name: _mean(final[name]) for name in PARTS if final[name].notna().any()}
    out |= _unedited(before)
    whole, imagenet = _whole(table), bool((records.metric == IMAGENET).any())
    out |= _severities(whole) | _natural(whole, before) | _mce(whole, before, imagenet)
    out |= _alphas(along) | chosen_alphas(records, along)
    out |= _counts(records, before, table, final)
    if right is not None:
        out |= intervals(records, table, final, right, pictures)
    return out


def _mean(values: pd.Series) -> float:
    return float(values.mean()) if values.notna().any() else float("nan")


def _unedited(before: pd.DataFrame) -> dict[str, float]:
    """Means over the requests of all accuracies of the untouched model, and its own drop on the edit's images."""
    out = {}
    clean = before[before["shift"] == "none"]
    for probe in ("edit", "original"):
        found = clean[clean.probe == probe]
        if len(found):
            out[f"unedited_{probe}_accuracy"] = _mean(found.accuracy)
    shifted = images.corrupted(before, "edit").groupby("request").accuracy.mean()
    if len(shifted):
        own = clean[clean.probe == "edit"].set_index("request").accuracy
        out["unedited_editing_ood_penalty"] = _mean(shifted - own.groupby(level=0).last())
    return out


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each request's whole edit; original-task rows of a joint edit stand under no request."""
    ends = images.last(table[images.MODEL].drop_duplicates())
    return table.merge(ends, on=images.MODEL, how="inner")


def _severities(whole: pd.DataFrame) -> dict[str, float]:
    out: dict[str, float] = {}
    both = {
        "original_ood_penalty": images.original_ood_penalty(whole),
        "editing_ood_penalty": images.editing_ood_penalty(whole),
    }
    for severity in images.SEVERITIES:
        for name, rows in both.items():
            found = rows[rows.severity == severity]
            if len(found):
                # First within each request, then over requests: not all need have the same corruptions.
                out[f"{name}_{severity}"] = _mean(found.groupby("request").penalty.mean())
    return out


def _natural(whole: pd.DataFrame, before: pd.DataFrame) -> dict[str, float]:
    """Accuracies of the original task on images that are a shift of their own, such as renditions."""
    out: dict[str, float] = {}
    for prefix, rows in (("", whole), ("unedited_", before)):
        rows = rows[(rows.probe == "original") & (rows["shift"] != "none") & (rows.severity == 0)]
        for name, found in rows.groupby("shift"):
            out[f"{prefix}{name}_accuracy"] = _mean(found.accuracy)
    return out


def _mce(whole: pd.DataFrame, before: pd.DataFrame, imagenet: bool) -> dict[str, float]:
    """Against AlexNet where the original task is ImageNet's, the only one whose errors are known of it; against the
    unedited model on whatever was measured."""
    out: dict[str, float] = {}
    errors, base = images.mean_errors(whole), images.mean_errors(before)
    if imagenet and images.all_fifteen(before):
        out["unedited_mce"] = images.mce(base)
        if images.all_fifteen(whole):
            out["mce"] = images.mce(errors)
    if base and set(base) <= set(errors):
        out["relative_mce"] = images.mce(errors, base)
    return out


def _alphas(along: pd.DataFrame) -> dict[str, Any]:
    """Matched and constrained points, for runs that went from the unedited to the edited model in parts."""
    out: dict[str, Any] = {}
    curves = [one for _, one in along.groupby("request") if one.alpha.nunique() > 1 and one.edit_accuracy.notna().any()]
    if not curves:
        return out
    matched = [images.at_edit_accuracy(one, level_of(one)) for one in map(images.with_start, curves)]
    chosen = [images.choose_alpha(one, MAX_DROP) for one in map(images.with_start, curves)]
    for prefix, points in (("matched_", matched), ("constrained_", chosen)):
        known = [point for point in points if point is not None]
        for name in ("alpha", *PARTS):
            values = [point[name] for point in known if np.isfinite(point[name])]
            out[prefix + name] = float(np.mean(values)) if values else float("nan")
        out[f"{prefix}n_requests"] = len(known)
    return out


def level_of(along: pd.DataFrame, share: float = MATCH) -> float:
    """The edit accuracy at which `share` of the unedited model's errors are gone; the same for all methods."""
    start = float(along.unedited_edit_accuracy.iloc[0])
    return start + share * (1.0 - start)


def _counts(records: pd.DataFrame, before: pd.DataFrame, table: pd.DataFrame, final: pd.DataFrame) -> dict[str, Any]:
    clean = before[before["shift"] == "none"]
    original = clean[clean.probe == "original"]
    everything = pd.concat([before, table]) if len(before) or len(table) else before
    edits = everything[(everything.probe == "edit")].drop_duplicates("request")
    variants = images.corrupted(everything, "original")
    variants = variants if len(variants) else images.corrupted(everything, "edit")
    out: dict[str, Any] = {
        "n_edit_images": int(clean[clean.probe == "edit"].drop_duplicates("request").n.sum()),
        "n_original_images": int(original.n.max()) if len(original) else 0,
        "n_variants": len(variants[["shift", "severity"]].drop_duplicates()),
        "n_requests": len(edits),
    }
    leaked = records[records.metric == "leaked"].drop_duplicates("request", keep="last")
    if len(leaked):
        out["n_leaked"] = int(pd.to_numeric(leaked.value).sum())
        out["leaked_share"] = float(out["n_leaked"] / max(1, leaked.n.sum()))
    for name in ("gained", "lost"):
        values = final[f"original_{name}"]
        if values.notna().any():
            out[f"original_{name}"] = _mean(values)
    return out
