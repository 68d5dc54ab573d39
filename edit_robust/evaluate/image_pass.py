"""One pass over the images, for the kept points of one run or of several.

Every shard is decoded once and corrupted once a variant; what lies below the edited modules runs once a batch, whatever
the number of runs. Each run's models answer by themselves, in the batches that they would have alone: their numbers do
not depend on who is asked beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from edit_robust.core.work import ShowProgress
from edit_robust.evaluate.answer_store import AnswerStore, Group, Keep, Place, class_type
from edit_robust.evaluate.image_gallery import Gallery
from edit_robust.evaluate.image_shards import Shard, shards, shown
from edit_robust.shifts.images.variants import Variant

if TYPE_CHECKING:
    from torch import Tensor

    from edit_robust.core.delta import Delta
    from edit_robust.models.base import LogitsAlong

JUDGED = 1 << 22  # logits that are judged at once

Along = Sequence[tuple["Delta", Sequence[float]]]


@runtime_checkable
class SharesPrefixes(Protocol):
    """A model that runs what several sets of changes have in common once."""

    def logits_along_each(self, x: Any, several: Sequence[Along]) -> Iterator[tuple[int, list[list[Any]]]]:
        """(i, what `logits_along(x, several[i])` gives) for every i, in any order."""
        ...


@dataclass(frozen=True)
class Lines:
    """Edited models that a set is asked at, as lines through weight space: each change with its alphas.

    places:   for each of the models, in the order of the kept points, the number of its line.
    unedited: whether the first of them is the unedited model.
    """

    along: Along
    places: Sequence[int]
    unedited: bool


@dataclass
class Party:
    """A run in the pass.

    store, group: where its answers go.   lines: of each image set.   before: (set, variant) -> which images the
    unedited model answers right, where that is known from an earlier group.
    """

    store: AnswerStore
    group: Group
    lines: Sequence[Lines]
    before: Callable[[int, Variant], np.ndarray | None]
    _found: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def wants(self, place: Place) -> bool:
        """Whether the answers at a place are missing."""
        return bool(self.group.asked[place.images]) and place not in self.store

    def take(self, gallery: Gallery, shard: Shard, variant: Variant, part: slice, logits: list[list[Tensor]]) -> None:
        """Keep the verdicts on a batch: images `part` of a shard."""
        lines = self.lines[shard.images]
        given = [iter(some) for some in logits]
        each = [next(given[i]) for i in lines.places]
        rows = slice(shard.rows.start + part.start, min(shard.rows.start + part.stop, shard.rows.stop))
        before: np.ndarray | Literal["first"] | None = "first"
        if not lines.unedited:
            known = self.before(shard.images, variant)
            before = None if known is None else known[rows]
        target, classes = gallery.targets[shard.images][rows], gallery.sets[shard.images].classes
        found = judged(gallery.model, each, target, classes, before, self.group.keep, not variant.severity)
        for name, array in found.items():
            self._found.setdefault(name, []).append(array)

    def put(self, place: Place, n: int) -> None:
        """Write what was kept of the shard's n images under a variant."""
        arrays = {k: np.concatenate(parts, axis=1) for k, parts in self._found.items() if k != "moved"}
        if "moved" in self._found:
            arrays["moved"] = np.stack(self._found["moved"]).sum(axis=0, dtype=np.int32)
        self._found = {}
        self.store.add(place, n, arrays)


def judged(
    model: LogitsAlong,
    logits: Sequence[Tensor],
    target: np.ndarray,
    classes: tuple[int, ...] | None,
    before: np.ndarray | Literal["first"] | None,
    keep: Keep,
    classes_too: bool = False,
) -> dict[str, np.ndarray]:
    """Arrays [points, ...] from each point's logits of a batch, as `AnswerStore` has them; several points at a time,
    where the logits are: what is right is found out there, and only that is fetched.

    before: which images the unedited model answers right; `first`: the first point is the unedited model.
    classes_too: the predicted classes are kept whatever `keep` says.
    """
    import torch

    at_once = max(1, JUDGED // logits[0].numel())
    found = []
    for i in range(0, len(logits), at_once):
        some = torch.stack(list(logits[i : i + at_once]))
        verdicts = model.judge(some, target, classes, before, classes_too or keep != "right")
        if isinstance(before, str):
            before = verdicts.right[0]
        found.append(verdicts)
    arrays = {
        "right": np.concatenate([v.right for v in found]),
        "loss": np.concatenate([v.loss for v in found])[:, None],
    }
    if before is not None:
        arrays["moved"] = np.concatenate([v.moved for v in found if v.moved is not None]).astype(np.int32)
    if classes_too or keep != "right":
        kind = class_type(logits[0].shape[-1])
        arrays["pred"] = np.concatenate([v.pred for v in found if v.pred is not None]).astype(kind)
    if keep != "right":
        arrays["logp"] = np.concatenate([v.logp for v in found if v.logp is not None])
    if keep == "logits":
        arrays["logits"] = torch.stack(list(logits)).to(torch.float16).cpu().numpy()
    return arrays


def missing(gallery: Gallery, parties: Sequence[Party]) -> list[tuple[Shard, list[Variant]]]:
    """Every shard that some run is asked at, with the variants under which answers of some run are not there."""
    jobs = []
    for shard in shards(gallery.sets, parties[0].group.n):
        if any(p.group.asked[shard.images] for p in parties):
            places = [Place(shard.images, k, shard.rows.start) for k in range(len(gallery.variants(shard.images)))]
            wanted = [any(p.wants(place) for p in parties) for place in places]
            variants = gallery.variants(shard.images)
            jobs.append((shard, [v for v, yes in zip(variants, wanted, strict=True) if yes]))
    return jobs


def answer_all(gallery: Gallery, parties: Sequence[Party], progress: ShowProgress) -> None:
    """Put every run's answers to every image into its store, but for those that are there.

    The runs' groups have shards of one size. The model stands at the unedited weights.
    """
    jobs = missing(gallery, parties)
    total = sum(len(shard.rows) * len(gallery.variants(shard.images)) for shard, _ in jobs)
    left = sum(len(shard.rows) * len(variants) for shard, variants in jobs)
    with progress("asking with images", total) as advance:
        advance(total - left)
        with closing(shown(gallery.model, gallery.shifting, gallery.sets, jobs)) as ready:
            for shard, variant, pixels in ready:
                place = Place(shard.images, gallery.variants(shard.images).index(variant), shard.rows.start)
                asked = [p for p in parties if p.wants(place)]
                for b in range(0, len(pixels), gallery.model.batch_size):
                    part = slice(b, b + gallery.model.batch_size)
                    x = gallery.model.normalise(pixels[part])
                    for i, logits in _logits(gallery.model, x, [p.lines[shard.images].along for p in asked]):
                        asked[i].take(gallery, shard, variant, part, logits)
                    advance(len(x))
                for p in asked:
                    p.put(place, len(shard.rows))


def _logits(model: LogitsAlong, x: Any, several: Sequence[Along]) -> Iterator[tuple[int, list[list[Tensor]]]]:
    """Each run's logits, with what they have in common run once where the model can."""
    if len(several) > 1 and isinstance(model, SharesPrefixes):
        yield from model.logits_along_each(x, several)
    else:
        for i, along in enumerate(several):
            yield i, model.logits_along(x, along)
