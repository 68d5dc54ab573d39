"""What a walk has seen of each edit so far: right after it was made, and at every check since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edit_robust.evaluate.statistics.success import accuracy, forgetting, success

if TYPE_CHECKING:
    from edit_robust.evaluate.answers import Seen


class History:
    """Per request: was its edit prompt right at its edit, and at each retention check, by argmax and by ES."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.at_edit = {"": np.zeros(n, dtype=bool), "_es": np.zeros(n, dtype=bool)}
        self.checks: dict[str, list[np.ndarray]] = {"": [], "_es": []}

    def add(self, seen: Mapping[str, Seen]) -> None:
        """Take in a point's scopes; a request is right when all of its edit questions are."""
        for scope in ("at-edit", "retention"):
            if scope not in seen or "edit" not in seen[scope].by_probe:
                continue
            s = seen[scope]
            rows = s.by_probe["edit"]
            some, who = s.scores.take(rows), s.requests[rows]
            for suffix, values in (("", accuracy(some)), ("_es", success(some))):
                right = np.ones(self.n, dtype=bool)
                np.logical_and.at(right, who, values)
                if scope == "at-edit":
                    self.at_edit[suffix][np.unique(who)] = right[np.unique(who)]
                else:
                    self.checks[suffix].append(right[: int(who.max()) + 1])

    def forgetting(self) -> Iterator[tuple[str, float, int]]:
        """(metric, share, n) at the newest check; nothing for facts that were never right."""
        for suffix, checks in self.checks.items():
            if not checks:
                continue
            f = forgetting(self.at_edit[suffix][: len(checks[-1])], checks)
            if f.n:
                yield f"forgotten{suffix}", f.momentary, f.n
                yield f"forgotten{suffix}_sticky", f.sticky, f.n
                yield f"recovered{suffix}", f.recovered, f.n
