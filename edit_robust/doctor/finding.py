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
