"""Answers of many edited models to many images, on disk as they are made: memory holds one shard of one variant.

Right or wrong is a bit. Predicted classes, log-probabilities and logits of single images are kept where they are asked
for.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool

from edit_robust.core.files import write_text
from edit_robust.runs.files import append, as_line, cut, read_json, read_lines

#: What is kept of every image: whether it is answered right (and which class, without corruption); everywhere which
#: class, and log p(right class); all logits, too.
Keep = Literal["right", "answers", "logits"]
KINDS = ("right", "pred", "logp", "logits")  # of arrays with a value an image
LOGP, LOGITS = np.dtype(np.float32), np.dtype(np.float16)


@dataclass(frozen=True)
class Place:
    """Which answers: those to the images from number `first` on of a set, under one of its variants."""

    images: int
    variant: int
    first: int


@dataclass(frozen=True)
class _Block:
    """Answers of `points` points to `n` images: arrays [points, width] by name, each with where it starts."""

    first: int
    n: int
    arrays: Mapping[str, tuple[int, np.dtype, int]]  # start, type, width


def class_type(n_classes: int) -> np.dtype:
    """The type that predicted classes are kept in: 16 bits where that is enough."""
    return np.dtype(np.int16 if n_classes <= 1 << 15 else np.int32)


def answer_bytes(n_classes: int, keep: Keep = "right") -> float:
    """Bytes of a point's answer to one image on disk, without the sums of each batch."""
    more = {"right": 0, "answers": 1, "logits": 1}[keep] * (class_type(n_classes).itemsize + LOGP.itemsize)
    return 1 / 8 + more + (n_classes * LOGITS.itemsize if keep == "logits" else 0)


class AnswerStore:
    """Answers [points, images] at every place, in a file that is only ever extended.

    folder: answers.bin, and answers.jsonl with a line for everything that is whole; what a killed process left half
    written is cut off.

    Each place has `right` (a bit an image, packed), `loss` (sums of batches of images, float64), `moved` (images gained
    and lost) where the unedited model's answers were known, and what else was kept: `pred`, `logp`, `logits`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._data, self._index = folder / "answers.bin", folder / "answers.jsonl"
        self._places: set[Place] = set()
        self._blocks: dict[tuple[int, int], list[_Block]] = {}  # of every set and variant, in the images' order
        self._end = 0
        lines = read_lines(self._index)
        if lines and (not self._data.exists() or self._data.stat().st_size < lines[-1]["end"]):
            lines = []  # the arrays themselves are gone
        for line in lines:
            arrays = {name: (start, np.dtype(kind), width) for name, start, kind, width in line["arrays"]}
            self._note(Place(line["images"], line["variant"], line["first"]), _Block(line["first"], line["n"], arrays))
            self._end = line["end"]
        cut(self._index, sum(len(as_line(line)) for line in lines))
        cut(self._data, self._end)

    def _note(self, place: Place, block: _Block) -> None:
        self._places.add(place)
        blocks = self._blocks.setdefault((place.images, place.variant), [])
        blocks.append(block)
        blocks.sort(key=lambda b: b.first)

    def __contains__(self, place: Place) -> bool:
        return place in self._places

    def add(self, place: Place, n: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the answers to the n images of a place, and force them to disk; only then do they count as there.

        arrays: [points, ...] each; `right` as bool [points, n].
        """
        found: dict[str, tuple[int, np.dtype, int]] = {}
        end = self._end
        with self._data.open("ab") as f:
            for name, array in arrays.items():
                flat = np.packbits(array, axis=1) if name == "right" else array.reshape(len(array), -1)
                f.write(np.ascontiguousarray(flat).data)
                found[name] = end, flat.dtype, flat.shape[1]
                end += flat.nbytes
            f.flush()
            os.fsync(f.fileno())
        told = [[name, start, kind.str, width] for name, (start, kind, width) in found.items()]
        where = {"images": place.images, "variant": place.variant, "first": place.first, "n": n}
        append(self._index, as_line({**where, "arrays": told, "end": end}))
        self._note(place, _Block(place.first, n, found))
        self._end = end

    def right(self, images: int, variant: int, row: int) -> Bool[np.ndarray, " images"]:
        """Which images of a whole set one point (the `row`-th of those that the set was asked at) answers right."""
        blocks = self._blocks[images, variant]
        parts = self._read(images, variant, row, "right")
        return np.concatenate(
            [np.unpackbits(bits, count=b.n).astype(bool) for b, bits in zip(blocks, parts, strict=True)]
        )

    def loss(self, images: int, variant: int, row: int) -> float:
        """The sum over the set's images of -log p(right class); batches are added in their order."""
        return float(np.concatenate(self._read(images, variant, row, "loss")).sum())

    def moved(self, images: int, variant: int, row: int) -> tuple[int, int] | None:
        """How many images are gained and lost against the unedited model; None where it was not asked."""
        if not self.has(images, variant, "moved"):
            return None
        gained, lost = np.sum(self._read(images, variant, row, "moved"), axis=0)
        return int(gained), int(lost)

    def has(self, images: int, variant: int, name: str) -> bool:
        """Whether an array was kept of all images of a set under a variant."""
        return all(name in b.arrays for b in self._blocks[images, variant])

    def kept(self, images: int, variant: int, row: int, name: str) -> np.ndarray:
        """What else was kept of every image, see `has`: `pred` (classes, int32), `logp`, `logits` [images, classes]."""
        found = np.concatenate(self._read(images, variant, row, name))
        if name == "pred":
            return found.astype(np.int32)
        n = sum(b.n for b in self._blocks[images, variant])
        return found.reshape(n, -1) if name == "logits" else found

    def _read(self, images: int, variant: int, row: int, name: str) -> list[np.ndarray]:
        """One point's part of an array, block by block."""
        parts = []
        with self._data.open("rb") as f:
            for block in self._blocks[images, variant]:
                start, kind, width = block.arrays[name]
                f.seek(start + row * width * kind.itemsize)
                parts.append(np.frombuffer(f.read(width * kind.itemsize), dtype=kind))
        return parts


@dataclass(frozen=True)
class Group:
    """Points that are answered together. Last digits depend on which models run side by side, so that a group stays as
    it is when a run goes on, though some of its points are written already.

    steps: of the points.   asked: those of them that each image set is asked at.   n: images of a shard.
    stamp: what the images were shown as.   keep: what is kept of every image.
    """

    steps: tuple[int, ...]
    asked: tuple[tuple[int, ...], ...]
    n: int
    stamp: str
    keep: Keep = "right"

    def start(self, folder: Path) -> None:
        """Make the folder of the group's answers, in place of those of any other group."""
        shutil.rmtree(folder, ignore_errors=True)
        about = {"steps": self.steps, "asked": self.asked, "n": self.n, "stamp": self.stamp, "keep": self.keep}
        write_text(folder / "group.json", json.dumps(about))

    @staticmethod
    def begun(folder: Path) -> Group | None:
        """The group whose answers an earlier process has left in a folder."""
        about = read_json(folder / "group.json")
        try:
            asked = tuple(tuple(some) for some in about["asked"])
            keep = about["keep"]  # earlier versions kept another form
            return (
                Group(tuple(about["steps"]), asked, int(about["n"]), str(about["stamp"]), keep)
                if keep in get_args(Keep)
                else None
            )
        except (KeyError, TypeError, ValueError):
            return None


class PointAnswers(Mapping[str, np.ndarray]):
    """A point's answers as arrays by name, `part|right` and what else was kept; read from disk when they are asked for.

    `part|right` is a bit an image, packed (`numpy.packbits`).
    parts: names of parts (probe|request|shift|severity), with the numbers of set, variant and point in the store.
    """

    def __init__(self, store: AnswerStore, parts: Mapping[str, tuple[int, int, int]]) -> None:
        self._store, self._parts = store, parts
        self._names = dict.fromkeys(
            f"{part}|{kind}"
            for part, (images, variant, _) in parts.items()
            for kind in KINDS
            if store.has(images, variant, kind)
        )

    def __getitem__(self, name: str) -> np.ndarray:
        part, _, kind = name.rpartition("|")
        if name not in self._names:
            raise KeyError(name)
        where = self._parts[part]
        return np.packbits(self._store.right(*where)) if kind == "right" else self._store.kept(*where, kind)

    def place(self, part: str) -> tuple[int, int, int] | None:
        """The numbers of a part's set, variant and point in the store; None where the point was not asked it."""
        return self._parts.get(part)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
