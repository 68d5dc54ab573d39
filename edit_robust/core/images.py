"""Images to ask a classifier about, and image pairs to edit it with: plain data, decoded only when needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Int, UInt8

from edit_robust.core.vocabulary import Vocabulary

Item = TypeVar("Item", covariant=True)
Pixels = UInt8[np.ndarray, "height width 3"]
#: One set of images under one shift: probe, request, shift, severity.
Key = tuple[str, str, str, int]
#: Which images of each set are answered right: bool [images].
Right = Mapping[Key, np.ndarray]


@dataclass(frozen=True)
class ImageSet:
    """Labelled images under one name.

    probe:   what they are asked for: "original" (the model's own task) or "edit" (the task edited for).
    ids:     one name an image, unique in the set; random streams go by them (`noise_name`).
    labels:  the right class of each.
    load:    position -> uint8 [height, width, 3]; raises UserError for a file that is no image.
    request: id of the request that an edit set belongs to; "" for the original task.
    shift:   "none", or the natural shift that the images are themselves: rendition, imagenet-r, ...
    classes: classes that the answer is chosen among (ImageNet-R and -A have 200); None: all.
    source:  which data this is, as a stamp on results.
    benchmark: "imagenet" where the labels are ImageNet's 1000 classes, which its normalisers are made for; "": another.
    clean:   position -> the picture that an image was made of; None: it is a picture itself.
    words:   the classes that `labels` are positions in, for models that read their names; None: the model's own.
    corrupted: whether they are asked about under corruptions as well.
    """

    probe: str
    ids: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    load: Callable[[int], Pixels]
    request: str = ""
    shift: str = "none"
    classes: tuple[int, ...] | None = None
    source: str = ""
    benchmark: str = ""
    clean: Callable[[int], Pixels] | None = None
    words: Vocabulary | None = None
    corrupted: bool = True

    def __len__(self) -> int:
        return len(self.ids)


class Rows(Sequence[Item]):
    """Some items of a sequence, fetched from it each time they are asked for."""

    def __init__(self, items: Sequence[Item], rows: Sequence[int]) -> None:
        self._items, self._rows = items, list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: Any) -> Any:
        return [self._items[k] for k in self._rows[i]] if isinstance(i, slice) else self._items[self._rows[i]]


@dataclass(frozen=True)
class Triples:
    """Pairs (x, x', y) that an edit is made from: x' shows the new concept, and shall be answered as x is.

    clean, edited: uint8 [height, width, 3] each, a pair of the same size.
    labels:        class of each pair.
    masks:         where x and x' differ, [height, width] in {False, True}; None: unknown (the whole image).
    """

    ids: tuple[str, ...]
    clean: Sequence[Pixels]
    edited: Sequence[Pixels]
    labels: Int[np.ndarray, " n"]
    masks: Sequence[Bool[np.ndarray, "height width"] | None] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> Triples:
        """Some of the pairs, in the order of `rows`; images are decoded when they are asked for, as before."""
        ids, labels = tuple(self.ids[i] for i in rows), self.labels[list(rows)]
        masks = Rows(self.masks, rows) if len(self.masks) == len(self) else [self.mask(i) for i in rows]
        return Triples(ids, Rows(self.clean, rows), Rows(self.edited, rows), labels, masks)

    def mask(self, i: int) -> Bool[np.ndarray, "height width"]:
        """The i-th mask; all True where none was given."""
        found = self.masks[i] if i < len(self.masks) else None
        return np.ones(self.clean[i].shape[:2], dtype=bool) if found is None else found
