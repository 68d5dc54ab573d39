"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """about: what was looked at.   name: which of them.   state: a fault stops runs, a note says what to know.

    text: what was found.   mend: what to do about it, "" for nothing.
    """

    about: str
    name: str
    state: State
    text: str
    mend: str = ""


def gigabytes(size: float) -> str:
    """Bytes as 1.2 GB, 300 MB, 12 KB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size:.0f} bytes"
