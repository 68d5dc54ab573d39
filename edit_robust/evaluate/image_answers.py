"""What an image classifier answers: the edit's images and the original task's, clean and shifted.

Points are kept until the walk ends (or memory is short) and then measured together (`image_pass`), those of several
runs in one pass. What has been answered is on disk variant by variant: a kill costs one variant of one shard, and
memory never holds more.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from edit_robust.core.allocator import keep_freed_memory
from edit_robust.core.data import Column, ImageRequest, Record
from edit_robust.core.images import ImageSet, Key
from edit_robust.core.options import Aside
from edit_robust.evaluate import columns_images as describe
from edit_robust.evaluate.answer_store import AnswerStore, Group, Keep, PointAnswers, answer_bytes
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.chosen_alpha import HELD_OUT
from edit_robust.evaluate.image_gallery import Gallery
from edit_robust.evaluate.image_keepsakes import keep_classes, keep_flips, keep_reference, keep_triples
from edit_robust.evaluate.image_numbers import IMAGENET, numbers
from edit_robust.evaluate.image_pass import Lines, Party, answer_all, missing
from edit_robust.evaluate.image_shards import SHARD_BYTES, shard_size
from edit_robust.shifts.images.variants import ShiftOptions, Variant, read_corruptions

if TYPE_CHECKING:
    from edit_robust.core.delta import Delta
    from edit_robust.models.base import LogitsAlong
    from edit_robust.trajectories import Point

#: Points that are measured together: as many as their changes fit into memory, their answers on disk (bytes).
KEPT_BYTES, KEPT_ANSWERS, KEPT_POINTS = 2 << 30, 4 << 30, 512


@dataclass(frozen=True)
class Waiting:
    """A point that waits to be measured, and the change that `alpha` times leads there from the unedited weights."""

    point: Point
    delta: Delta


class ImageAnswers(Measure):
    """Accuracy and loss of every image set under every shift, and images gained and lost against the unedited model.

    corruption: name -> severities, see `shifts.images`.   shifts: how images are corrupted, see `ShiftOptions`.
    keep: what is kept of every image under every shift: `right`, a bit: whether it is answered right, and of images
        without corruption the predicted class; `answers`: classes under corruption, too, and log p(right class);
        `logits`: also all logits, in 16 bits. No number depends on it.
    """

    needs = Needs(model=("logits_along", "judge", "crop"), task=("image_sets",))
    read_shifts = staticmethod(read_corruptions)

    def __init__(
        self,
        corruption: dict[str, Any] | None = None,
        shifts: ShiftOptions | None = None,
        keep: Aside[Keep] = "right",
    ) -> None:
        self.corruptions, self.options, self.keep = read_corruptions(corruption), shifts or ShiftOptions(), keep
        self._first: ImageAnswers | None = None
        self._waiting: list[Waiting] = []
        self._answered: tuple[AnswerStore, Group] | None = None

    def join(self, first: Self) -> None:
        """Ask about the images that `first` has made ready, which is asked in the same pass; before `prepare`."""
        self._first = first

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        keep_freed_memory()
        self.model = cast("LogitsAlong", setting.model)
        self.requests = [cast(ImageRequest, r) for r in setting.requests]
        if self._first is None:
            self.gallery = Gallery(setting, self.corruptions, self.options, setting.work.cache / "corrupted")
        else:
            self.gallery = self._first.gallery
        self.sets, self.shifting = self.gallery.sets, self.gallery.shifting
        self._waiting = []
        done = [p["step"] for p in setting.run.points]
        begun = Group.begun(self._shards)
        self._begun = begun if begun and (begun.stamp, begun.keep) == (self.shifting.stamp, self.keep) else None
        self._left = set(self._begun.steps) - set(done) if self._begun else set()
        self._answered = None
        self._before: dict[Key, np.ndarray] = dict(setting.run.right(0)) if 0 in done else {}  # what was answered right
        if not done:
            keep_triples(setting.run.path, self.requests, self.model)
            keep_reference(setting.run.path, setting.task)
            keep_classes(setting.run.path, setting.task, self.sets, self.model)

    def examples(self) -> list[dict[str, Any]]:
        return self.gallery.examples()

    def notes(self) -> Mapping[str, Any]:
        found = {"data": sorted({x.source for x in self.sets if x.source}), "corruption": self.shifting.stamp}
        if self.gallery.store_note:
            found["store"] = self.gallery.store_note
        if note := self.gallery.precision_note():
            found["precision"] = note
        return found

    # -- points ------------------------------------------------------------------------------------------------------

    def at(self, point: Point, found: Mapping[str, Measured]) -> None:
        """Keep the point; the change that leads to it is taken now, for the model stands there now."""
        self._waiting.append(Waiting(point, point.change()))

    @property
    def kept_bytes(self) -> int:
        """Memory of the changes of the points that are kept."""
        return sum(x.numel() * 4 for d in self._directions()[0] for t in d.terms.values() for x in t.tensors().values())

    @property
    def full(self) -> bool:
        n, steps = len(self._waiting), {w.point.step for w in self._waiting}
        if self._left and self._begun and steps <= set(self._begun.steps):  # the rest of a group that was begun
            return self._left <= steps
        answers = n * self.gallery.answers_of_a_point * self._answer_bytes
        return self.kept_bytes > KEPT_BYTES or answers > KEPT_ANSWERS or n >= KEPT_POINTS

    @property
    def _answer_bytes(self) -> float:
        return answer_bytes(self.gallery.n_answers, self.keep)

    def answer(self, others: Sequence[Self] = ()) -> None:
        """Answer the points kept here and by measures of other runs, which have joined this one, in one pass over the
        images, starting from the unedited weights wherever the walk stands. `flush` then reads what was found.

        The answers stay on disk until `done`.
        """
        asked = [m for m in (self, *others) if m._waiting]
        if not asked:
            return
        n = _shard_size(asked)
        parties = [m._party(n) for m in asked]
        unedited = {name: value for m in asked for name, value in m.setting.before.values.items()}
        try:
            with self.model.at_base(unedited):
                answer_all(self.gallery, parties, self.setting.work.progress)
        finally:
            self.shifting.close()

    def flush(self) -> list[Measured]:
        """Measure the kept points. The arrays of a point are read from disk when they are asked for."""
        if not self._waiting:
            return []
        if self._answered is None:
            self.answer()
        assert self._answered is not None
        store, group = self._answered
        measured = []
        for waiting in self._waiting:
            answers = PointAnswers(store, self._parts(waiting.point.step, group))
            measured.append(Measured(list(self._records(waiting.point, store, answers)), answers))
        keep_flips(self.setting.run.path, self._flips(store, group), self.model)
        self._waiting, self._answered = [], None
        return measured

    def _flips(self, store: AnswerStore, group: Group) -> Iterator[tuple[ImageSet, np.ndarray, np.ndarray]]:
        """(set, right before, right now) without corruption, at the kept points of the whole edit; the newest first."""
        edited = [w.point for w in self._waiting if w.point.step]
        whole = max((p.alpha for p in edited if p.alpha <= 1), default=max((p.alpha for p in edited), default=0.0))
        for point in reversed([p for p in edited if p.alpha == whole]):
            parts = self._parts(point.step, group)
            for images in self.sets:
                key = (images.probe, images.request, images.shift, 0)
                place = parts.get("|".join(str(k) for k in key))
                if place is not None and key in self._before and images.probe not in HELD_OUT:
                    yield images, self._before[key], store.right(*place)

    def _party(self, n: int) -> Party:
        """The kept points as they are answered, in shards of n images; where they are what an earlier process left of
        a group, that group goes on."""
        group = self._continued(n)
        if group is None:
            steps = tuple(w.point.step for w in self._waiting)
            asked = tuple(tuple(steps[k] for k in self._points_of(x)) for x in self.sets)
            group = Group(steps, asked, n, self.shifting.stamp, self.keep)
            group.start(self._shards)
        store = AnswerStore(self._shards)
        self._answered = store, group
        return Party(store, group, [self._lines(self._points_of(x)) for x in self.sets], self._right_before)

    def _continued(self, n: int | None = None) -> Group | None:
        """The group that an earlier process began, where the kept points are it, or all that is left of it and every
        answer is there; None for another one, or one in shards of another size than n."""
        begun, steps = self._begun, tuple(w.point.step for w in self._waiting)
        if begun is None or (n is not None and begun.n != n):
            return None
        if steps == begun.steps or (set(steps) <= set(begun.steps) and self._complete(begun)):
            return begun
        return None

    def _complete(self, group: Group) -> bool:
        """Whether every answer of a group is there."""
        party = Party(AnswerStore(self._shards), group, (), self._right_before)
        return all(not left for _, left in missing(self.gallery, [party]))

    def done(self) -> None:
        shutil.rmtree(self._shards, ignore_errors=True)
        self._begun, self._left = None, set()

    @property
    def _shards(self) -> Path:
        return self.setting.run.path / "state" / "shards"

    def _right_before(self, images: int, variant: Variant) -> np.ndarray | None:
        """Which images of a set the unedited model answers right, where that is known."""
        return self._before.get(self.gallery.key(images, variant))

    def _points_of(self, images: ImageSet) -> list[int]:
        """Kept points that a set is asked at: an edit's own images only where that edit is in the model."""
        if images.probe != "edit" or not images.request:
            return list(range(len(self._waiting)))
        who = [r.id for r in self.requests].index(images.request)
        return [k for k, w in enumerate(self._waiting) if any(who in scope.requests for scope in w.point.scopes)]

    def _parts(self, step: int, group: Group) -> dict[str, tuple[int, int, int]]:
        """Names of a point's answers, with the numbers of set and variant, and of the point among those asked."""
        found = {}
        for i in range(len(self.sets)):
            if step in group.asked[i]:
                for v, variant in enumerate(self.gallery.variants(i)):
                    found["|".join(str(x) for x in self.gallery.key(i, variant))] = (i, v, group.asked[i].index(step))
        return found

    def _directions(self) -> tuple[list[Delta], list[tuple[int, float]]]:
        """The different changes, and for every kept point which of them it lies on and how far."""
        found: list[Delta] = []
        places = []
        for waiting in self._waiting:
            i = next((i for i, d in enumerate(found) if d is waiting.delta), None)
            if i is None:
                i = len(found)
                found.append(waiting.delta)
            places.append((i, waiting.point.alpha))
        return found, places

    def _lines(self, points: Sequence[int]) -> Lines:
        """Some of the kept points as lines."""
        directions, places = self._directions()
        alphas: dict[int, list[float]] = {}
        for k in points:
            alphas.setdefault(places[k][0], []).append(places[k][1])
        numbered = {d: i for i, d in enumerate(alphas)}
        return Lines(
            [(directions[d], some) for d, some in alphas.items()],
            [numbered[places[k][0]] for k in points],
            unedited=bool(points) and self._waiting[points[0]].point.step == 0,
        )

    # -- records -----------------------------------------------------------------------------------------------------

    def _records(self, point: Point, store: AnswerStore, answers: PointAnswers) -> Iterator[Record]:
        record = self.setting.recorder(point)
        ids = [r.id for r in self.requests]
        if point.step == 0:
            for request, (shared, n) in self.gallery.leaks().items():
                yield record("unedited", "edit", "leaked", shared, n, request=request)
            if self.model.n_classes == 1000 and any(x.benchmark == IMAGENET for x in self.sets if _is_original(x)):
                yield record("unedited", "original", IMAGENET, 1.0, self.model.n_classes)
        alone = ids[point.scopes[0].requests[0]] if point.n_edits == 1 else ""
        for i, images in enumerate(self.sets):
            scope, request, n = _scope(point, images, ids), images.request or alone, len(images)
            for variant in self.gallery.variants(i):
                key = self.gallery.key(i, variant)
                place = answers.place("|".join(str(k) for k in key))
                if place is None:
                    continue
                right = store.right(*place)
                if not point.step:
                    self._before[key] = right
                values = {"accuracy": float(right.mean()), "loss": store.loss(*place) / n}
                moved = store.moved(*place) if point.step else None
                if moved is not None:
                    values |= {"gained": moved[0], "lost": moved[1]}
                for metric, value in values.items():
                    yield record(
                        scope, images.probe, metric, value, n,
                        request=request, shift=variant.shift, severity=variant.severity,
                    )  # fmt: skip

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """Accuracies and both penalties as shares, with what chance alone does; see `image_numbers`."""
        return describe.answers(numbers(results.records, results.right, results.pictures))


def _shard_size(asked: Sequence[ImageAnswers]) -> int:
    """Images of a shard for all of these runs: of groups that were begun, where they agree, as many as theirs."""
    begun = {group.n for m in asked if (group := m._continued()) is not None}
    if len(begun) == 1:
        return begun.pop()
    bytes_each = sum(len(m._waiting) * (1 + m._answer_bytes) for m in asked)
    first = asked[0].model
    return shard_size(first.size, first.batch_size, int(bytes_each), SHARD_BYTES)


def _is_original(images: ImageSet) -> bool:
    return images.probe == "original" and images.shift == "none"


def _scope(point: Point, images: ImageSet, ids: Sequence[str]) -> str:
    """unedited; at-edit for the model just edited and its edit; retention for edits made before."""
    if point.step == 0:
        return "unedited"
    newest = point.scopes[0].requests
    old = images.probe == "edit" and images.request and ids.index(images.request) not in newest
    return "retention" if old else "at-edit"
