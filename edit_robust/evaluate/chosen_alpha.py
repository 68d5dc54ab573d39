"""How much of an edit to apply: alpha chosen on held-out images by a constraint, and what it gives on the others.

Tasks may show a second set of each kind, `edit-held-out` and `original-held-out`. No other number is told of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.statistics import penalties as images

#: Probes of the held-out images, and of those that results are told of.
HELD_OUT = {"edit-held-out": "edit", "original-held-out": "original"}
#: The original task's accuracy may fall by so much on held-out images.
MAX_DROP = 0.01
#: Prefixes of the numbers, and what is kept to within MAX_DROP.
CONSTRAINTS = {"chosen_": "original_accuracy", "chosen_robust_": "corrupted_accuracy"}
PARTS = ("edit_accuracy", "original_accuracy", "original_ood_penalty", "editing_ood_penalty")


def held_out_curve(records: pd.DataFrame) -> pd.DataFrame:
    """The curve (see `penalties.curve`) of the held-out images alone; empty where there are none."""
    rows = records[records.probe.isin(list(HELD_OUT))]
    return images.curve(images.scores(rows.assign(probe=rows.probe.map(HELD_OUT))))


def alpha_for(held_out: pd.DataFrame, max_drop: float, kept: str = "original_accuracy") -> float | None:
    """The alpha of one request's held-out curve with the largest edit accuracy for which `kept` falls by no more than
    `max_drop` (both are fractions); of equals the smallest, and 0 (no edit) where nothing else will do.

    None where the curve does not hold what the constraint is about.
    """
    along = images.with_start(held_out)
    if along.empty or along[kept].isna().all():
        return None
    found = images.choose_alpha(along, max_drop, kept)
    return None if found is None else found["alpha"]


def at_alpha(along: pd.DataFrame, alpha: float) -> dict[str, float]:
    """One request's measured numbers at an alpha; alpha 0 is the unedited model where no point of it was measured."""
    along = images.with_start(along)
    row = along.select_dtypes("number")[np.isclose(along.alpha, alpha)].iloc[-1]
    return {str(name): float(value) for name, value in row.items()}


def chosen_alphas(records: pd.DataFrame, along: pd.DataFrame) -> dict[str, Any]:
    """Means over requests, for each constraint: the alpha chosen on held-out images, and the edit's and the original
    task's numbers there on the images to judge by (`along`, their curve). {} where nothing was held out."""
    out: dict[str, Any] = {}
    if not records.probe.isin(list(HELD_OUT)).any():
        return out
    held_out = held_out_curve(records)
    for prefix, kept in CONSTRAINTS.items():
        found = []
        for request, one in held_out.groupby("request"):
            mine = along[along.request == request]
            if one.alpha.nunique() > 1 and len(mine) and (alpha := alpha_for(one, MAX_DROP, kept)) is not None:
                found.append(at_alpha(mine, alpha))
        for name in ("alpha", *PARTS) if found else ():
            values = [point[name] for point in found if np.isfinite(point[name])]
            out[prefix + name] = float(np.mean(values)) if values else float("nan")
        if found:
            out[f"{prefix}n_requests"] = len(found)
    return out
