"""What the scaling paper (arXiv 2401.07453, sections 3 and 4) says of edits upon edits, and what these runs show of it.

A unit is one order of the requests on one model. Every line is about one number a unit, set so that zero is "no
difference", with its 95 % interval over units. A verdict is `agrees` or `disagrees` where the whole interval lies on
one side of zero, else `not seen`: no clear difference, or no runs that could show one; `note` says which. Where models
break, and at which edit, is told by `evaluate.collapse`; of which kind an edit is, by an autopsy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.figures.frame import RunData, series
from edit_robust.report import claim_text
from edit_robust.report.claim_lines import line, ratio, share
from edit_robust.report.claim_rows import Place
from edit_robust.report.claim_text import ClaimText
from edit_robust.report.claim_walks import (
    CHECKS,
    FT_C,
    MEMIT,
    MEND,
    ROME,
    Walk,
    after,
    by_method,
    needs,
    of,
    pairs,
    slope,
    together,
    walks,
    where_broken,
)
from edit_robust.report.tables_language import DISABLING

__all__ = ["COLUMNS", "NOTE", "TITLES", "cells", "claims", "to_markdown"]

COLUMNS = ("claim", "at", "difference", "low", "high", "units", "seeds", "models", "verdict", "note")
#: MEND is dead where of the edits after the first of these numbers and until the second fewer than half take.
DEAD_AFTER, DEAD_UNTIL, DEAD_OF = 50, 100, 20
#: What MEMIT forgets, as a part of what ROME does, in the paper.
THIRD = 1 / 3
ACCUMULATION = "accumulation"
FORGOTTEN = (("forgotten", "forgotten at the check"), ("forgotten_sticky", "forgotten at any check so far"))
UNTOLD = "not the paper's claim"
Lines = list[dict[str, Any]]


def claims(runs: Sequence[RunData]) -> pd.DataFrame:
    """One row a claim, editor and place of comparison, see COLUMNS; empty where no run can be asked."""
    found = walks(runs)
    parts: tuple[Callable[[Sequence[Walk]], Lines], ...] = (
        gradual, abrupt, later, constrained, dead, forgets_less, single_handed, harmless_first, downstream_falls, far,
    )  # fmt: skip
    rows = [row for part in parts for row in part(found)] if found else []
    return pd.DataFrame(rows, columns=list(COLUMNS))


# -- the claims ----------------------------------------------------------------------------------------------------


def gradual(found: Sequence[Walk]) -> Lines:
    """Past edits are forgotten before any break: the forgotten share rises with the number of edits."""
    rows = []
    for method, some in by_method(found):
        values = {walk.place: 100 * slope(walk.before_break()) for walk in some}
        ends = [float(b.iloc[-1]) for walk in some if len(b := walk.before_break()) >= CHECKS]
        note = f"{100 * np.mean(ends):.1f} % forgotten at the last check of this phase" if ends else ""
        claim = f"gradual phase of {method}: forgetting rises before any break (share in 100 edits, positive)"
        why = f"no walk has {CHECKS} checks before it broke"
        rows.append(line(claim, "checks before the break", values, some, 1, note, why))
    return rows


def abrupt(found: Sequence[Walk]) -> Lines:
    """There is an edit at which the model breaks, and forgetting jumps there. Not asked of FT-C, see `constrained`.

    A walk that did not break may do so later, so that walks without a break are never a contradiction.
    """
    rows = []
    for method, some in by_method([walk for walk in found if walk.role != FT_C]):
        broken = {walk.place: walk.broke is not None for walk in some}
        untold = "" if some[0].role in (ROME, MEMIT) else UNTOLD
        note = "; ".join(part for part in (where_broken(some), untold) if part)
        row = share(f"abrupt phase of {method}: the model breaks (share of walks less a half)", "walks", broken, some)
        if row["verdict"] == "disagrees":
            row |= {"verdict": "not seen", "note": "longer walks might break"}
        rows.append(row | {"note": "; ".join(part for part in (note, row["note"]) if part)})
        if any(broken.values()):
            claim = f"... and forgetting jumps there ({method}; beyond the slope before, positive)"
            values = {walk.place: walk.jump() for walk in some}
            rows.append(line(claim, "checks around the break", values, some, 1, untold, "no check after the break"))
    return rows


def later(found: Sequence[Walk]) -> Lines:
    """MEMIT breaks later than ROME. A walk without a break counts as later than any break that it was long enough for;
    where neither broke, or both at the same edit, nothing is compared."""
    claim = "MEMIT breaks later than ROME (share of orders less a half)"
    both = pairs(found, MEMIT, ROME)
    if not both:
        return [share(claim, "same requests", {}, found, why=needs(found, MEMIT, ROME))]
    signs = {memit.place: after(memit, rome) for memit, rome in both}
    told = {place: value > 0 for place, value in signs.items() if value != 0}
    counts = [
        sum(v > 0 for v in signs.values()),
        sum(v < 0 for v in signs.values()),
        sum(v == 0 for v in signs.values()),
    ]
    note = f"{counts[0]} later, {counts[1]} earlier, {counts[2]} tied or not to be compared"
    return [share(claim, "same requests", told, found, note, "in no order did one of them break before the other")]


def constrained(found: Sequence[Walk]) -> Lines:
    """FT-C forgets faster than ROME and MEMIT, at equal numbers of edits while neither is broken; it never breaks."""
    rows = []
    for other in (ROME, MEMIT):
        values: dict[Place, float] = {}
        for ft, theirs in pairs(found, FT_C, other):
            a, b = together(ft, theirs, min(ft.whole_until, theirs.whole_until))
            values[ft.place] = a - b
        claim = f"FT-C forgets faster than {other} (share forgotten, difference positive)"
        why = "no checks of both before a break" if values else needs(found, FT_C, other)
        rows.append(line(claim, "checks before a break", values, found, 1, why=why))
    some = of(found, FT_C)
    whole = {walk.place: walk.broke is None for walk in some}
    claim = "FT-C never breaks abruptly (share of walks without a break less a half)"
    rows.append(share(claim, "walks", whole, some, where_broken(some) if some else "", "no runs of FT-C"))
    return rows


def dead(found: Sequence[Walk]) -> Lines:
    """MEND is dead early: soon fewer than half of its newest edits take."""
    some = of(found, MEND)
    at = f"edits {DEAD_AFTER + 1} to {DEAD_UNTIL}"
    rows = []
    for metric, words in (("success", "preferred, ES"), ("accuracy", "said, by argmax")):
        values, shares = {}, []
        for walk in some:
            newest = series(walk.run, scope="at-edit", probe="edit", metric=metric)
            newest = newest[(newest.index > DEAD_AFTER) & (newest.index <= DEAD_UNTIL)]
            if newest.index.max() - DEAD_AFTER >= DEAD_OF:
                shares.append(float(newest.mean()))
                values[walk.place] = shares[-1] - 0.5
        claim = f"MEND is dead early: fewer than half of the newest edits take ({words}; share less a half, negative)"
        note = f"{100 * np.mean(shares):.0f} % take" if shares else ""
        why = f"no walk of {DEAD_AFTER + DEAD_OF} edits" if some else "no runs of MEND"
        rows.append(line(claim, at, values, some, -1, note, why))
    return rows


def forgets_less(found: Sequence[Walk]) -> Lines:
    """MEMIT forgets about a third of what ROME forgets, at equal numbers of edits before ROME breaks."""
    both = pairs(found, MEMIT, ROME)
    rows = []
    for metric, words in FORGOTTEN:
        values = {memit.place: together(memit, rome, rome.whole_until, metric) for memit, rome in both}
        known = {place: two for place, two in values.items() if np.isfinite(two).all()}
        why = "no checks before ROME broke" if both else needs(found, MEMIT, ROME)
        claim = f"MEMIT forgets less than ROME, by the paper a third ({words}; ratio less 1, negative)"
        rows.append(ratio(claim, "checks before ROME breaks", known, found, THIRD, why))
    return rows


def single_handed(found: Sequence[Walk]) -> Lines:
    """The edit at which ROME breaks a model breaks the unedited model by itself."""
    claim = "a disabling edit, single-handed: ROME's breaks the unedited model alone (share of breaks less a half)"
    return [of_kind(claim, of(found, ROME), ROME, DISABLING)]


def harmless_first(found: Sequence[Walk]) -> Lines:
    """The edit at which MEMIT breaks a model is harmless in the unedited one."""
    claim = "the edit at which MEMIT breaks is harmless when made first (share of breaks less a half)"
    return [of_kind(claim, of(found, MEMIT), MEMIT, ACCUMULATION)]


def of_kind(claim: str, some: Sequence[Walk], role: str, kind: str) -> dict[str, Any]:
    """The line of how many of the walks that broke did so by an edit of a kind, as autopsies have found."""
    broken = [walk for walk in some if walk.broke is not None]
    told = {walk.place: walk.kind == kind for walk in broken if walk.kind}
    if not some:
        why = f"no runs of {role}"
    elif not broken:
        why = where_broken(some)
    else:
        why = "no autopsy of what broke, see `edit-robust autopsy`"
    note = f"{sum(told.values())} of {len(told)} breaks" if told else ""
    return share(claim, "the culprit alone", told, some, note, why)


def downstream_falls(found: Sequence[Walk]) -> Lines:
    """Other tasks fall with the break: mean weighted F1 of generated answers after it less before it."""
    rows = []
    for method, some in by_method([walk for walk in found if walk.broke is not None]):
        told = {walk.place: fall for walk in some if np.isfinite(fall := walk.fall()).all()}
        if not told:
            continue
        values = {place: change for place, (change, _, _) in told.items()}
        _, before, later_on = np.mean(list(told.values()), axis=0)
        note = f"mean F1 {100 * before:.1f} % before, {100 * later_on:.1f} % after"
        claim = f"downstream tasks fall with the break ({method}; F1, beyond the slope before, negative)"
        rows.append(line(claim, "checks around the break", values, some, -1, note))
    if rows:
        return rows
    claim = "downstream tasks fall with the break (F1, beyond the slope before, negative)"
    why = "no walk that broke was asked downstream questions before and after"
    return [line(claim, "checks around the break", {}, found, -1, why=why)]


def far(found: Sequence[Walk]) -> Lines:
    """Disabling edits move the weights much farther than normal ones: ||dW||_F a weight, in powers of ten."""
    at, rows = "the culprit alone, the median edit", []
    for method, some in by_method([walk for walk in found if walk.kind == DISABLING]):
        values = {walk.place: powers(walk.autopsy) for walk in some}
        known = [value for value in values.values() if np.isfinite(value)]
        if not known:
            continue
        note = f"{10 ** np.mean(known):,.3g} times as far"
        claim = f"disabling edits move weights farther than normal ones ({method}; log10 of the ratio, positive)"
        rows.append(line(claim, at, values, some, 1, note))
    if rows:
        return rows
    claim = "disabling edits move weights farther than normal ones (log10 of the ratio, positive)"
    return [line(claim, at, {}, found, 1, why="no autopsy has found a disabling edit")]


def powers(told: Mapping[str, Any]) -> float:
    """log10 of how many times as far as the median edit the culprit moves the weights; NaN where it is not told."""
    own, usual = told.get("normalised_distance"), told.get("normalised_distance_median")
    return float(np.log10(own / usual)) if own and usual else float("nan")


# -- as text -------------------------------------------------------------------------------------------------------

TITLES = ("claim", "compared at", "difference [95 % interval]", "orders / models / units", "verdict", "note")
NOTE = (
    "A unit is one order of the requests on one model; intervals are over units, whose models are few: they speak for "
    "other orders, hardly for other models. Numbers are set so that zero is no difference; shares are fractions. "
    "Intervals are t intervals; of shares of walks they are exact binomial ones, of ratios Fieller's. A break is the "
    "abrupt phase of perplexity or forgetting; walks without one count as unbroken until their last edit."
)


TEXT = ClaimText(
    "claims-language",
    "What the scaling paper says, and what these runs show",
    NOTE,
    TITLES,
    ("seeds", "models", "units"),
)


def cells(table: pd.DataFrame) -> list[list[str]]:
    """The table as text: differences with their intervals, counts in words."""
    return claim_text.cells(table, TEXT.counted)


def to_markdown(table: pd.DataFrame) -> str:
    """The claims as a Markdown table with a paragraph on how to read it."""
    return TEXT.to_markdown(table)
