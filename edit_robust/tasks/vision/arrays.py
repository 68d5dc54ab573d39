"""Small pictures with labels in arrays: .npz, MNIST's idx files, SVHN's .mat files. Nothing in them is executed."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edit_robust.core.errors import UserError
from edit_robust.core.images import Pixels
from edit_robust.tasks.reading import existing_file
from edit_robust.tasks.vision.folders import Listing
from edit_robust.tasks.vision.textures import read_arrays

#: What images and labels are called in .npz files.
PAIRS = (("x", "y"), ("images", "labels"), ("data", "labels"), ("imgs", "labels"), ("X", "y"))


@dataclass(frozen=True)
class Pictures:
    """images: uint8 [n, height, width] or [n, height, width, 3], perhaps still on disk; labels: [n]; where: a file.

    part: of the file that they are.
    """

    images: np.ndarray
    labels: np.ndarray
    where: str
    part: str = ""

    def listing(self, n_classes: int) -> Listing:
        """As labelled images, each turned into RGB when it is asked for. UserError for labels that are no class."""
        labels = tuple(int(y) for y in self.labels)
        if wrong := [i for i, y in enumerate(labels) if not 0 <= y < n_classes]:
            raise UserError(
                f"{self.where}: image {wrong[0]} has label {labels[wrong[0]]}; 0 to {n_classes - 1} are known"
            )
        stem = Path(self.where).stem + self.part

        def load(name: str) -> Pixels:
            image = np.asarray(self.images[int(name.rpartition("/")[2])])
            return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else np.ascontiguousarray(image)

        return Listing(tuple(f"{stem}/{i}" for i in range(len(labels))), labels, load, Path(self.where).name)


def _checked(images: np.ndarray, labels: np.ndarray, where: str) -> Pictures:
    labels = np.asarray(labels).reshape(-1)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise UserError(
            f"{where} holds images as {images.dtype} {list(images.shape)}; uint8 [n, height, width] or "
            "[n, height, width, 3] is expected"
        )
    if len(images) != len(labels):
        raise UserError(f"{where} holds {len(images)} images and {len(labels)} labels")
    if not len(images):
        raise UserError(f"{where} holds no images")
    if not (np.issubdtype(labels.dtype, np.integer) or np.array_equal(labels, np.rint(labels))):
        raise UserError(f"{where}: labels must be whole numbers")
    return Pictures(images, labels.astype(np.int64), where)


def read_npz(path: str | Path, option: str, split: str = "") -> Pictures:
    """The images of a .npz file: x and y (or images and labels). split: `train` or `test` takes x_train, y_train where
    the file has both parts, as Keras' mnist.npz."""
    file = existing_file(Path(path).expanduser(), option)
    held = read_arrays(file)
    for x, y in [(f"{x}_{split}", f"{y}_{split}") for x, y in PAIRS] + list(PAIRS):
        if x in held and y in held:
            return replace(_checked(held[x], held[y], str(file)), part=x.partition("_")[2] and f":{split}")
    raise UserError(f"{option}={path} holds {', '.join(sorted(held)) or 'nothing'}; arrays x and y are expected")


def has_both(path: Path) -> bool:
    """Whether a .npz file holds a train and a test part."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    with np.load(path, allow_pickle=False) as held:
        return any(f"{x}_test" in held.files for x, _ in PAIRS)


def read_idx(images: Path, labels: Path) -> Pictures:
    """MNIST's own files; images that are not compressed are left on disk."""
    pixels, classes = _idx(images), _idx(labels)
    return _checked(pixels, np.asarray(classes), str(images))


def _idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes."""
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as f:
            zero, kind, rank = struct.unpack(">HBB", f.read(4))
            if zero or kind != 8 or not 1 <= rank <= 4:
                raise ValueError("no idx file of bytes")
            shape = struct.unpack(f">{rank}I", f.read(4 * rank))
            if packed:
                return np.frombuffer(f.read(), dtype=np.uint8).reshape(shape)
        return np.memmap(path, dtype=np.uint8, mode="r", offset=4 + 4 * rank, shape=shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise UserError(f"{path} cannot be read as an idx file ({' '.join(str(error).split())[:100]})") from error


def read_mat(path: Path) -> Pictures:
    """SVHN's file of cropped digits: X [32, 32, 3, n] and y, in which a zero is written as class 10."""
    from scipy.io import loadmat

    try:
        held = loadmat(str(path), variable_names=["X", "y"])
        images, labels = held["X"].transpose(3, 0, 1, 2), held["y"].reshape(-1)
    except Exception as error:  # scipy's readers raise nearly anything
        raise UserError(f"{path} cannot be read as SVHN's .mat file ({' '.join(str(error).split())[:100]})") from error
    return _checked(images, np.where(labels == 10, 0, labels), str(path))


def first_of(folder: Path, names: Sequence[str], option: str) -> Path:
    """The first of some files that a folder holds. UserError that names them where it holds none."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{option}={folder} holds no {names[0]}")
