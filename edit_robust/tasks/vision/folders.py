"""Labelled images on disk: class folders, archives of them, and tables; decoded only when they are asked for."""

from __future__ import annotations

import io
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from edit_robust.core.errors import UserError, nearest
from edit_robust.core.image_files import EXTENSIONS, decode_image, read_image
from edit_robust.core.images import ImageSet, Pixels
from edit_robust.tasks.vision.label_files import flat_labels
from edit_robust.tasks.vision.photographs import (
    ClassNames,
    csv_table,
    file_beside,
    imagenet_classes,
    name_beside,
    read_label,
)

ARCHIVES = (".tar", ".zip")
_MAX_BYTES = 1 << 30  # of one member of an archive


# -- folders and archives ------------------------------------------------------------------------------------------


class Files(Protocol):
    """Image files under names relative to a root, sorted by name; `folders` are those that hold files or nothing."""

    where: str

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def empty(self) -> tuple[str, ...]: ...

    def load(self, name: str) -> Pixels: ...


def _wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.lower().endswith(EXTENSIONS) and not any(p.startswith((".", "__MACOSX")) for p in parts)


class Folder:
    """The image files of a folder, at any depth."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    @cached_property
    def _found(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        names: list[str] = []
        empty: list[str] = []
        for here, folders, files in os.walk(self.path, followlinks=True):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            inside = PurePosixPath(Path(here).relative_to(self.path).as_posix())
            images = [str(inside / f) for f in files if _wanted(f)]
            names += images
            if not images and not folders and str(inside) != ".":
                empty.append(str(inside))
        return tuple(sorted(names)), tuple(sorted(empty))

    @property
    def names(self) -> tuple[str, ...]:
        return self._found[0]

    @property
    def empty(self) -> tuple[str, ...]:
        """Folders without a single file that is an image."""
        return self._found[1]

    def load(self, name: str) -> Pixels:
        return read_image(self.path / name)


class Archive:
    """The image files of a .tar or .zip file, read in place: nothing is unpacked."""

    empty: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    @cached_property
    def _members(self) -> dict[str, tuple[int, int] | zipfile.ZipInfo]:
        """name -> where it lies: (offset, size) in a tar file, or the entry of a zip file."""
        found: dict[str, tuple[int, int] | zipfile.ZipInfo] = {}
        try:
            if self.path.suffix == ".zip":
                with zipfile.ZipFile(self.path) as z:
                    entries: list[tuple[str, int, Any]] = [(i.filename, i.file_size, i) for i in z.infolist()]
            else:
                with tarfile.open(self.path, "r:") as t:  # links and devices are no files to read
                    entries = [(m.name, m.size, (m.offset_data, m.size)) for m in t if m.isreg() and not m.issparse()]
        except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
            packed = "; a compressed .tar cannot be read in place: unpack it" if self.path.suffix == ".tar" else ""
            reason = " ".join(str(error).split())
            raise UserError(f"{self.path} cannot be read as an archive ({reason}){packed}") from error
        for name, size, place in entries:
            plain = PurePosixPath(name.replace("\\", "/"))
            if plain.is_absolute() or ".." in plain.parts:
                raise UserError(f'{self.path}: the member "{name[:80]}" points out of the archive')
            if size > _MAX_BYTES:
                raise UserError(f'{self.path}: the member "{name[:80]}" is too large ({size >> 20} MiB)')
            if _wanted(str(plain)):
                found[str(plain)] = place
        return found

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._members))

    def load(self, name: str) -> Pixels:
        place = self._members[name]
        try:  # a tar file is opened each time: forked processes would move a shared handle under each other's feet
            if isinstance(place, zipfile.ZipInfo):
                content = self._unzipped(place)
            else:
                with self.path.open("rb") as stream:
                    stream.seek(place[0])
                    content = stream.read(place[1])
        except Exception as error:
            raise UserError(f"{self.path}: {name} cannot be read ({' '.join(str(error).split())[:100]})") from error
        return decode_image(io.BytesIO(content), f"{self.path}: {name}")

    @cached_property
    def _zips(self) -> dict[int, zipfile.ZipFile]:
        return {}

    def _unzipped(self, entry: zipfile.ZipInfo) -> bytes:
        process = os.getpid()  # reading the directory takes long, so a handle is kept, one a process
        if process not in self._zips:
            self._zips[process] = zipfile.ZipFile(self.path)
        return self._zips[process].read(entry)


def files_of(path: str | Path, option: str) -> Files:
    """The images of a folder or an archive. Raises UserError for anything else."""
    path = Path(path).expanduser()
    if path.is_dir():
        return Folder(path)
    if path.is_file() and path.suffix.lower() in ARCHIVES:
        return Archive(path)
    if path.is_file():
        raise UserError(f"{option}={path} is neither a folder nor a {' or '.join(ARCHIVES)} file")
    around = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(f"{option}={path}: there is no such folder; {nearest(path.name, around, f'in {path.parent}')}")


# -- listings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """Labelled images, decoded on demand: `load` goes by the id. In the order of sorted paths, or of the table.

    benchmark: see `ImageSet`.
    """

    ids: tuple[str, ...]
    labels: tuple[int, ...]
    load: Callable[[str], Pixels]
    where: str
    benchmark: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Iterable[int]) -> Listing:
        """Some of the images, in the order of `rows`."""
        i = [int(r) for r in rows]
        return replace(self, ids=tuple(self.ids[j] for j in i), labels=tuple(self.labels[j] for j in i))

    def images(self, probe: str, **more: Any) -> ImageSet:
        """As a set to ask about; `more` are fields of `ImageSet`."""
        labels = np.array(self.labels, dtype=np.int64)
        more = {"source": self.where, "benchmark": self.benchmark, **more}
        return ImageSet(probe, self.ids, labels, lambda i: self.load(self.ids[i]), **more)


def sample(n: int, k: int | None, seed: int) -> list[int]:
    """`k` of 0 .. n-1 in ascending order, drawn without replacement (None or too large: all)."""
    if k is None or k >= n:
        return list(range(n))
    return sorted(np.random.default_rng(seed).permutation(n)[:k].tolist())


def _class_folders(files: Files, option: str) -> dict[str, list[str]]:
    """class folder's name -> its images. The class is the folder that an image lies in.

    Where class folders lie at several places, val/ goes before test/; UserError if there is neither.
    """
    if not files.names:
        raise UserError(f"{option}={files.where} holds no images")
    places: dict[str, list[str]] = {}
    for name in files.names:
        places.setdefault(str(PurePosixPath(name).parent.parent), []).append(name)
    if flat := [n for n in files.names if "/" not in n]:
        raise UserError(
            f"{option}={files.where}: {flat[0]} lies in no class folder; put every image in a folder named after its "
            "class, or give a .csv file with the columns path, label"
        )
    place = next(iter(places))
    if len(places) > 1:
        ends = {PurePosixPath(p).name: p for p in sorted(places)}
        place = next((ends[e] for e in ("val", "validation", "test") if e in ends), "")
        if not place:
            raise UserError(
                f"{option}={files.where} has class folders at several places "
                f"({', '.join(sorted(places)[:4])}); name one of them"
            )
    if hollow := [e for e in files.empty if str(PurePosixPath(e).parent) == place]:
        raise UserError(f"{option}={files.where}: the class folder {hollow[0]} holds no images")
    found: dict[str, list[str]] = {}
    for name in places[place]:
        found.setdefault(PurePosixPath(name).parent.name, []).append(name)
    return found


def folder_listing(
    path: str | Path, classes: ClassNames, option: str, index: Callable[[str, str], int] | None = None
) -> Listing:
    """The images of class folders (or of a .tar or .zip of them), sorted by path; `index` finds a folder's class.

    Raises UserError for folders that match no class, for empty ones, and where there are none.
    """
    files = files_of(path, option)
    labels: dict[str, int] = {}
    for name, members in _class_folders(files, option).items():
        label = (index or classes.index)(name, f"{option}={path}, folder {name}")
        labels |= dict.fromkeys(members, label)
    ids = tuple(sorted(labels))
    return Listing(ids, tuple(labels[i] for i in ids), files.load, Path(path).name, benchmark_of(classes))


def csv_listing(path: str | Path, classes: ClassNames | None, option: str) -> Listing:
    """The images of a table with the columns path and label; names are paths relative to the table's folder."""
    base = Path(path).expanduser().parent
    labels: dict[str, int] = {}
    for where, row in csv_table(path, option, ("path", "label"), (), strict=False):
        file_beside(base, row["path"], "path", where)
        label, file = read_label(row["label"], classes, where), name_beside(base, row["path"])
        if labels.setdefault(file, label) != label:
            raise UserError(f'{where}: "label" is {label}, but {file} had {labels[file]} before')
    ids, name = tuple(labels), Path(path).name
    return Listing(
        ids, tuple(labels.values()), lambda i: read_image(base / Path(i).expanduser()), name, benchmark_of(classes)
    )


def listing(path: str, classes: ClassNames | None, option: str) -> Listing:
    """Labelled images: class folders, an archive of them, a .csv file with path and label, or a folder of images with a
    label file among them (see `label_files`)."""
    if Path(path).suffix.lower() == ".csv":
        return csv_listing(path, classes, option)
    if Path(path).expanduser().is_dir():
        files = Folder(Path(path).expanduser())
        if files.names and not any("/" in n for n in files.names):
            labels, classes = flat_labels(files.path, files.names, classes, option)
            return Listing(files.names, labels, files.load, files.path.name, benchmark_of(classes))
    return folder_listing(path, classes or _guessed(path, option), option)


def benchmark_of(classes: ClassNames | None) -> str:
    """`imagenet` for its 1000 classes, known by their WordNet ids."""
    return "imagenet" if classes is not None and len(classes.wnids) == 1000 else ""


def _guessed(path: str, option: str) -> ClassNames:
    """Classes of folders that say themselves what they are: WordNet ids, or indices."""
    names = {PurePosixPath(n).parent.name for n in files_of(path, option).names}
    if names and all(re.fullmatch(r"n\d{8}", n) for n in names):
        return imagenet_classes()
    if names and all(n.isdigit() for n in names):
        return ClassNames(tuple(str(i) for i in range(max(map(int, names)) + 1)))
    strange = sorted(n for n in names if n)
    raise UserError(
        f'{option}={path}: which class the folder "{(strange or [""])[0]}" stands for is unknown; '
        "name the model's classes: task.classes=imagenet, or a file with one name a line"
    )
