"""What an image classifier answers: the edit's images and the original task's, clean and shifted.

Points are kept until the walk ends (or memory is short) and then measured together: every batch of images is decoded
and corrupted once, what lies below the edited layer runs once, and every edited model answers it. What has been
measured is kept shard by shard, so that a kill costs one shard.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edit_robust.core.allocator import keep_freed_memory
from edit_robust.core.data import Column, ImageRequest, Record
from edit_robust.core.errors import UserError
from edit_robust.core.files import atomic_path
from edit_robust.core.images import ImageSet, Key
from edit_robust.core.work import Advance
from edit_robust.evaluate import columns_images as describe
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.image_keepsakes import keep_reference, keep_triples
from edit_robust.evaluate.image_numbers import numbers
from edit_robust.evaluate.leaks import leaks
from edit_robust.shifts.images.variants import Shifting, ShiftOptions, Variant, read_corruptions

if TYPE_CHECKING:
    from edit_robust.core.delta import Delta
    from edit_robust.models.base import LogitsAlong
    from edit_robust.tasks.base import Images
    from edit_robust.trajectories import Point

SHARD = 64  # images of a set that are measured at once, for all variants and points
KEPT_BYTES, KEPT_POINTS = 2 << 30, 512
Predictions = dict[Key, tuple[np.ndarray, np.ndarray]]  # predicted class, log-probability of the right one


@dataclass(frozen=True)
class Waiting:
    """A point that waits to be measured, and the change that `alpha` times leads there from the unedited weights."""

    point: Point
    delta: Delta


class ImageAnswers(Measure):
    """Accuracy and loss of every image set under every shift, and images gained and lost against the unedited model.

    corruption: name -> severities, see `shifts.images`.   shifts: how images are corrupted, see `ShiftOptions`.
    Kept for each set and shift: predicted class and log-probability of the right one, of every image.
    """

    needs = Needs(model=("logits_along", "judge", "crop"), task=("image_sets",))

    def __init__(self, corruption: dict[str, Any] | None = None, shifts: ShiftOptions | None = None) -> None:
        self.corruptions, self.options = read_corruptions(corruption), shifts or ShiftOptions()

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        keep_freed_memory()
        self.model = cast("LogitsAlong", setting.model)
        task = cast("Images", setting.task)
        self.requests = [cast(ImageRequest, r) for r in setting.requests]
        self.sets: list[ImageSet] = task.image_sets(setting.requests)
        cache = setting.work.cache / "corrupted"
        self.shifting = Shifting.of(self.corruptions, self.options, cache, self.model.size)
        self._check_labels()
        self._targets = [np.asarray(x.labels, dtype=np.int64) for x in self.sets]
        self._waiting: list[Waiting] = []
        done = [p["step"] for p in setting.run.points]
        self._unedited: Predictions | None = setting.run.predictions(0) if 0 in done else None
        if not done:
            keep_triples(setting.run.path, self.requests, self.model)
            keep_reference(setting.run.path, setting.task)
        self._leaks = leaks(self.requests, self.sets)

    def _check_labels(self) -> None:
        model = self.model
        for x in self.sets:
            if not len(x):
                of = f" of {x.request}" if x.request else ""
                raise UserError(f"there are no images for {x.probe}{of} ({x.source})")
            wrong = [i for i, label in enumerate(x.labels) if not 0 <= int(label) < model.n_classes]
            if wrong:
                raise UserError(
                    f"{x.ids[wrong[0]]} has label {int(x.labels[wrong[0]])}, but {model.name} has "
                    f"{model.n_classes} classes, 0 to {model.n_classes - 1}"
                )

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
        return {"data": sorted({x.source for x in self.sets if x.source}), "corruption": self.shifting.stamp}

    # -- points ------------------------------------------------------------------------------------------------------

    def at(self, point: Point, found: Mapping[str, Measured]) -> None:
        """Keep the point; the change that leads to it is taken now, for the model stands there now."""
        self._waiting.append(Waiting(point, point.change()))

    @property
    def full(self) -> bool:
        kept = sum(x.numel() * 4 for d in self._directions()[0] for t in d.terms.values() for x in t.tensors().values())
        return kept > KEPT_BYTES or len(self._waiting) >= KEPT_POINTS

    def flush(self) -> list[Measured]:
        """Measure the kept points, starting from the unedited weights wherever the walk stands."""
        if not self._waiting:
            return []
        try:
            with self.model.at_base(self.setting.before.values):
                predictions = self._measure()
        finally:
            self.shifting.close()
        measured = []
        for waiting, got in zip(self._waiting, predictions, strict=True):
            if waiting.point.step == 0:
                self._unedited = got
            arrays = {}
            for key, (pred, logp) in got.items():
                name = "|".join(str(k) for k in key)
                arrays[f"{name}|pred"], arrays[f"{name}|logp"] = pred, logp
            measured.append(Measured(list(self._records(waiting.point, got)), arrays))
        self._waiting = []
        return measured

    def done(self) -> None:
        shutil.rmtree(self._shards, ignore_errors=True)

    # -- measuring ---------------------------------------------------------------------------------------------------

    @property
    def _shards(self) -> Any:
        return self.setting.run.path / "state" / "shards"

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

    def _measure(self) -> list[Predictions]:
        """Predictions of every kept point, shard by shard; finished shards are read back from disk."""
        steps = ",".join(str(w.point.step) for w in self._waiting)
        name = hashlib.sha256(f"{steps}|{self.shifting.stamp}".encode()).hexdigest()[:12]
        found: list[Predictions] = [{} for _ in self._waiting]
        jobs = [(i, lo) for i, x in enumerate(self.sets) for lo in range(0, len(x), SHARD)]
        total = sum(len(self.shifting.variants(self.sets[i])) for i, _ in jobs)
        parts: dict[tuple[int, Key], list[tuple[np.ndarray, np.ndarray]]] = {}
        with self.setting.work.progress("asking with images", total) as advance:
            for i, lo in jobs:
                path, points = self._shards / f"{name}-{i}-{lo}.npz", self._points_of(self.sets[i])
                variants = self.shifting.variants(self.sets[i])
                if path.exists():
                    with np.load(path, allow_pickle=False) as f:
                        arrays = {k: f[k] for k in f.files}
                    advance(len(variants))
                else:
                    arrays = self._shard(i, lo, points, advance)
                    with atomic_path(path) as temporary, temporary.open("wb") as f:
                        np.savez(f, **arrays)  # type: ignore[arg-type]
                for v, variant in enumerate(variants):
                    for row, k in enumerate(points):
                        got = (arrays[f"{v}|pred"][row], arrays[f"{v}|logp"][row])
                        parts.setdefault((k, _key(self.sets[i], variant)), []).append(got)
        for (k, key), some in parts.items():
            found[k][key] = (np.concatenate([p for p, _ in some]), np.concatenate([q for _, q in some]))
        return found

    def _points_of(self, images: ImageSet) -> list[int]:
        """Kept points that a set is asked at: an edit's own images only where that edit is in the model."""
        if images.probe != "edit" or not images.request:
            return list(range(len(self._waiting)))
        who = [r.id for r in self.requests].index(images.request)
        return [k for k, w in enumerate(self._waiting) if any(who in scope.requests for scope in w.point.scopes)]

    def _shard(self, i: int, lo: int, points: Sequence[int], advance: Advance) -> dict[str, np.ndarray]:
        """Predictions [points, images] of a shard, for each variant."""
        images = self.sets[i]
        rows = range(lo, min(lo + SHARD, len(images)))
        target = self._targets[i][rows.start : rows.stop]
        pixels = [self.model.crop(images.load(r)) for r in rows]
        directions, places = self._directions()
        wanted: dict[int, list[float]] = {}
        for k in points:
            wanted.setdefault(places[k][0], []).append(places[k][1])
        lines = [(directions[d], alphas) for d, alphas in wanted.items()]
        out: dict[str, np.ndarray] = {}
        for v, variant in enumerate(self.shifting.variants(images)):
            seen = self.shifting.apply(variant, images, rows, pixels)
            pred = np.empty((len(points), len(rows)), dtype=np.int32)
            logp = np.empty((len(points), len(rows)), dtype=np.float32)
            for b in range(0, len(rows), self.model.batch_size):
                part = slice(b, b + self.model.batch_size)
                logits = self.model.logits_along(self.model.normalise(seen[part]), lines)
                given = {d: iter(some) for d, some in zip(wanted, logits, strict=True)}
                for row, k in enumerate(points):
                    one = next(given[places[k][0]])
                    pred[row, part], logp[row, part] = self.model.judge(one, target[part], images.classes)
            out[f"{v}|pred"], out[f"{v}|logp"] = pred, logp
            advance(1)
        return out

    # -- records -----------------------------------------------------------------------------------------------------

    def _records(self, point: Point, predictions: Predictions) -> Iterator[Record]:
        record = self.setting.recorder(point)
        assert self._unedited is not None
        ids = [r.id for r in self.requests]
        if point.step == 0:
            for request, (shared, n) in self._leaks.items():
                yield record("unedited", "edit", "leaked", shared, n, request=request)
        alone = ids[point.scopes[0].requests[0]] if point.n_edits == 1 else ""
        for i, images in enumerate(self.sets):
            scope, request = _scope(point, images, ids), images.request or alone
            for variant in self.shifting.variants(images):
                key = _key(images, variant)
                if key not in predictions:
                    continue
                pred, logp = predictions[key]
                right, before = pred == self._targets[i], self._unedited[key][0] == self._targets[i]
                values = {"accuracy": float(right.mean()), "loss": float(-logp.astype(np.float64).mean())}
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
        return describe.answers(numbers(results.records, results.right))


def _key(images: ImageSet, variant: Variant) -> Key:
    return images.probe, images.request, variant.shift, variant.severity


def _scope(point: Point, images: ImageSet, ids: Sequence[str]) -> str:
    """unedited; at-edit for the model just edited and its edit; retention for edits made before."""
    if point.step == 0:
        return "unedited"
    newest = point.scopes[0].requests
    old = images.probe == "edit" and images.request and ids.index(images.request) not in newest
    return "retention" if old else "at-edit"
