"""What an experiment lends to its parts: where to keep things, where randomness comes from, how to show progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Advance = Callable[[int], None]
ShowProgress = Callable[[str, int], AbstractContextManager[Advance]]


@contextmanager
def silent(title: str, total: int) -> Iterator[Advance]:
    """Progress that nobody watches."""
    yield lambda n: None


@dataclass(frozen=True)
class Workspace:
    """cache: folder shared between runs.  run: this run's folder, or None in a notebook.

    seed: everything random is drawn from generators made from it.  progress: `with progress(title, total) as advance`.
    """

    cache: Path
    run: Path | None = None
    seed: int = 0
    progress: ShowProgress = silent

    def generator(self) -> torch.Generator:
        """A fresh CPU generator; the same for every caller, so that parts do not depend on each other's order."""
        import torch

        return torch.Generator().manual_seed(self.seed)
