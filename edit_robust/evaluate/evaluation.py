"""All measures of a run at the points of its walk: a point is written when every measure has answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edit_robust.core.data import Record
from edit_robust.evaluate.base import Measure, Measured, Setting
from edit_robust.runs.folder import RunFolder
from edit_robust.trajectories import Point

#: Told of each point that is on disk: the point and its records.
Written = Callable[[Point, list[Record]], None]


class Evaluation:
    """Hands points to measures and writes what comes back. Measures may keep points and answer several together.

    full: called, where it is given, in place of `flush` when a measure has kept so many points that they should be
    answered now: somebody answers those of several runs, and flushes then.
    """

    def __init__(
        self, measures: Mapping[str, Measure], setting: Setting, folder: RunFolder, written: Written | None = None
    ) -> None:
        self.measures, self.folder = measures, folder
        self.written = written or (lambda point, records: None)
        self.full: Callable[[], None] | None = None
        self._waiting: list[tuple[Point, dict[str, Measured]]] = []
        with folder.phase("evaluate"):
            for measure in measures.values():
                measure.prepare(setting)
            folder.write_examples([{**line, "measure": name} for name, m in measures.items() for line in m.examples()])
        notes = {k: v for m in measures.values() for k, v in m.notes().items()}
        if notes:
            folder.note(**notes)

    def at(self, point: Point) -> None:
        """Evaluate a point that has not been measured, with the model's weights those of the point."""
        found: dict[str, Measured] = {}
        with self.folder.phase("evaluate"):
            for name, measure in self.measures.items():
                answer = measure.at(point, found)
                if answer is not None:
                    found[name] = answer
        self._waiting.append((point, found))
        if len(found) == len(self.measures):
            self.flush()
        elif any(m.full for m in self.measures.values()):
            (self.full or self.flush)()

    def flush(self) -> None:
        """Write every point that waits."""
        if not self._waiting:
            return
        with self.folder.phase("evaluate"):
            for name, measure in self.measures.items():
                kept = [found for _, found in self._waiting if name not in found]
                if kept:
                    for found, answer in zip(kept, measure.flush(), strict=True):
                        found[name] = answer
        for point, found in self._waiting:
            records = [r for name in self.measures for r in found[name].records]
            outcomes = {f"{name}:{k}": x for name in self.measures for k, x in found[name].outcomes.items()}
            self._write(point, records, outcomes)
        self._waiting = []
        for measure in self.measures.values():
            measure.done()

    def _write(self, point: Point, records: list[Record], outcomes: Mapping[str, np.ndarray]) -> None:
        self.folder.write_point(point.step, records, outcomes, alpha=point.alpha, n_edits=point.n_edits)
        self.written(point, records)
