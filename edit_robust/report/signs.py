"""The warning signs of single edits as a table: how well each told which edits broke the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edit_robust.evaluate.single_edits import ranked
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import groups
from edit_robust.figures.language.warning_signs import joined, wants

TITLES = ("edits", "warning sign", "warns when", "AUC [95 % interval]", "broke the model")
NOTE = (
    "Each edit was made alone in the unedited model. It broke the model where perplexity doubled or a quarter of its "
    "neighbouring facts was lost. AUC: the chance that a breaking edit has the worse sign than a harmless one."
)


def signs_shown(runs: Sequence[RunData]) -> dict[str, Any] | None:
    """The table for the page; None where no run made edits of both kinds apart from each other."""
    lines = []
    for group in groups([run for run in runs if wants(run)]):
        for sign, area in ranked(joined(group)):
            interval = f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
            counts = f"{area.bad} of {area.bad + area.good}"
            lines.append([group.label, sign.label, sign.danger, interval, counts])
    return {"columns": TITLES, "lines": lines, "note": NOTE} if lines else None


def signs_markdown(runs: Sequence[RunData]) -> str:
    """The same as a Markdown table; "" where there is none."""
    found = signs_shown(runs)
    if found is None:
        return ""
    rows = [f"| {' | '.join(one)} |" for one in (TITLES, *found["lines"])]
    return "\n".join([rows[0], f"|{'---|' * len(TITLES)}", *rows[1:], "", NOTE, ""])
