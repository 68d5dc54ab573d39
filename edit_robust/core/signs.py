"""What is known of an edit before it is applied that may tell whether it will break the model.

Editors put these numbers into what they tell about an edit (`Edit.info`); the one that any change of weights has,
`relative_norm`, is added where edits are made. Pure words and numbers: figures, guards and messages read them here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Sign:
    """A warning sign.

    key:       its name in what editors tell.            label:  in words, for figures and messages.
    danger:    on which side it warns. Of signs that warn when they are low the magnitude counts: a division factor of
               -0.01 is as bad as one of 0.01.
    threshold: where the guard of that name draws the line unless it is told otherwise, and
    times:     ... at so many times the median of the edits let pass so far. None: no such line holds for every model.
    guard:     the choice of `editor.guard` that watches it.
    cure:      what to edit with instead, where the sign is the weakness of a method that has a repaired form.
    """

    key: str
    label: str
    danger: Literal["low", "high"]
    threshold: float | None = None
    times: float | None = None
    guard: str = ""
    cure: str = ""

    def risk(self, value: float) -> float:
        """The value on a scale that rises with the danger: its logarithm, turned round where low values warn.

        Not finite values are the greatest risk there is.
        """
        size = abs(value)
        if not math.isfinite(size):
            return math.inf
        log = math.log(max(size, 1e-300))
        return log if self.danger == "high" else -log

    def line(self, median: float, times: float) -> float:
        """The value that is `times` times as bad as the median."""
        return median * times if self.danger == "high" else median / times

    def passes(self, value: float, threshold: float) -> bool:
        """Whether the value is beyond a threshold, on the side of danger; negative values of a low sign always are."""
        if not math.isfinite(value):
            return True
        return value > threshold if self.danger == "high" else value < threshold


#: In the order in which they are named where several stick out.
SIGNS = (
    Sign("key_ratio", "key ratio k'·u / k̄·u", "low", threshold=0.25, guard="key-ratio", cure="editor=r-rome"),
    Sign("division_factor", "division factor k'·u", "low", cure="editor=r-rome"),
    Sign("relative_norm", "size of the change ‖ΔW‖ / ‖W‖", "high", times=10.0, guard="norm"),
    Sign("cos_bare_mean", "cosine of the bare key and the mean key", "low"),
    Sign("key_leverage", "weight of the key k' C⁻¹ k", "low"),
)
#: From so many edits on, the median of their signs is something to compare with.
ENOUGH = 5
BY_KEY = {sign.key: sign for sign in SIGNS}


def known(keys: Iterable[str]) -> list[Sign]:
    """The warning signs among some names, in the order of `SIGNS`."""
    have = set(keys)
    return [sign for sign in SIGNS if sign.key in have]
