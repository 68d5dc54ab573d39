"""The tracker that does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class NoTracker:
    """Tracks nothing: the run directory holds everything anyway."""

    def start(self, run_id: str, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Nothing to do."""

    def point(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Nothing to do."""

    def finish(self, summary: Mapping[str, Any], figures: Sequence[Path]) -> None:
        """Nothing to do."""

    def close(self, failed: bool = False) -> None:
        """Nothing to do."""
