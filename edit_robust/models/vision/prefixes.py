"""What several sets of changes have in common below their first changed modules, run once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edit_robust.core import Layer
from edit_robust.models.vision.split import Features, SplitNetwork, features_at

#: Bytes of features at different modules that are kept at once; on a GPU a share of what is free.
KEPT_BYTES, KEPT_SHARE = 1 << 30, 0.25


class Splits(Protocol):
    """A network that can be split at its modules."""

    net: nn.Module

    def split_at(self, module: str) -> SplitNetwork: ...


class Prefixes:
    """The features of a batch of images at several modules, made in as few runs of the network as memory allows.

    order: of the modules, in which they are called.
    """

    def __init__(self, model: Splits, x: Tensor, order: Callable[[str], int]) -> None:
        self.model, self.x, self.order = model, x, order

    def at(self, modules: Sequence[str]) -> Iterator[tuple[str, SplitNetwork, Features]]:
        """Each module with the split there and the features, in the order of the network."""
        limit = kept_bytes(self.x.device)
        waiting = [(m, self.model.split_at(m)) for m in sorted(modules, key=self.order)]
        while waiting:
            some, size = [waiting.pop(0)], 0
            size = some[0][1].bytes_each * len(self.x)
            while waiting and (size := size + waiting[0][1].bytes_each * len(self.x)) <= limit:
                some.append(waiting.pop(0))
            found = features_at([split for _, split in some], self.x)
            for i, (module, split) in enumerate(some):
                yield module, split, found[i]
                found[i] = None  # type: ignore[call-overload]  # who asked there is done


class Unchanged:
    """Where a network is continued: the features, and what the unedited module there makes of them, found out once.

    layer: the module as a projection, where it is one.
    """

    def __init__(self, layer: Layer | None, features: Features) -> None:
        self.layer, self.features = layer, features

    @cached_property
    def output(self) -> Tensor:
        assert self.layer is not None
        found: Tensor = self.layer.module(self.features.input)
        return found


def kept_bytes(device: torch.device) -> int:
    """Bytes of features that may be kept on a device."""
    if device.type != "cuda":
        return KEPT_BYTES
    return max(KEPT_BYTES, int(KEPT_SHARE * torch.cuda.mem_get_info(device)[0]))


class Pending:
    """Logits of several askers as they come in, each handed over when it is whole.

    lines: how many each of them asks about.   found: their logits, None where they are missing.
    """

    def __init__(self, lines: Sequence[int]) -> None:
        self.found: list[list[Any]] = [[None] * n for n in lines]
        self._handed: set[int] = set()

    def whole(self) -> Iterator[tuple[int, list[Any]]]:
        """Those that have become whole; each once."""
        for i, some in enumerate(self.found):
            if i not in self._handed and all(x is not None for x in some):
                self._handed.add(i)
                yield i, some
                self.found[i] = []
