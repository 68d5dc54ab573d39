"""Retention matrices of the runs that figures see, read once a run."""

from __future__ import annotations

import weakref

from edit_robust.evaluate.retention_matrix import Matrix, has_matrix, matrix_of
from edit_robust.figures.frame import RunData, is_sequence
from edit_robust.runs.reader import Run

_known: weakref.WeakKeyDictionary[RunData, Matrix | None] = weakref.WeakKeyDictionary()


def held(run: RunData) -> bool:
    """Whether a sequence kept what became of each of its edits."""
    return is_sequence(run) and run.path is not None and has_matrix(Run(run.path))


def matrix(run: RunData) -> Matrix | None:
    """Edit x checkpoint by argmax accuracy, or by preference where no edit was ever right by argmax."""
    if run not in _known:
        found = None if run.path is None else matrix_of(Run(run.path))
        if found is not None and run.path is not None and not found.taught.any():
            found = matrix_of(Run(run.path), "success")
        _known[run] = found
    return _known[run]
