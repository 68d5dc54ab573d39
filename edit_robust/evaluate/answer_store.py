"""Answers of many edited models to many images, on disk as they are made: memory holds one shard of one variant."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, Int32

from edit_robust.core.files import write_text
from edit_robust.runs.files import append, as_line, cut, read_json, read_lines

LOGP = np.dtype(np.float32)


@dataclass(frozen=True)
class Place:
    """Which answers: those to the images from number `first` on of a set, under one of its variants."""

    images: int
    variant: int
    first: int


@dataclass(frozen=True)
class _Block:
    """Answers of `points` points to `n` images: predictions [points, n] from `start` on, then log-probabilities."""

    first: int
    start: int
    points: int
    n: int


def class_type(n_classes: int) -> np.dtype:
    """The type that predicted classes are kept in: 16 bits where that is enough."""
    return np.dtype(np.int16 if n_classes <= 1 << 15 else np.int32)


def answer_bytes(n_classes: int) -> int:
    """Bytes of a predicted class with the log-probability of the right one."""
    return class_type(n_classes).itemsize + LOGP.itemsize


class AnswerStore:
    """Predicted classes and log-probabilities [points, images] of every place, in a file that is only ever extended.

    folder: answers.bin, and answers.jsonl with a line for every array that is whole; what a killed process left half
    written is cut off.
    """

    def __init__(self, folder: Path, n_classes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._data, self._index, self._class = folder / "answers.bin", folder / "answers.jsonl", class_type(n_classes)
        self._places: set[Place] = set()
        self._blocks: dict[tuple[int, int], list[_Block]] = {}  # of every set and variant, in the images' order
        self._end = 0
        lines = read_lines(self._index)
        if lines and (not self._data.exists() or self._data.stat().st_size < lines[-1]["end"]):
            lines = []  # the arrays themselves are gone
        for line in lines:
            self._note(Place(line["images"], line["variant"], line["first"]), line["start"], line["points"], line["n"])
            self._end = line["end"]
        cut(self._index, sum(len(as_line(line)) for line in lines))
        cut(self._data, self._end)

    def _note(self, place: Place, start: int, points: int, n: int) -> None:
        self._places.add(place)
        blocks = self._blocks.setdefault((place.images, place.variant), [])
        blocks.append(_Block(place.first, start, points, n))
        blocks.sort(key=lambda b: b.first)

    def __contains__(self, place: Place) -> bool:
        return place in self._places

    def add(self, place: Place, pred: Int[np.ndarray, "points n"], logp: Float32[np.ndarray, "points n"]) -> None:
        """Write the answers of a place, and force them to disk; only then do they count as there."""
        with self._data.open("ab") as f:
            f.write(np.ascontiguousarray(pred, dtype=self._class).data)
            f.write(np.ascontiguousarray(logp, dtype=LOGP).data)
            f.flush()
            os.fsync(f.fileno())
            end = f.tell()
        where = {"images": place.images, "variant": place.variant, "first": place.first}
        points, n = pred.shape
        append(self._index, as_line({**where, "start": self._end, "points": points, "n": n, "end": end}))
        self._note(place, self._end, points, n)
        self._end = end

    def predicted(self, images: int, variant: int, row: int) -> Int32[np.ndarray, " images"]:
        """What one point (the `row`-th of those that the set was asked at) answers to a whole set."""
        found = self._read(images, variant, lambda b: b.start, row, self._class)
        return found.astype(np.int32)

    def logp(self, images: int, variant: int, row: int) -> Float32[np.ndarray, " images"]:
        """How probable the right classes are to it."""
        return self._read(images, variant, lambda b: b.start + b.points * b.n * self._class.itemsize, row, LOGP)

    def _read(self, images: int, variant: int, start: Callable[[_Block], int], row: int, kind: np.dtype) -> np.ndarray:
        parts = []
        with self._data.open("rb") as f:
            for block in self._blocks[images, variant]:
                f.seek(start(block) + row * block.n * kind.itemsize)
                parts.append(np.frombuffer(f.read(block.n * kind.itemsize), dtype=kind))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Group:
    """Points that are answered together. Last digits depend on which models run side by side, so that a group stays as
    it is when a run goes on, though some of its points are written already.

    steps: of the points.   asked: those of them that each image set is asked at.   n: images of a shard.
    stamp: what the images were shown as.
    """

    steps: tuple[int, ...]
    asked: tuple[tuple[int, ...], ...]
    n: int
    stamp: str

    def start(self, folder: Path) -> None:
        """Make the folder of the group's answers, in place of those of any other group."""
        shutil.rmtree(folder, ignore_errors=True)
        about = {"steps": self.steps, "asked": self.asked, "n": self.n, "stamp": self.stamp}
        write_text(folder / "group.json", json.dumps(about))

    @staticmethod
    def begun(folder: Path) -> Group | None:
        """The group whose answers an earlier process has left in a folder."""
        about = read_json(folder / "group.json")
        try:
            asked = tuple(tuple(some) for some in about["asked"])
            return Group(tuple(about["steps"]), asked, int(about["n"]), str(about["stamp"]))
        except (KeyError, TypeError, ValueError):
            return None


class PointAnswers(Mapping[str, np.ndarray]):
    """A point's answers as arrays by name, `part|pred` and `part|logp`; read from disk when they are asked for.

    parts: names of parts (probe|request|shift|severity), with the numbers of set, variant and point in the store.
    """

    def __init__(self, store: AnswerStore, parts: Mapping[str, tuple[int, int, int]]) -> None:
        self._store, self._parts = store, parts

    def __getitem__(self, name: str) -> np.ndarray:
        part, _, kind = name.rpartition("|")
        where = self._parts[part]
        return self._store.predicted(*where) if kind == "pred" else self._store.logp(*where)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.rpartition("|")[0] in self._parts

    def __iter__(self) -> Iterator[str]:
        return (f"{part}|{kind}" for part in self._parts for kind in ("pred", "logp"))

    def __len__(self) -> int:
        return 2 * len(self._parts)
