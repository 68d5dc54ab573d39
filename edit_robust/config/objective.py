"""The number that a run returns to whoever chooses the next one's options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edit_robust.core.errors import UserError, nearest


def value_of(summary: Mapping[str, Any], name: str | None) -> float | None:
    """The number of a summary that `objective` names; None without a name, NaN where the run has none of that name.

    Raises UserError, with the nearest name, for one that the summary does not know or that is no number.
    """
    if not name:
        return None
    numbers = [k for k, v in summary.items() if v is None or (isinstance(v, int | float) and not isinstance(v, bool))]
    if name not in summary:
        raise UserError(f"objective={name} is no number of this run's summary; {nearest(name, numbers, 'numbers')}")
    value = summary[name]
    if name not in numbers:
        raise UserError(f"objective={name} is {value!r}, and no number; {nearest(name, numbers, 'numbers')}")
    return math.nan if value is None else float(value)
