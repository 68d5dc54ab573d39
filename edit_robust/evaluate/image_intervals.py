"""What a run on images says of single images: intervals over pictures, McNemar's test, monotone interpolation.

The images are the same before and after an edit, so what chance alone does is judged on pairs: far less than two
independent samples would say. One photograph in several styles is one picture: its images count together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial

import numpy as np
import pandas as pd

from edit_robust.core.images import Key, Right
from edit_robust.evaluate.statistics.paired import by_picture, grouped_bootstrap, mcnemar, monotone

#: Written from records by the summary itself: only their intervals are added here.
FROM_RECORDS = ("original_ood_penalty", "editing_ood_penalty")
#: (probe, request) -> the picture that each of the set's images shows; [] where that is not known.
Pictures = Callable[[str, str], Sequence[str]]
_NONE = np.zeros(0)


def intervals(
    records: pd.DataFrame,
    table: pd.DataFrame,
    final: pd.DataFrame,
    right: Callable[[int], Right],
    pictures: Pictures | None = None,
) -> dict[str, float]:
    """Intervals and tests of the whole edits.

    table, final: the `scores` of the records, and of their `curve` each request's last row.
    right: step -> which images are answered right there.   pictures: which images show the same picture; None: none.

    `edit_gain`, `original_change`: edited less unedited accuracy on clean images; with `_low` and `_high` a 95 %
    interval over pictures, as `original_ood_penalty` (eq. 1) and `editing_ood_penalty` (eq. 2) have too.
    `edit_mcnemar_p`, `original_mcnemar_p`: exact, where there is one edited model; a picture is gained or lost by what
    happens to most of its images.
    `monotone_edit_violation`, `monotone_original_violation`: the largest step the wrong way along alpha over all
    requests (for the original task: a rise), each with `_p`, which allows for all pairs of alphas and all requests.
    """
    if table.empty or not ((records.scope == "unedited") & (records.probe == "original")).any():
        return {}
    known = lru_cache(maxsize=64)(right)
    before = known(0)
    if not before:  # what single images got was not kept
        return {}
    ends = list(zip(final.request, final.step, strict=True))
    out: dict[str, float] = {}
    names = partial(_names, pictures)
    gains = [_gain(before, known(int(step)), request) for request, step in ends]
    drops = [_brittle(known(int(step)), request) for request, step in ends]
    _interval(out, "edit_gain", gains, [names("edit", r, len(x)) for (r, _), x in zip(ends, gains, strict=True)])
    _interval(
        out, "editing_ood_penalty", drops, [names("edit", r, len(x)) for (r, _), x in zip(ends, drops, strict=True)]
    )
    # The original task's images are the same for all requests: one group, each image with its mean over edits.
    steps = [int(step) for step in dict.fromkeys(final.step)]
    for name, some in (
        ("original_change", _shared([_gain(before, known(s), "", "original") for s in steps])),
        ("original_ood_penalty", _shared([_damage(before, known(s)) for s in steps])),
    ):
        _interval(out, name, some, [names("original", "", len(x)) for x in some])
    if len(steps) == 1:
        for probe in ("edit", "original"):
            keys = [k for k in before if k[0] == probe and k[2:] == ("none", 0) and k in known(steps[0])]
            if keys:
                moved = [known(steps[0])[k].astype(float) - before[k] for k in keys]
                net = np.concatenate([by_picture(x, names(*k[:2], len(x))) for k, x in zip(keys, moved, strict=True)])
                out[f"{probe}_mcnemar_p"] = mcnemar(int((net > 0).sum()), int((net < 0).sum()))
    return out | _monotone(table, known)


def _names(pictures: Pictures | None, probe: str, request: str, n: int) -> Sequence[Hashable]:
    """The picture that each of n images shows; each its own where that was not kept."""
    found = pictures(probe, request) if pictures is not None else []
    return found or range(n)


def _interval(
    out: dict[str, float], name: str, groups: list[np.ndarray], pictures: Sequence[Sequence[Hashable]]
) -> None:
    mean, low, high = grouped_bootstrap(groups, pictures=pictures)
    if np.isfinite(mean):
        if name not in FROM_RECORDS:
            out[name] = mean
        out[f"{name}_low"], out[f"{name}_high"] = low, high


def clean_key(probe: str, request: str) -> Key:
    """A probe's clean images; the original task's are the same for all requests."""
    return probe, request if probe == "edit" else "", "none", 0


def answers_at(right: Callable[[int], Right], steps: Sequence[int], probe: str, request: str) -> np.ndarray | None:
    """Which clean images are answered right, [steps, images]; None where that was not kept."""
    found = [right(step).get(clean_key(probe, request)) for step in steps]
    return None if any(x is None for x in found) else np.stack([x for x in found if x is not None])


def _gain(before: Right, after: Right, request: str, probe: str = "edit") -> np.ndarray:
    """1, 0 or -1 a clean image."""
    key = clean_key(probe, request)
    return after[key].astype(float) - before[key] if key in after and key in before else _NONE


def _damage(before: Right, after: Right) -> np.ndarray:
    """Eq. 1 of single images: the mean over corruptions and severities."""
    keys = [k for k in after if k[0] == "original" and k[3] > 0 and k in before]
    return np.mean([after[k].astype(float) - before[k] for k in keys], axis=0) if keys else _NONE


def _brittle(after: Right, request: str) -> np.ndarray:
    """Eq. 2 of single images."""
    clean = after.get(clean_key("edit", request))
    keys = [k for k in after if k[:2] == ("edit", request) and k[3] > 0]
    return np.mean([after[k].astype(float) - clean for k in keys], axis=0) if keys and clean is not None else _NONE


def _shared(groups: list[np.ndarray]) -> list[np.ndarray]:
    some = [g for g in groups if len(g)]
    return [np.mean(some, axis=0)] if some else []


def _monotone(table: pd.DataFrame, known: Callable[[int], Right]) -> dict[str, float]:
    """Interpolation curves against the direction that monotone linear interpolation expects."""
    out: dict[str, float] = {}
    clean = table[table["shift"] == "none"]
    for probe, rising in (("edit", True), ("original", False)):
        found = []
        for request, one in clean[clean.probe == probe].groupby("request"):
            one = one.drop_duplicates("alpha", keep="last").sort_values("alpha")
            if one.alpha.nunique() < 2:
                continue
            steps, alphas = [int(step) for step in one.step], list(one.alpha)
            if alphas[0] > 1e-9:  # the unedited model is where every curve starts
                steps, alphas = [0, *steps], [0.0, *alphas]
            answers = answers_at(known, steps, probe, str(request))
            assert answers is not None  # records and answers of a point are written together
            found.append(monotone(alphas, answers.mean(axis=1), rising, correct=answers))
        if found:
            worst = min(found, key=lambda v: (v.p, -v.size))
            out[f"monotone_{probe}_violation"] = max(v.size for v in found)
            out[f"monotone_{probe}_p"] = min(1.0, worst.p * len(found))
    return out
