"""What a run's records say of its walk."""

from __future__ import annotations

import pandas as pd


def at_the_end(per_step: pd.Series, records: pd.DataFrame) -> float:
    """A number of the edited model, from its values by step: the last one where edits stack up, or where a walk ends
    with all of them; the mean where every edit was made in the unedited model."""
    edited = records[(records.scope == "model") & (records.step > 0)]
    stacked = edited.n_edits.nunique() > 1 or bool((records.scope == "final").any())
    return float(per_step.iloc[-1] if stacked else per_step.mean())
