"""What the vision paper (arXiv 2303.00046, sections 6 and 7) says, and what the runs at hand show of it.

A unit is one pair (request) under one seed on one model; every number is a mean over pairs of the mean over the pair's
units, with its 95 % t interval over pairs. Methods are compared on the same unit, and at the same layer where both
edited it. A verdict is `agrees` or `disagrees` where the whole interval lies on one side of zero, else `not seen`: no
clear difference, or no runs that could show one; `note` says which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.statistics.penalties import at_edit_accuracy
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import natural
from edit_robust.figures.vision.common import gather, image_runs, whole
from edit_robust.report import claim_text
from edit_robust.report.claim_curves import MARGIN, compare_matched, concave, curves, monotone_paths
from edit_robust.report.claim_rows import UNIT, Place, by_unit, differ, permuted, row

__all__ = ["COLUMNS", "COUNTED", "MATCHED", "NOTE", "TITLES", "WHOLE", "cells", "claims"]
__all__ += ["permuted", "role", "to_markdown"]

COLUMNS = ("claim", "at", "difference", "low", "high", "units", "seeds", "pairs", "verdict", "note")
WHOLE, MATCHED = "whole edit", "matched edit accuracy"
EQ1, EQ2, OWN = "original_ood_penalty", "editing_ood_penalty", "unedited_editing_ood_penalty"


def role(method: str) -> str:
    """The paper's name for a method, by the words in ours; "" for one that the compared claims are not about."""
    name = re.sub(r"[_\s]+", "-", method.lower())
    tuned = re.search(r"(^|-)(ft|fine-tuning|supervised|paint|1-?li|one-layer)(-|,|$)", name)
    if "rewrit" in name:
        return "rewriting"
    if "collision" in name:
        return "global collision" if "global" in name else "local collision"
    if tuned and re.search(r"local|1-?li|one-layer|single-layer", name):
        return "1-layer fine-tuning"
    return "global fine-tuning" if tuned and re.search(r"global|paint", name) else ""


def claims(runs: Sequence[RunData]) -> pd.DataFrame:
    """One row a claim, method and place of comparison, see COLUMNS. Differences and penalties are fractions.

    `difference` is what the claim is about, as its words say; `low` and `high` bound it.
    """
    table = gather(runs)
    if table.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    table = table.assign(role=table.method.map(role), layer=table.layer.astype(str))
    rows = [*negative(table), *rewriting_against_collision(table), *ranking(table)]
    rows += [*concave(table), *monotone_paths(table, image_runs(runs))]
    rows += [*layers_matter(table), *one_layer_against_all(table)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def negative(table: pd.DataFrame) -> list[dict[str, Any]]:
    """All penalties are negative; and eq. 2 beside what the unedited model loses itself, which the paper leaves out."""
    rows = []
    ends = whole(table)
    for method, some in ends.groupby("method"):
        rows.append(row(f"original-task penalty (eq. 1) of {method} is negative", WHOLE, by_unit(some, EQ1), some, -1))
    for method, some in ends.groupby("method"):
        rows.append(row(f"editing-task penalty (eq. 2) of {method} is negative", WHOLE, by_unit(some, EQ2), some, -1))
        beyond = by_unit(some.assign(beyond=some[EQ2] - some[OWN]), "beyond")
        claim = f"... and larger than the unedited model's own drop ({method})"
        rows.append(row(claim, WHOLE, beyond, some, -1, "not the paper's claim"))
    return [one for one in rows if one["units"]]


def compare(first: pd.DataFrame, second: pd.DataFrame, column: str) -> pd.Series:
    """First less second for the whole edit, on the same unit and, where there are such, the same layers."""
    a, b = (whole(one).dropna(subset=column).groupby([*UNIT, "layer"])[column].mean() for one in (first, second))
    same = (a - b).dropna()
    if len(same):
        return same.groupby(level=UNIT).mean()
    return (a.groupby(level=UNIT).mean() - b.groupby(level=UNIT).mean()).dropna()


def rewriting_against_collision(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rewriting costs the original task less than local collision; it edits less, too: hence at matched accuracy."""
    ours, theirs = table[table.role == "rewriting"], table[table.role == "local collision"]
    claim = "rewriting's original-task penalty is smaller than local collision's (eq. 1, difference positive)"
    missing = "needs runs of both on the same pairs"
    return [
        row(claim, WHOLE, compare(ours, theirs, EQ1), table, 1, missing=missing),
        row(claim, MATCHED, compare_matched(ours, theirs, EQ1), table, 1, missing=f"{missing}, with several alphas"),
    ]


def ranking(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Methods rank differently by editing-task penalty."""
    claim = "methods differ in editing-task penalty (eq. 2, best less worst)"
    missing = "needs two methods on at least two pairs"
    ends = whole(table)
    every = ends.dropna(subset=EQ2).groupby([*UNIT, "method"])[EQ2].mean().unstack("method").dropna()
    rows = [differ(claim, WHOLE, every, table, missing)]
    levels: dict[Place, dict[str, float]] = {}
    for (model, unit), some in table.groupby(UNIT):
        own = {str(method): curves(one) for method, one in some.groupby("method")}
        if len(own) < 2 or not all(own.values()):
            continue
        level = min(max(one.edit_accuracy.max() for one in found.values()) for found in own.values())
        points = {m: [at_edit_accuracy(one, float(level)) for one in found.values()] for m, found in own.items()}
        levels[str(model), str(unit)] = {
            m: float(np.mean([p[EQ2] for p in ps if p is not None])) for m, ps in points.items()
        }
    matched = pd.DataFrame.from_dict(levels, orient="index")
    if len(matched):
        matched.index = pd.MultiIndex.from_tuples(list(levels), names=UNIT)
        matched = matched.dropna()
    return [*rows, differ(claim, MATCHED, matched, table, missing)]


def layers_matter(table: pd.DataFrame) -> list[dict[str, Any]]:
    """What an edit costs depends on the layer."""
    claim = "the original-task penalty depends on the layer (eq. 1, best less worst)"
    rows = []
    for method, some in whole(table).groupby("method"):
        every = some.dropna(subset=EQ1).groupby([*UNIT, "layer"])[EQ1].mean().unstack("layer").dropna()
        line = differ(f"{claim}: {method}", WHOLE, every, some, "needs two layers and pairs")
        rows += [line] if every.shape[1] > 1 else []
    return rows or [row(claim, WHOLE, pd.Series(dtype=float), table, 1, missing="needs runs at several layers")]


def one_layer_against_all(table: pd.DataFrame) -> list[dict[str, Any]]:
    """1-LI keeps more of the original task under corruptions than global fine-tuning that edits as well."""
    ours, theirs = table[table.role == "1-layer fine-tuning"], table[table.role == "global fine-tuning"]
    claim = "1-LI is above global fine-tuning (eq. 1, difference positive)"
    missing = "needs runs of both on the same pairs, with several alphas"
    rows = [
        row(claim, f"{MATCHED}, mean over layers", compare_matched(ours, theirs, EQ1), table, 1, missing=missing),
        row(claim, f"{WHOLE}, mean over layers", compare(ours, theirs, EQ1), table, 1, missing=missing),
    ]
    layers = sorted(set(ours.layer), key=natural)
    for layer in layers if len(layers) > 1 else ():
        values = compare_matched(ours, theirs, EQ1, only=layer)
        rows.append(row(claim, f"{MATCHED}, {layer}", values, table, 1, missing=missing))
    return rows


COUNTED = ("seeds", "pairs", "units")


def cells(table: pd.DataFrame) -> list[list[str]]:
    """The table as text: differences with their intervals, counts in words."""
    return claim_text.cells(table, COUNTED)


TITLES = ("claim", "compared at", "difference [95 % interval]", "seeds / pairs / units", "verdict", "note")
NOTE = (
    "Differences are fractions: 0.01 is one point in a hundred. They are means over pairs (requests), intervals are t "
    "intervals over pairs: seeds and models of one pair are averaged first, as they are not independent. Matched edit "
    "accuracy: both methods where they have made the edit equally well, on the way from the unedited to the edited "
    f"model. Monotone: within {MARGIN:g}."
)


def to_markdown(table: pd.DataFrame) -> str:
    """The claims as a Markdown table with a line on how to read it."""
    lines = [f"| {' | '.join(TITLES)} |", f"|{'---|' * len(TITLES)}"]
    lines += [f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in cells(table)]
    return "\n".join([*lines, "", NOTE, ""])
