"""Forward hooks that are gone when their block ends, and a way to stop a forward pass that has shown enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch.utils.hooks import RemovableHandle


class Enough(Exception):
    """Everything wanted has been seen: raised in a hook, it ends the forward pass and the `hooked` block."""


@contextmanager
def hooked(*handles: RemovableHandle) -> Iterator[None]:
    """Inside the block the hooks are in place; a hook that raises `Enough` ends the block quietly."""
    try:
        with suppress(Enough):
            yield
    finally:
        for handle in handles:
            handle.remove()
