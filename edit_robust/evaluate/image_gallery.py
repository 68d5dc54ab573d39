"""The images that runs are asked about, made ready for a model: once, however many runs are asked about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from edit_robust.core.data import ImageRequest
from edit_robust.core.errors import UserError
from edit_robust.core.images import ImageSet, Key, Pixels
from edit_robust.evaluate.base import Setting
from edit_robust.evaluate.chosen_alpha import HELD_OUT
from edit_robust.evaluate.image_words import in_columns, n_answers
from edit_robust.evaluate.leaks import leaks
from edit_robust.shifts.images.variants import Shifting, ShiftOptions, Variant

if TYPE_CHECKING:
    from edit_robust.models.base import LogitsAlong
    from edit_robust.tasks.base import Images


TRIED = 64  # images on which a lower precision is compared with float32


@runtime_checkable
class TellsPrecision(Protocol):
    """A model that knows of a lower precision."""

    def precision_note(self, images: Callable[[], Sequence[Pixels]]) -> str | None:
        """What it does to answers about these images; None where there is nothing to tell."""
        ...


class Gallery:
    """Image sets in the columns of a model's logits, their right classes, and how they are shifted.

    corruptions: name -> severities.   options: how images are corrupted.   cache: folder of their store.
    UserError for an empty set, and for labels that the model does not have.
    """

    def __init__(
        self, setting: Setting, corruptions: Mapping[str, tuple[int, ...]], options: ShiftOptions, cache: Path
    ) -> None:
        self.model = cast("LogitsAlong", setting.model)
        self.requests = [cast(ImageRequest, r) for r in setting.requests]
        self.sets: list[ImageSet] = in_columns(cast("Images", setting.task).image_sets(setting.requests), self.model)
        self.n_answers = n_answers(self.model)
        self.shifting = Shifting.of(corruptions, options, cache, self.model.size, self.model.cropping)
        self._skip_small_store(options)
        self._check_labels()
        self.targets = [np.asarray(x.labels, dtype=np.int64) for x in self.sets]
        self.answers_of_a_point = sum(len(x) * len(self.shifting.variants(x)) for x in self.sets)
        self._note: str | None = None
        self._leaks: Mapping[str, tuple[int, int]] | None = None

    def _check_labels(self) -> None:
        for x in self.sets:
            if not len(x):
                of = f" of {x.request}" if x.request else ""
                raise UserError(f"there are no images for {x.probe}{of} ({x.source})")
            labels = np.asarray(x.labels)
            wrong = np.flatnonzero((labels < 0) | (labels >= self.n_answers))
            if len(wrong):
                raise UserError(
                    f"{x.ids[wrong[0]]} has label {int(labels[wrong[0]])}, but {self.model.name} has "
                    f"{self.model.n_classes} classes, 0 to {self.model.n_classes - 1}"
                )

    def _skip_small_store(self, options: ShiftOptions) -> None:
        """Keep no corrupted images where the store would throw each away before it is read again."""
        many = sum(len(x) * sum(v.severity > 0 for v in self.shifting.variants(x)) for x in self.sets)
        wanted = many * 3 * self.model.size**2 / 1e9
        self.store_note = ""
        if self.shifting.store is not None and wanted > options.store_gb:
            limit = f"shifts.store_gb={options.store_gb:g}"
            self.store_note = f"corrupted images are not kept: they are {wanted:.0f} GB, and {limit}"
            self.shifting = replace(self.shifting, store=None)

    def variants(self, images: int) -> list[Variant]:
        """How set number `images` is shown."""
        return self.shifting.variants(self.sets[images])

    def key(self, images: int, variant: Variant) -> Key:
        """The name of a set under a variant."""
        x = self.sets[images]
        return x.probe, x.request, variant.shift, variant.severity

    def leaks(self) -> Mapping[str, tuple[int, int]]:
        """Per request how many of the images that it is judged by it was made from; they are read for this, once."""
        if self._leaks is None:
            judged = [x for x in self.sets if x.probe not in HELD_OUT]  # no result is told of those
            self._leaks = leaks(self.requests, judged)
        return self._leaks

    def examples(self) -> list[dict[str, Any]]:
        """Every image as it is kept with a run."""
        return [
            {
                "id": name,
                "probe": x.probe,
                "group": x.request,
                "shift": x.shift,
                "target": int(label),
                "source": x.source,
            }
            for x in self.sets
            for name, label in zip(x.ids, x.labels, strict=True)
        ]

    def precision_note(self) -> str | None:
        """What a lower precision does to some of the original task's answers, where the model knows of one."""
        if not isinstance(self.model, TellsPrecision):
            return None
        if self._note is None:
            original = self.sets[0]
            some = range(min(TRIED, len(original)))
            self._note = self.model.precision_note(lambda: [original.load(i) for i in some]) or ""
        return self._note
