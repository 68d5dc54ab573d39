"""What an image classifier answers: the edit's images and the original task's, clean and shifted.

Points are kept until the walk ends (or memory is short) and then measured together: every shard of images is decoded
once and corrupted once a variant, what lies below the edited layer runs once, and every edited model answers it. What
has been answered is on disk variant by variant: a kill costs one variant of one shard, and memory never holds more.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from edit_robust.core.allocator import keep_freed_memory
from edit_robust.core.data import Column, ImageRequest, Record
from edit_robust.core.errors import UserError
from edit_robust.core.images import ImageSet, Key, Pixels
from edit_robust.evaluate import columns_images as describe
from edit_robust.evaluate.answer_store import AnswerStore, Group, Place, PointAnswers, answer_bytes
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.chosen_alpha import HELD_OUT
from edit_robust.evaluate.image_keepsakes import keep_classes, keep_flips, keep_reference, keep_triples
from edit_robust.evaluate.image_numbers import IMAGENET, numbers
from edit_robust.evaluate.image_shards import SHARD_BYTES, Shard, shard_size, shards, shown
from edit_robust.evaluate.image_words import in_columns, n_answers
from edit_robust.evaluate.leaks import leaks
from edit_robust.shifts.images.variants import Shifting, ShiftOptions, Variant, read_corruptions

if TYPE_CHECKING:
    from torch import Tensor

    from edit_robust.core.delta import Delta
    from edit_robust.models.base import LogitsAlong
    from edit_robust.tasks.base import Images
    from edit_robust.trajectories import Point

#: Points that are measured together: as many as their changes fit into memory, their answers on disk (bytes).
KEPT_BYTES, KEPT_ANSWERS, KEPT_POINTS = 2 << 30, 4 << 30, 512
JUDGED = 1 << 22  # logits that are judged at once
TRIED = 64  # images on which a lower precision is compared with float32


@runtime_checkable
class TellsPrecision(Protocol):
    """A model that knows of a lower precision."""

    def precision_note(self, images: Callable[[], Sequence[Pixels]]) -> str | None:
        """What it does to answers about these images; None where there is nothing to tell."""
        ...


@dataclass(frozen=True)
class Waiting:
    """A point that waits to be measured, and the change that `alpha` times leads there from the unedited weights."""

    point: Point
    delta: Delta


@dataclass(frozen=True)
class Lines:
    """Edited models that a set is asked at, as lines through weight space: each change with its alphas.

    places: for each of the models, in the order of the kept points, the number of its line.
    """

    along: Sequence[tuple[Delta, Sequence[float]]]
    places: Sequence[int]


class ImageAnswers(Measure):
    """Accuracy and loss of every image set under every shift, and images gained and lost against the unedited model.

    corruption: name -> severities, see `shifts.images`.   shifts: how images are corrupted, see `ShiftOptions`.
    Kept for each set and shift: predicted class and log-probability of the right one, of every image.
    """

    needs = Needs(model=("logits_along", "judge", "crop"), task=("image_sets",))
    read_shifts = staticmethod(read_corruptions)

    def __init__(self, corruption: dict[str, Any] | None = None, shifts: ShiftOptions | None = None) -> None:
        self.corruptions, self.options = read_corruptions(corruption), shifts or ShiftOptions()

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        keep_freed_memory()
        self.model = cast("LogitsAlong", setting.model)
        task = cast("Images", setting.task)
        self.requests = [cast(ImageRequest, r) for r in setting.requests]
        asked = task.image_sets(setting.requests)
        self.sets: list[ImageSet] = in_columns(asked, self.model)
        self._n_answers = n_answers(self.model)
        cache = setting.work.cache / "corrupted"
        self.shifting = Shifting.of(self.corruptions, self.options, cache, self.model.size, self.model.cropping)
        self._each = sum(len(x) * len(self.shifting.variants(x)) for x in self.sets)  # answers of a point
        self._skip_small_store()
        self._check_labels()
        self._targets = [np.asarray(x.labels, dtype=np.int64) for x in self.sets]
        self._waiting: list[Waiting] = []
        done = [p["step"] for p in setting.run.points]
        begun = Group.begun(self._shards)
        self._begun = begun if begun and begun.stamp == self.shifting.stamp else None
        self._left = set(self._begun.steps) - set(done) if self._begun else set()
        self._before: dict[Key, np.ndarray] = setting.run.right(0) if 0 in done else {}  # what was answered right
        if not done:
            keep_triples(setting.run.path, self.requests, self.model)
            keep_reference(setting.run.path, setting.task)
            keep_classes(setting.run.path, setting.task, asked, self.model)

    def _check_labels(self) -> None:
        model = self.model
        for x in self.sets:
            if not len(x):
                of = f" of {x.request}" if x.request else ""
                raise UserError(f"there are no images for {x.probe}{of} ({x.source})")
            wrong = [i for i, label in enumerate(x.labels) if not 0 <= int(label) < self._n_answers]
            if wrong:
                raise UserError(
                    f"{x.ids[wrong[0]]} has label {int(x.labels[wrong[0]])}, but {model.name} has "
                    f"{model.n_classes} classes, 0 to {model.n_classes - 1}"
                )

    def _skip_small_store(self) -> None:
        """Keep no corrupted images where the store would throw each away before it is read again."""
        many = sum(len(x) * sum(v.severity > 0 for v in self.shifting.variants(x)) for x in self.sets)
        self._wanted_gb = many * 3 * self.model.size**2 / 1e9
        self._store_skipped = self.shifting.store is not None and self._wanted_gb > self.options.store_gb
        if self._store_skipped:
            self.shifting = replace(self.shifting, store=None)

    def examples(self) -> list[dict[str, Any]]:
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

    def notes(self) -> Mapping[str, Any]:
        found = {"data": sorted({x.source for x in self.sets if x.source}), "corruption": self.shifting.stamp}
        if self._store_skipped:
            limit = f"shifts.store_gb={self.options.store_gb:g}"
            found["store"] = f"corrupted images are not kept: they are {self._wanted_gb:.0f} GB, and {limit}"
        original = self.sets[0]
        if isinstance(self.model, TellsPrecision):
            some = range(min(TRIED, len(original)))
            if note := self.model.precision_note(lambda: [original.load(i) for i in some]):
                found["precision"] = note
        return found

    # -- points ------------------------------------------------------------------------------------------------------

    def at(self, point: Point, found: Mapping[str, Measured]) -> None:
        """Keep the point; the change that leads to it is taken now, for the model stands there now."""
        self._waiting.append(Waiting(point, point.change()))

    @property
    def full(self) -> bool:
        n, steps = len(self._waiting), {w.point.step for w in self._waiting}
        if self._left and self._begun and steps <= set(self._begun.steps):  # the rest of a group that was begun
            return self._left <= steps
        kept = sum(x.numel() * 4 for d in self._directions()[0] for t in d.terms.values() for x in t.tensors().values())
        answers = n * self._each * answer_bytes(self._n_answers)
        return kept > KEPT_BYTES or answers > KEPT_ANSWERS or n >= KEPT_POINTS

    def flush(self) -> list[Measured]:
        """Measure the kept points, starting from the unedited weights wherever the walk stands.

        The arrays of a point are read from disk when they are asked for; they stay there until `done`.
        """
        if not self._waiting:
            return []
        group = self._group()
        store = AnswerStore(self._shards, self._n_answers)
        try:
            with self.model.at_base(self.setting.before.values):
                self._answer(store, group)
        finally:
            self.shifting.close()
        measured = []
        for waiting in self._waiting:
            answers = PointAnswers(store, self._parts(waiting.point.step, group))
            measured.append(Measured(list(self._records(waiting.point, answers)), answers))
        keep_flips(self.setting.run.path, self._flips([m.outcomes for m in measured]), self.model)
        self._waiting = []
        return measured

    def _flips(self, answered: Sequence[Mapping[str, np.ndarray]]) -> Iterator[tuple[ImageSet, np.ndarray, np.ndarray]]:
        """(set, right before, right now) without corruption, at the kept points of the whole edit; the newest first."""
        alphas = [w.point.alpha for w in self._waiting if w.point.step]
        whole = max((a for a in alphas if a <= 1), default=max(alphas, default=0.0))
        for waiting, answers in reversed(list(zip(self._waiting, answered, strict=True))):
            for images, target in zip(self.sets, self._targets, strict=True):
                key = (images.probe, images.request, images.shift, 0)
                name = "|".join(str(k) for k in key)
                wanted = waiting.point.step and waiting.point.alpha == whole and images.probe not in HELD_OUT
                if wanted and f"{name}|pred" in answers and key in self._before:
                    yield images, self._before[key], answers[f"{name}|pred"] == target

    def _group(self) -> Group:
        """The kept points as a group; where they are what an earlier process left of one, that group."""
        steps = tuple(w.point.step for w in self._waiting)
        begun = self._begun
        if begun and (steps == begun.steps or (set(steps) <= set(begun.steps) and self._complete(begun))):
            return begun
        bytes_each = len(steps) * answer_bytes(self._n_answers)
        n = shard_size(self.model.size, self.model.batch_size, bytes_each, SHARD_BYTES)
        asked = tuple(tuple(steps[k] for k in self._points_of(x)) for x in self.sets)
        group = Group(steps, asked, n, self.shifting.stamp)
        group.start(self._shards)
        return group

    def _complete(self, group: Group) -> bool:
        """Whether every answer of a group is there."""
        store = AnswerStore(self._shards, self._n_answers)
        return all(not left for _, left in self._jobs(store, group))

    def done(self) -> None:
        shutil.rmtree(self._shards, ignore_errors=True)
        self._begun, self._left = None, set()

    # -- measuring ---------------------------------------------------------------------------------------------------

    @property
    def _shards(self) -> Path:
        return self.setting.run.path / "state" / "shards"

    def _points_of(self, images: ImageSet) -> list[int]:
        """Kept points that a set is asked at: an edit's own images only where that edit is in the model."""
        if images.probe != "edit" or not images.request:
            return list(range(len(self._waiting)))
        who = [r.id for r in self.requests].index(images.request)
        return [k for k, w in enumerate(self._waiting) if any(who in scope.requests for scope in w.point.scopes)]

    def _parts(self, step: int, group: Group) -> dict[str, tuple[int, int, int]]:
        """Names of a point's answers, with the numbers of set and variant, and of the point among those asked."""
        found = {}
        for i, images in enumerate(self.sets):
            if step in group.asked[i]:
                for v, variant in enumerate(self.shifting.variants(images)):
                    found["|".join(str(x) for x in _key(images, variant))] = (i, v, group.asked[i].index(step))
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
        return Lines([(directions[d], some) for d, some in alphas.items()], [numbered[places[k][0]] for k in points])

    def _jobs(self, store: AnswerStore, group: Group) -> list[tuple[Shard, list[Variant]]]:
        """Every shard with the variants under which its answers are not in the store."""
        jobs = []
        for shard in shards(self.sets, group.n):
            if group.asked[shard.images]:
                variants = enumerate(self.shifting.variants(self.sets[shard.images]))
                left = [v for k, v in variants if Place(shard.images, k, shard.rows.start) not in store]
                jobs.append((shard, left))
        return jobs

    def _answer(self, store: AnswerStore, group: Group) -> None:
        """Put every kept point's answers to every image into the store, but for those that are there."""
        jobs = self._jobs(store, group)
        variants = [self.shifting.variants(x) for x in self.sets]
        total = sum(len(shard.rows) * len(variants[shard.images]) for shard, _ in jobs)
        missing = sum(len(shard.rows) * len(left) for shard, left in jobs)
        lines = [self._lines(self._points_of(x)) for x in self.sets]
        with self.setting.work.progress("asking with images", total) as advance:
            advance(total - missing)
            with closing(shown(self.model, self.shifting, self.sets, jobs)) as ready:
                for shard, variant, pixels in ready:
                    pred, logp = self._answers(shard, pixels, lines[shard.images], advance)
                    place = Place(shard.images, variants[shard.images].index(variant), shard.rows.start)
                    store.add(place, pred, logp)

    def _answers(
        self, shard: Shard, pixels: np.ndarray, lines: Lines, advance: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and log-probabilities [points, images] of a shard under one variant."""
        points, rows = len(lines.places), len(shard.rows)
        target = self._targets[shard.images][shard.rows.start : shard.rows.stop]
        classes = self.sets[shard.images].classes
        pred, logp = np.empty((points, rows), dtype=np.int32), np.empty((points, rows), dtype=np.float32)
        for b in range(0, rows, self.model.batch_size):
            part = slice(b, b + self.model.batch_size)
            logits = self.model.logits_along(self.model.normalise(pixels[part]), lines.along)
            given = [iter(some) for some in logits]
            each = [next(given[i]) for i in lines.places]
            pred[:, part], logp[:, part] = self._judged(each, target[part], classes)
            advance(len(target[part]))
        return pred, logp

    def _judged(
        self, logits: Sequence[Tensor], target: np.ndarray, classes: tuple[int, ...] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and log-probabilities [points, images] from each point's logits; several points at a time, where
        the logits are: what is right is found out there, and only that is fetched."""
        import torch

        at_once = max(1, JUDGED // logits[0].numel())
        preds, logps = [], []
        for i in range(0, len(logits), at_once):
            some = logits[i : i + at_once]
            pred, logp = self.model.judge(torch.cat(list(some)), np.tile(target, len(some)), classes)
            preds.append(pred.reshape(len(some), -1))
            logps.append(logp.reshape(len(some), -1))
        return np.concatenate(preds), np.concatenate(logps)

    # -- records -----------------------------------------------------------------------------------------------------

    def _records(self, point: Point, answers: PointAnswers) -> Iterator[Record]:
        record = self.setting.recorder(point)
        ids = [r.id for r in self.requests]
        if point.step == 0:
            judged = [x for x in self.sets if x.probe not in HELD_OUT]  # no result is told of those
            for request, (shared, n) in leaks(self.requests, judged).items():
                yield record("unedited", "edit", "leaked", shared, n, request=request)
            if self.model.n_classes == 1000 and any(x.benchmark == IMAGENET for x in self.sets if _is_original(x)):
                yield record("unedited", "original", IMAGENET, 1.0, self.model.n_classes)
        alone = ids[point.scopes[0].requests[0]] if point.n_edits == 1 else ""
        for i, images in enumerate(self.sets):
            scope, request = _scope(point, images, ids), images.request or alone
            for variant in self.shifting.variants(images):
                key = _key(images, variant)
                name = "|".join(str(k) for k in key)
                if f"{name}|pred" not in answers:
                    continue
                right = answers[f"{name}|pred"] == self._targets[i]
                if not point.step:
                    self._before[key] = right
                before, loss = self._before[key], -answers[f"{name}|logp"].astype(np.float64)
                values = {"accuracy": float(right.mean()), "loss": float(loss.mean())}
                if point.step:
                    values |= {"gained": int((right & ~before).sum()), "lost": int((~right & before).sum())}
                for metric, value in values.items():
                    yield record(
                        scope, images.probe, metric, value, len(right),
                        request=request, shift=variant.shift, severity=variant.severity,
                    )  # fmt: skip

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """Accuracies and both penalties as shares, with what chance alone does; see `image_numbers`."""
        return describe.answers(numbers(results.records, results.right, results.pictures))


def _key(images: ImageSet, variant: Variant) -> Key:
    return images.probe, images.request, variant.shift, variant.severity


def _is_original(images: ImageSet) -> bool:
    return images.probe == "original" and images.shift == "none"


def _scope(point: Point, images: ImageSet, ids: Sequence[str]) -> str:
    """unedited; at-edit for the model just edited and its edit; retention for edits made before."""
    if point.step == 0:
        return "unedited"
    newest = point.scopes[0].requests
    old = images.probe == "edit" and images.request and ids.index(images.request) not in newest
    return "retention" if old else "at-edit"
