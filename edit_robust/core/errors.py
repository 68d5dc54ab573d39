"""One kind of error for what a user can put right, and the nearest valid choice for it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user asked for cannot be done. Shown as one line; the program ends with exit code 2."""


class BusyError(UserError):
    """Another process does this very thing now. It will be done, or can be gone on with when that process has ended."""


def nearest(word: str, choices: Iterable[str], label: str = "valid choices") -> str:
    """A clause that helps: `did you mean "rome"? (valid choices: ft, memit, rome)`."""
    known = sorted({str(c) for c in choices})
    close = get_close_matches(str(word), known, n=1, cutoff=0.5)
    shown = ", ".join(known[:24]) + (", ..." if len(known) > 24 else "")
    listing = f"({label}: {shown})" if known else f"(there are no {label})"
    return f'did you mean "{close[0]}"? {listing}' if close else listing
