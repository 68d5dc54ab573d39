"""Questions with images: what a classifier answers at many points, clean and shifted.

Points are kept until the walk ends (or memory is short) and then measured together: every batch of images is decoded
and corrupted once, what lies below the edited layer runs once, and every edited model answers it. What has been
measured of a panel is kept shard by shard, so that a kill costs one shard.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edit_robust.core import Delta, ImageRequest, Record, UserError
from edit_robust.core.files import atomic_path, write_text
from edit_robust.core.images import ImageSet
from edit_robust.evaluate.base import Setting, weight_records
from edit_robust.evaluate.statistics.paired import Key
from edit_robust.models.vision.classifier import Classifier
from edit_robust.runs.reader import Run
from edit_robust.shifts.images.variants import Shifting, Variant
from edit_robust.trajectories import Point

SHARD = 64  # images of a set that are measured at once, for all variants and points
PANEL_BYTES, PANEL_POINTS = 2 << 30, 512
Answers = dict[Key, tuple[np.ndarray, np.ndarray]]  # predicted class, log-probability of the right one


@dataclass(frozen=True)
class Kept:
    """A point that waits to be measured: its numbers of the weights, and the change that leads there."""

    point: Point
    records: list[Record]
    delta: Delta


class ImageInquiry:
    """Collects points and measures them side by side."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.model: Classifier = setting.model
        s = setting
        self.sets: list[ImageSet] = s.task.image_sets(s.requests)
        self.shifting = Shifting.of(s.shifts, s.cache / "corrupted", self.model.size)
        _check_labels(self.sets, self.model)
        self.targets = [np.asarray(x.labels, dtype=np.int64) for x in self.sets]
        self.kept: list[Kept] = []
        done = sorted(s.store.done)
        self.unedited: Answers | None = Run(s.store.path).predictions(0) if 0 in done else None
        if not done:
            self._write_about()
        self.leaks = leaks(s.requests, self.sets)
        s.store.note(data=sorted({x.source for x in self.sets if x.source}), corruption=self.shifting.stamp)

    def meet(self, point: Point) -> None:
        """Keep a point for later; the numbers of its weights are taken at once, for the model stands there now."""
        self.kept.append(Kept(point, list(weight_records(self.setting, point)), point.change()))
        size = sum(x.numel() * 4 for d in self._directions()[0] for t in d.terms.values() for x in t.tensors().values())
        if size > PANEL_BYTES or len(self.kept) >= PANEL_POINTS:
            self.close()

    def close(self) -> None:
        """Measure the kept points, starting from the unedited model wherever the walk stands."""
        if not self.kept:
            return
        s = self.setting
        try:
            with s.store.phase("evaluate"), self.model.at_base(s.before.values):
                answers = self._measure()
        finally:
            self.shifting.close()
        for kept, got in zip(self.kept, answers, strict=True):
            if kept.point.step == 0:
                self.unedited = got
            records = [*self._records(kept.point, got), *kept.records]
            arrays = {}
            for key, (pred, logp) in got.items():
                name = "|".join(str(k) for k in key)
                arrays[f"{name}|pred"], arrays[f"{name}|logp"] = pred, logp
            s.write(kept.point, records, arrays)
        self.kept = []
        shutil.rmtree(s.store.path / "state" / "panel", ignore_errors=True)

    # -- measuring ---------------------------------------------------------------------------------------------------

    def _directions(self) -> tuple[list[Delta], list[tuple[int, float]]]:
        """The different changes, and for every kept point which of them it lies on and how far."""
        found: list[Delta] = []
        places = []
        for kept in self.kept:
            i = next((i for i, d in enumerate(found) if d is kept.delta), None)
            if i is None:
                i = len(found)
                found.append(kept.delta)
            places.append((i, kept.point.alpha))
        return found, places

    def _measure(self) -> list[Answers]:
        s = self.setting
        steps = ",".join(str(k.point.step) for k in self.kept)
        name = hashlib.sha256(f"{steps}|{self.shifting.stamp}".encode()).hexdigest()[:12]
        folder = s.store.path / "state" / "panel"
        found: list[Answers] = [{} for _ in self.kept]
        jobs = [(i, lo) for i, x in enumerate(self.sets) for lo in range(0, len(x), SHARD)]
        total = sum(len(self.shifting.variants(self.sets[i])) for i, _ in jobs)
        parts: dict[tuple[int, Key], list[tuple[np.ndarray, np.ndarray]]] = {}
        with s.progress("asking with images", total) as advance:
            for i, lo in jobs:
                path = folder / f"{name}-{i}-{lo}.npz"
                asked = self._asked(self.sets[i])
                if path.exists():
                    with np.load(path, allow_pickle=False) as f:
                        arrays = {k: f[k] for k in f.files}
                    advance(len(self.shifting.variants(self.sets[i])))
                else:
                    arrays = self._shard(i, lo, asked, advance)
                    with atomic_path(path) as temporary, temporary.open("wb") as f:
                        np.savez(f, **arrays)  # type: ignore[arg-type]
                for v, variant in enumerate(self.shifting.variants(self.sets[i])):
                    for row, k in enumerate(asked):
                        key = (self.sets[i].probe, self.sets[i].request, variant.shift, variant.severity)
                        got = (arrays[f"{v}|pred"][row], arrays[f"{v}|logp"][row])
                        parts.setdefault((k, key), []).append(got)
        for (k, key), some in parts.items():
            found[k][key] = (np.concatenate([p for p, _ in some]), np.concatenate([q for _, q in some]))
        return found

    def _asked(self, images: ImageSet) -> list[int]:
        """Kept points that a set is asked at: an edit's own images only where that edit is in the model."""
        if images.probe != "edit":
            return list(range(len(self.kept)))
        ids = [r.id for r in self.setting.requests]
        who = ids.index(images.request) if images.request else None
        return [
            k
            for k, kept in enumerate(self.kept)
            if who is None or any(who in look.requests for look in kept.point.looks)
        ]

    def _shard(self, i: int, lo: int, asked: Sequence[int], advance: Any) -> dict[str, np.ndarray]:
        """Predictions [points, images] of a shard, for each variant."""
        images = self.sets[i]
        rows = range(lo, min(lo + SHARD, len(images)))
        target = torch.from_numpy(self.targets[i][rows.start : rows.stop])
        pixels = [self.model.crop(images.load(r)) for r in rows]
        directions, places = self._directions()
        wanted: dict[int, list[float]] = {}
        for k in asked:
            wanted.setdefault(places[k][0], []).append(places[k][1])
        lines = [(directions[d], alphas) for d, alphas in wanted.items()]
        out: dict[str, np.ndarray] = {}
        for v, variant in enumerate(self.shifting.variants(images)):
            seen = self.shifting.apply(variant, images, rows, pixels)
            pred = np.empty((len(asked), len(rows)), dtype=np.int32)
            logp = np.empty((len(asked), len(rows)), dtype=np.float32)
            for b in range(0, len(rows), self.model.batch_size):
                part = slice(b, b + self.model.batch_size)
                logits = self.model.panel(self.model.normalise(seen[part]), lines)
                given = {d: iter(some) for d, some in zip(wanted, logits, strict=True)}
                for row, k in enumerate(asked):
                    p, q = judge(next(given[places[k][0]]).cpu(), target[part], images.classes)
                    pred[row, part], logp[row, part] = p, q
            out[f"{v}|pred"], out[f"{v}|logp"] = pred, logp
            advance(1)
        return out

    # -- what is written ---------------------------------------------------------------------------------------------

    def _records(self, point: Point, answers: Answers) -> Iterator[Record]:
        record = self.setting.recorder(point)
        assert self.unedited is not None
        ids = [r.id for r in self.setting.requests]
        if point.step == 0:
            for request, (shared, n) in self.leaks.items():
                yield record("unedited", "edit", "leaked", shared, n, request=request)
        alone = ids[point.looks[0].requests[0]] if point.n_edits == 1 else ""
        for i, images in enumerate(self.sets):
            for variant in self.shifting.variants(images):
                key = (images.probe, images.request, variant.shift, variant.severity)
                if key not in answers:
                    continue
                pred, logp = answers[key]
                right, before = pred == self.targets[i], self.unedited[key][0] == self.targets[i]
                scope = self._scope(point, images, ids)
                where = {"shift": variant.shift, "severity": variant.severity}
                request = images.request or alone
                n = len(right)
                yield record(scope, images.probe, "accuracy", right.mean(), n, request=request, **where)
                yield record(scope, images.probe, "loss", -logp.astype(np.float64).mean(), n, request=request, **where)
                if point.step:
                    gained, lost = int((right & ~before).sum()), int((~right & before).sum())
                    yield record(scope, images.probe, "gained", gained, n, request=request, **where)
                    yield record(scope, images.probe, "lost", lost, n, request=request, **where)

    @staticmethod
    def _scope(point: Point, images: ImageSet, ids: Sequence[str]) -> str:
        """unedited; at-edit for the model just edited and its edit; retention for edits made before."""
        if point.step == 0:
            return "unedited"
        newest = point.looks[0].requests
        old = images.probe == "edit" and images.request and ids.index(images.request) not in newest
        return "retention" if old else "at-edit"

    def _write_about(self) -> None:
        """Every image's name once, the first training pairs as pictures, and the reference models' accuracies."""
        import json

        s = self.setting
        s.store.write_examples(
            [
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
        )
        pictures: dict[str, np.ndarray] = {}
        for r in s.requests:
            for k in range(min(3, len(r.x))):
                pictures[f"{r.id}|clean|{k}"] = self.model.crop(r.x.clean[k])
                pictures[f"{r.id}|edited|{k}"] = self.model.crop(r.x.edited[k])
                pictures[f"{r.id}|mask|{k}"] = self.model.crop_mask(r.x.mask(k)).astype(np.uint8) * 255
        with atomic_path(s.store.path / "triples.npz") as temporary, temporary.open("wb") as f:
            np.savez_compressed(f, **pictures)  # type: ignore[arg-type]
        known = getattr(s.task, "reference_accuracies", lambda: None)()
        if known:
            write_text(s.store.path / "reference.json", json.dumps(known, indent=1))


def judge(logits: torch.Tensor, target: torch.Tensor, classes: tuple[int, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    """Predicted class and log-probability of the right one [n], among `classes` where only some are possible."""
    if classes is not None:
        chosen = torch.full_like(logits, float("-inf"))
        chosen[:, list(classes)] = logits[:, list(classes)]
        logits = chosen
    logp = torch.log_softmax(logits.double(), -1).gather(1, target[:, None])[:, 0]
    return logits.argmax(-1).to(torch.int32).numpy(), logp.float().numpy()


def leaks(requests: Sequence[Any], sets: Sequence[ImageSet]) -> Mapping[str, tuple[int, int]]:
    """Per request: how many evaluation images (of how many) an edit was trained on, in whatever guise.

    What stands before an @ in an image's name is the picture, what comes after it is its style.
    """
    found = {}
    for r in requests:
        used = [*r.x.ids, *(r.search.ids if isinstance(r, ImageRequest) and r.search else ())]
        trained = {i.partition("@")[0] for i in used}
        asked = [i.partition("@")[0] for x in sets if x.request in ("", r.id) for i in x.ids]
        found[r.id] = (sum(i in trained for i in asked), len(asked))
    return found


def _check_labels(sets: Sequence[ImageSet], model: Classifier) -> None:
    for x in sets:
        if not len(x):
            raise UserError(f"there are no images for {x.probe}{f' of {x.request}' if x.request else ''} ({x.source})")
        wrong = [i for i, label in zip(x.ids, x.labels, strict=True) if not 0 <= int(label) < model.n_classes]
        if wrong:
            label = int(x.labels[x.ids.index(wrong[0])])
            raise UserError(
                f"{wrong[0]} has label {label}, but {model.name} has {model.n_classes} classes, "
                f"0 to {model.n_classes - 1}"
            )


__all__ = ["ImageInquiry", "Variant", "judge", "leaks"]
