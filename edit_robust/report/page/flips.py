"""Runs on images: which images the edits put right and wrong, with pictures of some, and what each corruption took."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from edit_robust.core.images import Key, Right
from edit_robust.figures.frame import RunData
from edit_robust.runs.reader import Run

HELD_OUT = "-held-out"  # ends the probes that alphas are chosen on, which nothing is told of


@dataclass(frozen=True)
class Flip:
    """An image that an edit put right or wrong.

    picture: number of its picture in the album; None: none was kept.   words: what it shows, and what was answered.
    right_before, right_now: under how many of `variants` shifts it is answered right.
    """

    name: str
    picture: int | None
    words: str
    right_before: int
    right_now: int
    variants: int


@dataclass(frozen=True)
class SetFlips:
    """One set of images at the whole edit. gained, lost: all of them; `won` and `missed` are those that are shown."""

    title: str
    n: int
    right_before: int
    right_now: int
    gained: int
    lost: int
    won: tuple[Flip, ...]
    missed: tuple[Flip, ...]


@dataclass(frozen=True)
class Corruption:
    """Accuracies [0, 1] under one shift, means over severities and requests; None where it was not measured."""

    name: str
    original: tuple[float, float] | None
    edit: tuple[float, float] | None
    gained: int
    lost: int


@dataclass
class Album:
    """Pictures of a page, each once however many runs show it. limit: bytes that all of them may take."""

    limit: int
    pictures: dict[bytes, int] = field(default_factory=dict)
    taken: int = 0

    def add(self, picture: bytes) -> int | None:
        """The number of a picture (a WebP file); None where there is no room for another."""
        if picture not in self.pictures:
            if self.taken + len(picture) > self.limit:
                return None
            self.taken += len(picture)
            self.pictures[picture] = len(self.pictures)
        return self.pictures[picture]

    def sources(self) -> list[str]:
        """Their data addresses, in the order of the numbers."""
        return [f"data:image/webp;base64,{b64encode(p).decode('ascii')}" for p in self.pictures]


@dataclass(frozen=True)
class Gallery:
    """What a run's folder says about single images. album: where pictures go.   most: of each kind and set."""

    run: RunData
    path: Path
    album: Album
    most: int

    @cached_property
    def reader(self) -> Run:
        return Run(self.path)

    @cached_property
    def ends(self) -> dict[str, int]:
        """Request -> the step of its whole edit: the largest alpha up to 1, the latest point."""
        found = self.run.tidy
        found = found[(found["probe"] == "edit") & (found["step"] > 0) & (found["metric"] == "accuracy")]
        found = found[(found["alpha"] <= 1 + 1e-9) & (found["request"] != "")].sort_values(["alpha", "step"])
        return {
            str(r): int(s)
            for r, s in found.drop_duplicates("request", keep="last").set_index("request")["step"].items()
        }

    def sets(self) -> list[SetFlips]:
        """Every set without corruption at the whole edit; the original task's once a step."""
        out, told = [], set()
        steps = sorted(set(self.ends.values()))
        for request, step in self.ends.items():
            for key in self.run.right(step):
                probe, owner, _, severity = key
                once = (step, key)
                if severity or (owner and owner != request) or HELD_OUT in probe or once in told:
                    continue
                told.add(once)
                alone = request if len(self.ends) > 1 and len(steps) > 1 else ""
                out.append(self._set(key, step, alone))
        return [one for one in out if one is not None]

    def _set(self, key: Key, step: int, alone: str) -> SetFlips | None:
        before, now = self.run.right(0).get(key), self.run.right(step).get(key)
        if before is None or now is None:
            return None
        probe, request, shift, _ = key
        title = f"images of the edit {request}" if probe == "edit" else "the original task"
        title += f", {shift}" if shift != "none" else ""
        title += f" (after {alone})" if alone and probe != "edit" else ""
        gained, lost = np.flatnonzero(now & ~before), np.flatnonzero(before & ~now)
        won, missed = (tuple(self._flip(key, step, int(row)) for row in x[: self.most]) for x in (gained, lost))
        return SetFlips(title, len(now), int(before.sum()), int(now.sum()), len(gained), len(lost), won, missed)

    def _flip(self, key: Key, step: int, row: int) -> Flip:
        probe, request, shift, _ = key
        kept = self._pictures.get(f"{probe}|{request}|{shift}|{row}")
        name = self._names.get((probe, request, shift), {}).get(row, str(row))
        first, last = (self._predicted(s).get(key) for s in (0, step))
        words = ""
        if first is not None and last is not None:
            right, wrong = first[0][row], last[0][row]
            if gained := bool(self.run.right(step)[key][row]):
                right, wrong = wrong, right
            words = f"{self._class(right)}: taken for {self._class(wrong)} {'before' if gained else 'now'}"
        n, was, now = self._shifted(key, step, row) if shift == "none" else (0, 0, 0)
        return Flip(name, self.album.add(kept) if kept else None, words, was, now, n)

    def _shifted(self, key: Key, step: int, row: int) -> tuple[int, int, int]:
        """(variants, right before, right now) of one image under corruptions."""
        same = [k for k in self.run.right(step) if k[:2] == key[:2] and k[3] > 0 and k in self.run.right(0)]
        was, now = (sum(bool(self.run.right(s)[k][row]) for k in same) for s in (0, step))
        return len(same), was, now

    def _predicted(self, step: int) -> Mapping[Key, tuple[np.ndarray, np.ndarray]]:
        """Predicted classes at a step, read once."""
        if step not in self._predictions:
            self._predictions[step] = self.reader.predictions(step)
        return self._predictions[step]

    @cached_property
    def _predictions(self) -> dict[int, Mapping[Key, tuple[np.ndarray, np.ndarray]]]:
        return {}

    @cached_property
    def _names(self) -> dict[tuple[str, str, str], dict[int, str]]:
        """Names of the images of each set by their position."""
        examples = self.reader.examples_of("image-answers")
        if "shift" not in examples:
            return {}
        each = examples.groupby(["probe", "group", "shift"], sort=False)
        return {(str(p), str(r), str(s)): dict(enumerate(x["id"].astype(str))) for (p, r, s), x in each}

    @cached_property
    def _pictures(self) -> dict[str, bytes]:
        """The small pictures that the run kept, as WebP files."""
        file = self.path / "flips.npz"
        if not file.is_file():
            return {}
        with np.load(file, allow_pickle=False) as f:
            return {name: f[name].tobytes() for name in f.files}

    @cached_property
    def _classes(self) -> dict[str, str]:
        file = self.path / "classes.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}

    def _class(self, place: int) -> str:
        return self._classes.get(str(int(place)), f"class {int(place)}")

    def corruptions(self) -> list[Corruption]:
        """What each corruption takes from the unedited and from the edited model."""
        found: dict[str, dict[str, list[tuple[float, float]]]] = {}
        counts: dict[str, list[int]] = {}
        for probe, shift, before, now in self._under_shift():
            found.setdefault(shift, {}).setdefault(probe, []).append((float(before.mean()), float(now.mean())))
            if probe == "original":
                many = counts.setdefault(shift, [0, 0])
                many[0] += int((now & ~before).sum())
                many[1] += int((before & ~now).sum())
        return [
            Corruption(name, _mean(by.get("original")), _mean(by.get("edit")), *counts.get(name, [0, 0]))
            for name, by in found.items()
        ]

    def _under_shift(self) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
        """(probe, shift, right before, right now) of every corrupted set at the whole edits; each once."""
        base: Right = self.run.right(0)
        seen = set()
        for request, step in self.ends.items():
            for key, now in self.run.right(step).items():
                probe, owner, shift, severity = key
                if not severity or HELD_OUT in probe or (owner and owner != request) or (step, key) in seen:
                    continue
                seen.add((step, key))
                if key in base:
                    yield probe, shift, base[key], now


def _mean(pairs: list[tuple[float, float]] | None) -> tuple[float, float] | None:
    if not pairs:
        return None
    before, now = np.mean(pairs, axis=0).tolist()
    return before, now


def gallery(run: RunData, album: Album, most: int) -> Gallery | None:
    """The images of a run; None where it asked about none, or has made no edit yet."""
    if run.path is None or not run.right(0):
        return None
    found = Gallery(run, run.path, album, most)
    return found if found.ends else None
