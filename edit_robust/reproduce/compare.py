"""What the papers publish beside what the runs at hand gave (published.yaml), number by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.collapse import Diagnosis, diagnose
from edit_robust.figures.frame import RunData, rows, sequences, series, setting
from edit_robust.figures.vision.common import gather
from edit_robust.report.numbers import finite
from edit_robust.report.tables_language import autopsies
from edit_robust.reproduce.catalogue import read

UNKNOWN = "not measured by these runs"
#: Edits at the beginning of a walk that stand for single edits.
FIRST = 10


@dataclass(frozen=True)
class Published:
    """One published number. item: `at-scale/figure-1`.   here: how ours is computed; None: `why` not."""

    item: str
    what: str
    value: str
    unit: str
    model: str
    source: str
    here: str | None = None
    why: str = ""


@cache
def published() -> tuple[Published, ...]:
    """Every published number that is known here."""
    return tuple(Published(**one) for one in read("published.yaml")["numbers"])


def beside(item: str, runs: Sequence[RunData], verdicts: Mapping[str, str]) -> list[tuple[Published, str]]:
    """The published numbers of an item, each with ours as text. verdicts: of findings, by name."""
    return [(one, ours(one, runs, verdicts)) for one in published() if one.item == item]


def ours(one: Published, runs: Sequence[RunData], verdicts: Mapping[str, str]) -> str:
    """Our counterpart of a published number, or why there is none."""
    if one.here is None:
        return one.why
    kind, _, rest = one.here.partition(":")
    if kind == "claim":
        return verdicts.get(rest, UNKNOWN)
    return KINDS[kind](runs, *(rest.split(":") if rest else ())) or UNKNOWN


def of_editor(runs: Sequence[RunData], editor: str) -> list[RunData]:
    """The walks of an editor."""
    return [run for run in sequences(runs) if setting(run.config, "editor.name") == editor]


def _breaks(runs: Sequence[RunData], editor: str) -> str:
    """At which edits an editor's walks broke."""
    own = of_editor(runs, editor)
    found: list[Diagnosis] = [run.derive(diagnose) for run in own]
    edits = sorted(int(one.edit) for one in found if one.broke is not None and one.edit is not None)
    many = f"{len(edits)} of {len(own)} walks"
    longest = max((int(run.tidy["n_edits"].max()) for run in own), default=0)
    if not own:
        return ""
    if not edits:
        return f"{many} broke, up to {longest} edits"
    return f"{many} broke at " + (f"edit {edits[0]}" if edits[0] == edits[-1] else f"edits {edits[0]} to {edits[-1]}")


def _first(runs: Sequence[RunData], editor: str, name: str) -> str:
    """A success rate of the first edits of an editor's walks."""
    probe = {"ES": "edit", "PS": "paraphrase", "NS": "neighbourhood"}[name]
    found = [series(run, scope="at-edit", probe=probe, metric="success") for run in of_editor(runs, editor)]
    values = [float(one[one.index <= FIRST].mean()) for one in found if len(one[one.index <= FIRST])]
    return f"{100 * np.mean(values):.2f} (mean of each walk's first {FIRST} edits)" if values else ""


def _unedited(runs: Sequence[RunData], name: str) -> str:
    """A success rate of the unedited model."""
    values = {round(v, 2) for run in sequences(runs) if (v := finite(run.summary, f"unedited_{name}")) is not None}
    return " / ".join(f"{value:.2f}" for value in sorted(values))


def _drift(runs: Sequence[RunData], editor: str, edits: str) -> str:
    """||W - W0|| per weight of the edited layers after so many edits: lowest to highest layer and walk."""
    found = []
    for run in of_editor(runs, editor):
        own = rows(run, scope="model", metric="drift_per_element")
        found += list(pd.to_numeric(own[own["n_edits"] == int(edits)]["value"], errors="coerce").dropna())
    return f"{min(found):.3g} to {max(found):.3g} (layers and walks)" if found else ""


def _distance(runs: Sequence[RunData], editor: str, kind: str) -> str:
    """||dW|| per weight of an editor's normal or disabling edits, mean over walks, as autopsies found it."""
    told: list[dict[str, Any]] = [found for _, _, found in autopsies(of_editor(runs, editor))]
    if kind == "disabling":
        told = [one for one in told if one.get("culprit_kind") == "disabling edit"]
    key = "normalised_distance" if kind == "disabling" else "normalised_distance_median"
    values = [float(one[key]) for one in told if one.get(key) is not None]
    return f"{np.mean(values):.3g} (mean of {len(values)} walks)" if values else ""


def _variants(runs: Sequence[RunData]) -> str:
    """How many corruptions, each at some severities, were asked."""
    found = sorted({int(n) for run in runs if (n := finite(run.summary, "n_variants"))})
    return " / ".join(map(str, found))


def _severity(runs: Sequence[RunData]) -> str:
    """The severities of the corruptions."""
    found: set[int] = set()
    for run in runs:
        found |= {int(s) for s in pd.to_numeric(run.tidy["severity"], errors="coerce").dropna().unique() if s > 0}
    return ", ".join(map(str, sorted(found)))


def _leaks(runs: Sequence[RunData]) -> str:
    """Share of images that edits are judged by and that were trained on."""
    if gather(runs).empty:
        return ""
    shares = [finite(run.summary, "leaked_share") or 0.0 for run in runs]
    return f"{100 * np.mean(shares):.3f} on average, {100 * max(shares):.2f} at most"


KINDS: dict[str, Callable[..., str]] = {
    "breaks": _breaks,
    "first": _first,
    "unedited": _unedited,
    "drift": _drift,
    "distance": _distance,
    "variants": _variants,
    "severity": _severity,
    "leaks": _leaks,
}
