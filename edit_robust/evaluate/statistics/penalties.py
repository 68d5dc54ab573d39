"""The numbers of edited image classifiers, from tidy records alone. Numpy and pandas.

Accuracies and penalties are fractions in [0, 1], as in arXiv 2303.00046:

eq. 1, original-task penalty: Acc(edited, shifted original) - Acc(unedited, shifted original).
eq. 2, editing-task penalty:  Acc(edited, shifted edit set) - Acc(edited, clean edit set).

The unedited model has a drop like eq. 2 of its own, so it always stands beside. Statistics on single images are in
`paired`, effective robustness against reference models in `effective`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

#: AlexNet's mean error over the five severities of ImageNet-C (Hendrycks and Dietterich 2019), in the paper's order.
ALEXNET: dict[str, float] = {
    **{"gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880},
    **{"glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572},
    **{"fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056},
    **{"pixelate": 0.717840, "jpeg_compression": 0.606500},
}
#: The four that are no part of the mean corruption error.
ALEXNET_EXTRA: dict[str, float] = {
    **{"speckle_noise": 0.845388, "gaussian_blur": 0.787108, "spatter": 0.717512, "saturate": 0.658248},
}
FAMILIES: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "brightness", "spatter"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
}
SEVERITIES = (1, 2, 3, 4, 5)
#: One edited model: the step and the alpha it was measured at, and the request it was edited for.
MODEL = ["step", "alpha", "request"]
SHIFT = ["probe", "shift", "severity"]
VALUES = ["accuracy", "loss", "gained", "lost"]


def accuracy(correct: Sequence[bool] | np.ndarray) -> tuple[float, int]:
    """Share of right answers, and of how many; NaN of none."""
    right = np.asarray(correct, dtype=bool)
    return (float(right.mean()), len(right)) if len(right) else (float("nan"), 0)


def scores(records: pd.DataFrame, before: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row for each edited model, image set, shift and severity, with the unedited model's accuracy beside.

    before: `unedited` of these records, where that is there already.

    Columns: step, alpha, request, probe, shift, severity, accuracy, n, loss, gained, lost, unedited, unedited_loss.
    `request` is "" on original-task rows of a model that was edited for several requests at once.
    """
    columns = [*MODEL, *SHIFT, *VALUES, "n", "unedited", "unedited_loss"]
    if records.empty or "request" not in records:
        return pd.DataFrame(columns=columns)
    kept = records[records.probe.isin(["original", "edit"]) & records.metric.isin(VALUES)]
    edited, before = _wide(kept[kept.scope == "at-edit"]), unedited(records) if before is None else before
    # The original task's images are the same for all requests, the edit's are each request's own.
    edited, before = (table.assign(of=table.request.where(table.probe == "edit", "")) for table in (edited, before))
    before = before[["of", *SHIFT, "accuracy", "loss"]].drop_duplicates(["of", *SHIFT], keep="last")
    before = before.rename(columns={"accuracy": "unedited", "loss": "unedited_loss"})
    return edited.merge(before, on=["of", *SHIFT], how="left")[columns]


def unedited(records: pd.DataFrame) -> pd.DataFrame:
    """The untouched model's accuracy and loss: request, probe, shift, severity, accuracy, loss, n."""
    columns = [*MODEL, *SHIFT, *VALUES, "n"]
    if records.empty or "request" not in records:
        return pd.DataFrame(columns=columns)
    kept = records[records.probe.isin(["original", "edit"]) & records.metric.isin(VALUES)]
    return _wide(kept[kept.scope == "unedited"])[columns]


def _wide(rows: pd.DataFrame) -> pd.DataFrame:
    """One column a metric; of a point that was measured twice the later row counts."""
    keys = [*MODEL, *SHIFT]
    rows = rows.assign(
        alpha=pd.to_numeric(rows.alpha).astype(float).round(9),
        value=pd.to_numeric(rows.value, errors="coerce").astype(float),
        request=rows.request.fillna("").astype(str),
        shift=rows["shift"].replace("", "none").fillna("none"),
    ).drop_duplicates([*keys, "metric"], keep="last")
    table = rows[rows.metric == "accuracy"][[*keys, "value", "n"]].rename(columns={"value": "accuracy"})
    for metric in VALUES[1:]:
        found = rows[rows.metric == metric][[*keys, "value"]].rename(columns={"value": metric})
        table = table.merge(found, on=keys, how="left")
    return table.reset_index(drop=True)


def corrupted(table: pd.DataFrame, probe: str) -> pd.DataFrame:
    """The rows of a probe under corruptions, which have severities 1 to 5; natural shifts have none."""
    return table[(table.probe == probe) & (table["shift"] != "none") & (table.severity > 0)]


def original_ood_penalty(table: pd.DataFrame) -> pd.DataFrame:
    """Eq. 1, for corruptions and natural shifts. Columns: MODEL, shift, severity, penalty, accuracy, unedited, n."""
    rows = table[(table.probe == "original") & (table["shift"] != "none")]
    rows = rows.assign(penalty=rows.accuracy - rows.unedited)
    return rows[[*MODEL, "shift", "severity", "penalty", "accuracy", "unedited", "n"]].reset_index(drop=True)


def editing_ood_penalty(table: pd.DataFrame) -> pd.DataFrame:
    """Eq. 2. Columns: MODEL, shift, severity, penalty, unedited_penalty (that model's own drop), accuracy, n."""
    edit = table[table.probe == "edit"]
    clean = edit[edit["shift"] == "none"][[*MODEL, "accuracy", "unedited"]]
    clean = clean.rename(columns={"accuracy": "clean", "unedited": "unedited_clean"})
    rows = edit[edit["shift"] != "none"].merge(clean, on=MODEL, how="inner")
    rows["penalty"] = rows.accuracy - rows.clean
    rows["unedited_penalty"] = rows.unedited - rows.unedited_clean
    return rows[[*MODEL, "shift", "severity", "penalty", "unedited_penalty", "accuracy", "n"]].reset_index(drop=True)


def curve(table: pd.DataFrame) -> pd.DataFrame:
    """One row an edited model and request, in order of request and alpha; from `scores`.

    Columns: MODEL, edit_accuracy, original_accuracy, unedited_edit_accuracy, unedited_original_accuracy, n_edit,
    n_original, original_gained, original_lost, and means over all corruptions and severities: original_ood_penalty,
    corrupted_accuracy, unedited_corrupted_accuracy (original task), editing_ood_penalty, unedited_editing_ood_penalty.
    """
    clean = table[table["shift"] == "none"]
    edit = clean[clean.probe == "edit"].rename(
        columns={"accuracy": "edit_accuracy", "unedited": "unedited_edit_accuracy", "n": "n_edit"}
    )
    original = clean[clean.probe == "original"].rename(
        columns={"accuracy": "original_accuracy", "unedited": "unedited_original_accuracy", "n": "n_original"}
        | {"gained": "original_gained", "lost": "original_lost"}
    )
    names = ["original_accuracy", "unedited_original_accuracy", "n_original", "original_gained", "original_lost"]
    out = edit[[*MODEL, "edit_accuracy", "unedited_edit_accuracy", "n_edit"]]
    own = original[~original.request.isin(["", *edit.request])][MODEL] if len(edit) else original[MODEL]
    out = _join(pd.concat([out, own]) if len(own) else out, original[[*MODEL, *names]])
    shifted = original_ood_penalty(table)
    shifted = shifted[shifted.severity > 0].groupby(MODEL, as_index=False)[["penalty", "accuracy", "unedited"]].mean()
    shifted = shifted.rename(
        columns={"penalty": "original_ood_penalty", "accuracy": "corrupted_accuracy"}
        | {"unedited": "unedited_corrupted_accuracy"}
    )
    out = _join(out, shifted)
    drops = editing_ood_penalty(table)
    drops = drops[drops.severity > 0].groupby(MODEL, as_index=False)[["penalty", "unedited_penalty"]].mean()
    drops = drops.rename(columns={"penalty": "editing_ood_penalty", "unedited_penalty": "unedited_editing_ood_penalty"})
    out = out.merge(drops, on=MODEL, how="left")
    return out.sort_values(["request", "alpha", "step"], kind="stable").reset_index(drop=True)


def _join(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Numbers of the same model: filed under the request, or under "" where the model was edited for several."""
    out = left.merge(right, on=MODEL, how="left")
    shared = right[right.request == ""].drop(columns="request")
    if len(shared):
        names = [name for name in shared.columns if name not in MODEL]
        other = out[["step", "alpha"]].merge(shared, on=["step", "alpha"], how="left")
        for name in names:
            out[name] = out[name].where(out[name].notna(), other[name])
    return out


def last(table: pd.DataFrame, by: Sequence[str] = ("request",)) -> pd.DataFrame:
    """Each request's whole edit: its row at the largest alpha up to 1, the latest step; points beyond 1 are no edit
    that was made, and count only where there is nothing else."""
    ordered = table.sort_values(["alpha", "step"], kind="stable")
    beyond = ordered.alpha > 1 + 1e-9
    ordered = pd.concat([ordered[beyond], ordered[~beyond]])
    return ordered.drop_duplicates(list(by), keep="last").sort_values(list(by), kind="stable").reset_index(drop=True)


def mce(errors: Mapping[str, float], baseline: Mapping[str, float] | None = None) -> float:
    """Mean corruption error as a fraction of the baseline's: mean over its corruptions of error / baseline error.

    `errors`: mean error over the five severities by corruption. The baseline is AlexNet's over the 15, or any other
    model's, such as the unedited one's. Raises ValueError for a corruption without an error.
    """
    base = ALEXNET if baseline is None else baseline
    missing = [name for name in base if name not in errors]
    if missing:
        raise ValueError(f"the mean corruption error needs {', '.join(missing)} as well")
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean([np.divide(errors[name], base[name]) for name in base]))


def mean_errors(table: pd.DataFrame, column: str = "accuracy") -> dict[str, float]:
    """Mean error on the original task by corruption, over the severities that were measured."""
    found = corrupted(table, "original").groupby("shift")[column].mean()
    return {str(name): 1.0 - float(value) for name, value in found.items()}


def all_fifteen(table: pd.DataFrame) -> bool:
    """Whether the 15 corruptions were measured at all five severities, as the mean corruption error asks."""
    found = corrupted(table, "original").groupby("shift").severity.agg(set)
    return all(name in found.index and found[name] >= set(SEVERITIES) for name in ALEXNET)


def at_edit_accuracy(along: pd.DataFrame, level: float) -> dict[str, float] | None:
    """One request's curve where its edit accuracy first reaches `level` on the way from alpha 0 to 1.

    All numeric columns are interpolated linearly between the two neighbouring alphas. None: never reached. A curve
    that starts above the level gives its first point.
    """
    along = along.sort_values("alpha")
    reached = np.flatnonzero(along.edit_accuracy.to_numpy() >= level - 1e-12)
    if not len(reached):
        return None
    numbers = along.select_dtypes("number")
    at = int(reached[0])
    here = numbers.iloc[at]
    if at > 0:
        before = numbers.iloc[at - 1]
        share = (level - before.edit_accuracy) / (here.edit_accuracy - before.edit_accuracy)
        here = before + float(share) * (here - before)
    return {str(name): float(value) for name, value in here.items()}


def with_start(along: pd.DataFrame) -> pd.DataFrame:
    """One request's curve with the unedited model as its point at alpha 0, where that was not measured as such."""
    if along.empty or (along.alpha <= 1e-9).any():
        return along
    first = along.iloc[[0]].assign(alpha=0.0, original_ood_penalty=0.0, original_gained=0.0, original_lost=0.0)
    for name in ("edit_accuracy", "original_accuracy", "corrupted_accuracy", "editing_ood_penalty"):
        first[name] = along[f"unedited_{name}"].iloc[0]
    return pd.concat([first, along], ignore_index=True)


def choose_alpha(along: pd.DataFrame, max_drop: float, kept: str = "original_accuracy") -> dict[str, float] | None:
    """Of one request's measured points the one with the largest edit accuracy whose original accuracy fell by no more
    than `max_drop`; of equals the smallest alpha. None when there is none.

    kept: what must not fall further: `original_accuracy`, or `corrupted_accuracy`, its mean under corruptions.
    Choosing flatters the split it is done on: give the curve of a held-out split where there is one.
    """
    fits = along[along[f"unedited_{kept}"] - along[kept] <= max_drop + 1e-12]
    fits = fits[fits.edit_accuracy.notna()].sort_values(["edit_accuracy", "alpha"], ascending=[False, True])
    if fits.empty:
        return None
    return {str(name): float(value) for name, value in fits.select_dtypes("number").iloc[0].items()}


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Which points [n, d] no other point beats: at least as good everywhere and better somewhere (larger is better)."""
    points = np.asarray(points, dtype=float)
    known = np.isfinite(points).all(axis=1)
    front = known.copy()
    for i in np.flatnonzero(known):
        others = points[known]
        front[i] = not ((others >= points[i]).all(axis=1) & (others > points[i]).any(axis=1)).any()
    return front
