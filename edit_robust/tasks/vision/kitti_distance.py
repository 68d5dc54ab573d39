"""KITTI distance: how far away is the nearest vehicle? Four bins, from KITTI's object detection benchmark.

Nearest is the smallest depth (the z coordinate in front of the camera) of a Car, Van or Truck: at most 8 m, at most
20 m, farther, or none there. Classes are whole sentences, as CLIP was asked about them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edit_robust.core.errors import UserError
from edit_robust.core.image_files import read_image
from edit_robust.core.options import DataFile
from edit_robust.tasks.reading import read_text
from edit_robust.tasks.vision.folders import Listing
from edit_robust.tasks.vision.labelled import SHARE, LabelledImages, Splits

log = logging.getLogger(__name__)
VEHICLES = ("Car", "Van", "Truck")
BINS = (8.0, 20.0)  # metres
SENTENCES = (
    "a photo i took of a car on my left or right side.",
    "a photo i took with a car nearby.",
    "a photo i took with a car in the distance.",
    "a photo i took with no car.",
)
FIELDS = 15  # of a line of a label file
_DEPTH = 13


@dataclass(kw_only=True, eq=False)
class KittiDistance(LabelledImages):
    """Its further options are those of `LabelledImages`.

    path: the folder that holds image_2 and label_2, or one of its parents (object, with training in it).
    mapping, order: the development kit's train_mapping.txt (the video of each picture) and train_rand.txt (which of
        its lines a picture is); pictures of one video stay in one part. None: videos are not known, and every picture
        counts as one of its own.
    """

    needs: ClassVar[str] = "KITTI's object benchmark: task.path=FOLDER with image_2 and label_2"
    may_lack: ClassVar[bool] = True

    name: str = "kitti-distance"
    path: DataFile | None = None
    mapping: DataFile | None = None
    order: DataFile | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_given(self.path)
        if (self.mapping is None) != (self.order is None):
            raise UserError("task.mapping and task.order belong together: train_mapping.txt and train_rand.txt")

    def own_words(self) -> tuple[Sequence[str], Sequence[str]]:
        return SENTENCES, ("{}",)

    def splits(self) -> Splits:
        """Whole videos in each part, drawn with the seed: a fifth of the pictures to judge by, a fifth held out."""
        folder = _folder(Path(str(self.path)).expanduser())
        labels = {p.stem: distance_bin(p) for p in sorted((folder / "label_2").glob("*.txt"))}
        images = {p.stem: p for p in sorted((folder / "image_2").iterdir()) if p.suffix in (".png", ".jpg", ".jpeg")}
        if lacking := sorted(set(images) - set(labels)):
            raise UserError(f"{folder}: the picture {lacking[0]} has no file in label_2")
        if not images:
            raise UserError(f"task.path={folder} holds no pictures in image_2")
        ids = tuple(sorted(images))
        every = Listing(ids, tuple(labels[i] for i in ids), lambda name: read_image(images[name]), "KITTI")
        parts = by_video(ids, self._videos(), self.seed)
        return Splits(*(every.take(rows) for rows in parts))

    def _videos(self) -> Mapping[str, str]:
        """The video of each picture, by the picture's name."""
        if self.mapping is None or self.order is None:
            log.warning("kitti-distance: videos are not known; pictures of one video may stand in different parts")
            return {}
        lines = [line.split() for line in read_text(self.mapping, "task.mapping").splitlines()]
        numbers = [int(n) for n in read_text(self.order, "task.order").replace(",", " ").split()]
        if not numbers or max(numbers) > len(lines) or any(len(line) < 2 for line in lines):
            raise UserError(f"task.order={self.order} does not go with task.mapping={self.mapping}")
        return {f"{i:06d}": lines[n - 1][1] for i, n in enumerate(numbers)}


def _folder(path: Path) -> Path:
    for place in (path, path / "training", path / "object" / "training"):
        if (place / "image_2").is_dir() and (place / "label_2").is_dir():
            return place
    raise UserError(f"task.path={path} holds no folders image_2 and label_2 (nor does training in it)")


def distance_bin(path: Path) -> int:
    """The class of a picture, from its label file: 0 up to 8 m, 1 up to 20 m, 2 farther, 3 without a vehicle."""
    depths = []
    for number, line in enumerate(read_text(path, "task.path").splitlines(), start=1):
        fields = line.split()
        if fields and len(fields) < FIELDS:
            raise UserError(f"{path}, line {number} has {len(fields)} fields; {FIELDS} are expected")
        if fields and fields[0] in VEHICLES:
            try:
                depths.append(float(fields[_DEPTH]))
            except ValueError as error:
                raise UserError(f'{path}, line {number}: "{fields[_DEPTH]}" is no distance') from error
    return int(np.searchsorted(BINS, min(depths))) if depths else len(BINS) + 1


def by_video(ids: Sequence[str], videos: Mapping[str, str], seed: int) -> tuple[list[int], list[int], list[int]]:
    """Positions to train on, to hold out and to judge by, whole videos each: videos in an order drawn with the seed go
    to the test part until it has a fifth of the pictures, then to the held-out part; three videos give one to each."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(ids):
        groups.setdefault(videos.get(name, f"/{name}"), []).append(i)
    names = sorted(groups)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    parts: list[list[int]] = [[], [], []]
    wanted = max(1, int(SHARE * len(ids)))
    for k, name in enumerate(order):
        left = len(order) - k
        open_parts = [p for p in (2, 1) if len(parts[p]) < wanted]
        part = open_parts[0] if open_parts and left > 1 else 0
        parts[part] += groups[name]
    return sorted(parts[0]), sorted(parts[1]), sorted(parts[2])
