"""What a tracker is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Mirrors a run. Called in the order start, point..., finish, close; none of these may raise or block."""

    def start(self, run_id: str, run_dir: Path, config: Mapping[str, Any]) -> None:
        """A run begins, or is taken up again."""

    def point(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """The records of one step of the trajectory were written."""

    def finish(self, summary: Mapping[str, Any], figures: Sequence[Path]) -> None:
        """The run is complete: its summary, and the files of its figures."""

    def close(self, failed: bool = False) -> None:
        """Let go of everything, after `finish` or in its place when the run failed. May be called twice."""


def key_of(record: Mapping[str, Any]) -> str:
    """A readable name of what a record measures: `at-edit/edit/success`, `model/<layer>/drift_fro`.

    An answer about one request has its name in it, `at-edit/<request>/edit/accuracy`: several requests are measured at
    one step, and would be one number otherwise. What an editor tells of its edits has not, `at-edit/key_ratio`: it is a
    curve over edits, and there may be thousands of them.
    """
    shift = str(record.get("shift") or "none")
    shifted = "" if shift == "none" else f"{shift}-{record.get('severity', 0)}"
    probe = record.get("probe")
    about = (record.get("scope"), record.get("request") if probe else None, probe)
    parts = (*about, shifted, record.get("layer"), record.get("metric"))
    return "/".join(str(part) for part in parts if part)
