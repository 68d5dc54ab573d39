"""The writing side of a run's folder: what it asked, what it measured, how far it got. A kill costs one point at most.

    config.yaml       the resolved config                 examples.jsonl  every question, once
    records.jsonl     tidy numbers, appended a point      points.jsonl    a line a finished point: the commit mark
    outcomes/         what every example got at a point   deltas/         each edit's change, as factors
    state/            what edits carry on; kept weights   status.json     running, complete or failed, and on what
    summary.json      final values, flat                  columns.json    how tables show them
    contexts.json     the context templates used      evaluations/    what the finished run was asked later

A point is measured when its line stands in points.jsonl. The line holds the length of records.jsonl after the point,
so that an unfinished tail is cut off when the run goes on.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edit_robust.core.data import Column, Record
from edit_robust.core.errors import UserError
from edit_robust.core.files import atomic_path, write_text
from edit_robust.runs.files import append, as_line, cut, read_json, read_lines
from edit_robust.runs.status import began, forget_peak, lock, now, peak_memory

STATUS_EVERY = 10.0  # seconds: how stale the status of a running experiment may be


class RunFolder:
    """A run's folder while the run is being made.

    done: the finished points by step.   phases: seconds spent in each phase, over all processes of the run.
    processor: the same in processor seconds, of all threads: they do not depend on what else the machine does.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self.path, self.run_id = path, run_id
        self.done: dict[int, dict[str, Any]] = {}
        self.phases: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self._status: dict[str, Any] = {}
        self._status_written = 0.0

    # -- opening and closing ---------------------------------------------------------------------------------------

    @contextmanager
    def session(self, config: Mapping[str, Any], device: str) -> Iterator[RunFolder]:
        """Own the folder. The status says running, then complete, failed (with its traceback) or interrupted."""
        self.path.mkdir(parents=True, exist_ok=True)
        held = lock(self.path)
        try:
            for name in ("outcomes", "deltas", "state"):
                (self.path / name).mkdir(exist_ok=True)
            if not (self.path / "config.yaml").exists():
                write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
            self._recover()
            before = read_json(self.path / "status.json")
            self.phases = dict(before.get("seconds", {}))
            self.processor = dict(before.get("processor_seconds", {}))
            forget_peak()
            self._status = began(before, config.get("seed"), device)
            self._write_status()
            try:
                yield self
            except KeyboardInterrupt:
                self._write_status(status="interrupted", ended=now())
                raise
            except BaseException as e:
                trace = "".join(traceback.format_exception(e))
                try:
                    self._write_status(status="failed", ended=now(), error=str(e), traceback=trace)
                except OSError:  # a full disk: what was measured is safe, and the first error is the one to show
                    raise e from None
                raise
            self._write_status(status="complete", ended=now())
        finally:
            held.release()

    def _recover(self) -> None:
        """Cut off what a killed process left half written, and remove its unfinished files: the lock is ours."""
        for litter in self.path.rglob(".*.part"):
            litter.unlink(missing_ok=True)
        points = read_lines(self.path / "points.jsonl")
        self.done = {p["step"]: p for p in points}
        records = self.path / "records.jsonl"
        end = points[-1]["records_end"] if points else 0
        if records.exists() and records.stat().st_size < end:
            raise UserError(
                f"{records} is shorter than points.jsonl says: it was changed; use force=true to start anew"
            )
        cut(records, end)
        cut(self.path / "points.jsonl", sum(len(as_line(p)) for p in points))
        known = self.path / "state" / "edits.jsonl"
        cut(known, sum(len(as_line(p)) for p in read_lines(known)))

    def _write_status(self, **more: Any) -> None:
        self._status |= more
        self._status["seconds"] = {k: round(v, 3) for k, v in self.phases.items()}
        self._status["processor_seconds"] = {k: round(v, 3) for k, v in self.processor.items()}
        self._status["peak_memory_mb"] = peak_memory()
        self._status["points"] = len(self.done)
        write_text(self.path / "status.json", json.dumps(self._status, indent=1))
        self._status_written = time.monotonic()

    def note(self, **facts: Any) -> None:
        """Put what became known while running into the status."""
        self._write_status(**facts)

    @property
    def versions_changed(self) -> list[str]:
        """What differs between the programs and libraries of the run's processes; empty where nothing does."""
        return list(self._status.get("versions_changed", []))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of a phase."""
        start, busy = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - start
            self.processor[name] = self.processor.get(name, 0.0) + time.process_time() - busy

    # -- what was measured -----------------------------------------------------------------------------------------

    def write_examples(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Keep every question once."""
        path = self.path / "examples.jsonl"
        if not path.exists():
            write_text(path, "".join(json.dumps(dict(line), ensure_ascii=False) + "\n" for line in lines))

    def write_point(
        self, step: int, records: Sequence[Record], outcomes: Mapping[str, np.ndarray], **about: Any
    ) -> None:
        """Outcomes (arrays by name) first, then the records, then the line that says the point is measured."""
        with atomic_path(self.path / "outcomes" / f"{step:06d}.npz") as temporary, temporary.open("wb") as f:
            np.savez_compressed(f, **outcomes)  # type: ignore[arg-type]
        end = append(self.path / "records.jsonl", "".join(as_line(_strict(r.to_dict())) for r in records))
        line = {"step": step, "records_end": end, **about}
        append(self.path / "points.jsonl", as_line(line))
        self.done[step] = line
        if time.monotonic() - self._status_written > STATUS_EVERY:
            self._write_status()

    def write_summary(self, columns: Sequence[Column], values: Mapping[str, Any]) -> None:
        """summary.json: the columns' values, flat; columns.json: how tables show them."""
        write_text(self.path / "columns.json", json.dumps([c.to_dict() for c in columns], indent=1))
        write_text(self.path / "summary.json", json.dumps(dict(values), indent=1))


def set_aside(path: Path) -> Path | None:
    """Move a run's folder out of the way, so that the run starts anew and nothing measured is lost."""
    if not path.exists():
        return None
    n = 1
    while (aside := path.with_name(f"{path.name}~{n}")).exists():
        n += 1
    held = lock(path)
    try:
        path.rename(aside)
    finally:
        held.release()
    return aside


def _strict(record: dict[str, Any]) -> dict[str, Any]:
    """JSON knows neither NaN nor infinity; both become null, and NaN when read back."""
    return record if math.isfinite(record["value"]) else {**record, "value": None}
