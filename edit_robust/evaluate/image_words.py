"""Image sets whose classes are told in words, asked of a model that gives logits of several heads side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from edit_robust.core.errors import UserError
from edit_robust.core.images import ImageSet
from edit_robust.core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from edit_robust.models.base import LogitsAlong


@runtime_checkable
class SeveralHeads(Protocol):
    """A model whose `logits_along` gives logits of its own classes, and after them of others named in words."""

    @property
    def n_columns(self) -> int:
        """How many logits there are."""
        ...

    def columns(self, words: Vocabulary) -> tuple[int, ...]:
        """The places of some classes among the logits; new ones get a head of their own."""
        ...


def in_columns(sets: Sequence[ImageSet], model: LogitsAlong) -> list[ImageSet]:
    """The sets with labels and classes as places among the model's logits, so that all are asked in one pass.

    A set's own classes are the only ones that its images are answered among. UserError for a set about other classes
    than the model's own where the model cannot read names.
    """
    own = getattr(model, "classes", None)
    if all(x.words is None or x.words.class_names == own for x in sets):
        return list(sets)
    return [_placed(x, model) for x in sets]


def _placed(images: ImageSet, model: LogitsAlong) -> ImageSet:
    if images.words is None:
        return images if images.classes is not None else replace(images, classes=tuple(range(model.n_classes)))
    words = images.words
    if not isinstance(model, SeveralHeads):
        some = ", ".join(words.class_names[:3])
        raise UserError(
            f"{images.source or images.probe} is about {len(words.class_names)} classes of its own ({some}, ...), and "
            f"{model.name} answers about others; give a model that reads the names of classes, such as model=scene-clip"
        )
    places = np.array(model.columns(words))
    labels = np.asarray(images.labels, dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(places)))
    if len(wrong):
        raise UserError(f"{images.ids[wrong[0]]} has label {labels[wrong[0]]}, but {len(places)} classes are named")
    among = range(len(places)) if images.classes is None else images.classes
    return replace(images, labels=places[labels], classes=tuple(int(places[c]) for c in among))


def n_answers(model: LogitsAlong) -> int:
    """How many logits an image is answered with."""
    return model.n_columns if isinstance(model, SeveralHeads) else model.n_classes
