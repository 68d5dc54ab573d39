"""How much room a page has for each of its runs: single edits and images are shown of fewer where runs are many."""

from __future__ import annotations

from dataclasses import dataclass

#: Edits that a page tells of one by one, over all of its runs, and of one run at most and at least.
EDITS, MOST, LEAST = 1200, 300, 8
#: Bytes of all pictures of a page.
PICTURES = 2_500_000
#: Runs up to which many images of a set are shown, and how many: then, and of more runs.
FEW, MANY_FLIPS, FEW_FLIPS = 3, 12, 4


@dataclass(frozen=True)
class Room:
    """edits: of a run at most.   flips: images of each kind and set.   pictures: bytes of all pictures of the page."""

    edits: int
    flips: int
    pictures: int


def of(runs: int) -> Room:
    """The room on a page about so many runs."""
    each = EDITS // max(runs, 1)
    return Room(max(min(each, MOST), LEAST), MANY_FLIPS if runs <= FEW else FEW_FLIPS, PICTURES)
