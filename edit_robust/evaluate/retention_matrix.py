"""Edit x checkpoint: is each past edit's own question still answered right? Read from what a run has kept.

Needs no model: the measures `retention` and `answers` both keep it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from edit_robust.core.data import Scores
from edit_robust.evaluate.statistics.success import accuracy, success
from edit_robust.evaluate.statistics.survival import Survival, lifetimes, survival
from edit_robust.runs.reader import Run

#: How an edit is judged: its own question's answer is the argmax, or is merely preferred to the old one.
HOWS = ("accuracy", "success")
Judged = dict[str, np.ndarray]


@dataclass(frozen=True)
class Matrix:
    """right: edit x checkpoint, 1 or 0; NaN before the edit was made.   taught: right after its own edit?
    made: edits in the model right after each edit.   seen: edits in the model at each checkpoint.
    """

    right: Float[np.ndarray, "n c"]
    taught: Bool[np.ndarray, " n"]
    made: Float[np.ndarray, " n"]
    seen: Float[np.ndarray, " c"]

    def forgotten(self, sticky: bool = False) -> Float[np.ndarray, " c"]:
        """At each checkpoint the share of the edits made so far that were right once and are wrong now; sticky: or
        were wrong at any checkpoint before."""
        return _share(self._ever_wrong() if sticky else self.right == 0, self._known())

    def recovered(self) -> Float[np.ndarray, " c"]:
        """At each checkpoint the share that is right now, and was wrong at a checkpoint before."""
        return _share(self._ever_wrong() & (self.right == 1), self._known())

    def _ever_wrong(self) -> Bool[np.ndarray, "n c"]:
        return np.logical_or.accumulate(self.right == 0, axis=1)

    def _known(self) -> Bool[np.ndarray, "n c"]:
        return ~np.isnan(self.right) & self.taught[:, None]

    def cohorts(self, k: int) -> list[np.ndarray]:
        """Edits in the order they were made, in k parts of about the same size."""
        n = len(self.taught)
        return [part for part in np.array_split(np.arange(n), max(1, min(k, n))) if len(part)]

    def survival(self, some: np.ndarray | None = None) -> Survival:
        """How long the edits last, or some of them, given by their numbers from 0."""
        rows = np.arange(len(self.taught)) if some is None else some
        return survival(*lifetimes(self.right[rows], self.taught[rows], self.made[rows], self.seen))


def _share(which: Bool[np.ndarray, "n c"], among: Bool[np.ndarray, "n c"]) -> Float[np.ndarray, " c"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (which & among).sum(0) / among.sum(0)


def matrix_of(run: Run, how: str = "accuracy") -> Matrix | None:
    """The matrix of a sequential run that looked back at its edits; None where it did not."""
    order: dict[int, tuple[float, bool]] = {}
    checks: dict[float, Judged] = {}
    labels = _Labels(run)
    for point in run.points:
        at_edit, later = _judged(run, int(point["step"]), labels, how)
        n = float(point["n_edits"])
        order |= {int(i): (n, bool(ok)) for i, ok in zip(*at_edit, strict=True)} if at_edit is not None else {}
        if later is not None and n:
            checks[n] = {"who": later[0], "right": later[1]}
    if not checks or not order:
        return None
    n = max(order) + 1
    seen = np.array(sorted(checks))
    right = np.full((n, len(seen)), np.nan)
    for c, place in enumerate(seen):
        right[checks[place]["who"], c] = checks[place]["right"]
    made, taught = np.full(n, np.nan), np.zeros(n, dtype=bool)
    for i, (place, ok) in order.items():
        made[i], taught[i] = place, ok
    return Matrix(right, taught, made, seen)


def has_matrix(run: Run) -> bool:
    """Whether a run kept what `matrix_of` reads, found out from its last point alone."""
    points = run.points
    return bool(points) and any(
        key.startswith("retention|") for m in ("retention", "answers") for key in run.arrays(int(points[-1]["step"]), m)
    )


Answers = tuple[np.ndarray, np.ndarray]  # indices of the requests, right or wrong


def _judged(run: Run, step: int, labels: _Labels, how: str) -> tuple[Answers | None, Answers | None]:
    """(the newest edits, all past edits) at a step, each None where they were not asked."""
    own = run.arrays(step, "retention")
    if own:
        found = [
            (own[f"{scope}|requests"].astype(int), own[f"{scope}|{how}"].astype(bool))
            if f"{scope}|requests" in own
            else None
            for scope in ("at-edit", "retention")
        ]
        return found[0], found[1]
    arrays = run.arrays(step, "answers")
    if not arrays:
        return None, None
    return labels.judged(arrays, "at-edit", how), labels.judged(arrays, "retention", how)


class _Labels:
    """Which question of `answers` is whose edit question, and what its right choice is."""

    def __init__(self, run: Run) -> None:
        found = run.examples_of("answers")
        edit = (found["probe"] == "edit").to_numpy() if "probe" in found else np.zeros(0, dtype=bool)
        self.edit = edit
        self.target = found["target"].to_numpy(dtype=np.int64) if len(edit) else np.zeros(0, dtype=np.int64)
        groups = list(dict.fromkeys(found["group"])) if len(edit) else []
        place = {g: i for i, g in enumerate(groups)}
        self.request = np.array([place[g] for g in found["group"]], dtype=int) if len(edit) else np.zeros(0, dtype=int)

    def judged(self, arrays: Mapping[str, np.ndarray], scope: str, how: str) -> Answers | None:
        if f"{scope}|index" not in arrays or not len(self.edit):
            return None
        index = arrays[f"{scope}|index"].astype(int)
        rows = np.flatnonzero(self.edit[index])
        if not len(rows):
            return None
        logp, hits = (arrays[f"{scope}|{name}"][rows].astype(np.float64) for name in ("logp", "hits"))
        scores = Scores(logp, hits, (~np.isnan(logp)).astype(np.int64), self.target[index[rows]])
        return all_of(self.request[index[rows]], (accuracy if how == "accuracy" else success)(scores))


def all_of(requests: np.ndarray, right: np.ndarray) -> Answers:
    """A request is right when all of its edit questions are. -> (requests, right)"""
    who = np.unique(requests)
    found = np.ones(int(who.max()) + 1 if len(who) else 0, dtype=bool)
    np.logical_and.at(found, requests, right)
    return who, found[who]
