"""A store of corrupted images on disk: made once, shared by processes, of bounded size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from edit_robust.core.errors import UserError
from edit_robust.core.files import atomic_path
from edit_robust.core.locks import held
from edit_robust.shifts.images.benchmark import VERSION

try:
    import fcntl
except ImportError:  # Windows refuses to remove a file that is mapped: no lock is needed there
    fcntl = None  # type: ignore[assignment]

Images = UInt8[np.ndarray, "n height width 3"]

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}")
_STALE = 24 * 3600.0  # seconds after which an unfinished file belongs to a process that died
#: Libraries whose releases may change a pixel; OpenCV is installed under either name.
_LIBRARIES = ("numpy", "numba", "opencv-python", "opencv-python-headless", "Pillow", "imagecorruptions")


def digest_of(images: Sequence[np.ndarray], ids: Sequence[str]) -> str:
    """Hash of images with the names that their seeds go by; in order."""
    h = hashlib.sha256()
    for image, name in zip(images, ids, strict=True):
        array = np.ascontiguousarray(image)
        h.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        h.update(array.data)
    return h.hexdigest()


def key_of(digest: str, dataset: str, name: str, severity: int, order: str) -> str:
    """Key of corrupted images: of what (`digest_of`), how, by which version of the algorithms and libraries."""
    parts = [digest, dataset, name, str(int(severity)), order, str(VERSION), *map(_release, _LIBRARIES)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


@lru_cache(maxsize=len(_LIBRARIES))  # of the installation, and nothing of a run
def _release(library: str) -> str:
    """The installed release; "" where the library is not there."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


class CorruptedStore:
    """Arrays of images under content keys, as memory-mapped .npy files.

    folder: made when missing; processes may share it. max_gb: the files' size in 10^9 bytes is kept below it by
    removing what was read longest ago, never what some process still holds; 0 keeps nothing. A file that is truncated
    or no array of images is made again; a whole file with changed bytes is not noticed.
    """

    def __init__(self, folder: str | Path, max_gb: float) -> None:
        if not max_gb >= 0:
            raise UserError(f"a store of {max_gb} GB: expected 0 (nothing is kept) or more")
        self.folder = Path(folder)
        self.max_bytes = int(max_gb * 1e9)
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where the images of a key lie. Raises UserError for a key that is no plain name."""
        if not _KEY.fullmatch(key):
            raise UserError(f"{key!r} is no key: expected letters, digits, dots, hyphens and underscores")
        return self.folder / f"{key}.npy"

    def get(self, key: str, make: Callable[[], np.ndarray]) -> Images:
        """The images of a key, read-only; `make()` is called where they are missing, by one process at a time.

        They stay on disk as long as the array, or a view of it, is alive. What does not fit in the store beside the
        images in use is returned without being kept. Raises UserError when `make` gives no uint8 [n, height, width, 3].
        """
        path = self.path(key)
        if (found := _open(path)) is not None:
            return found
        with held(self.folder / "locks" / f"{key}.lock"):
            if (found := _open(path)) is not None:  # another process was quicker
                return found
            made = np.ascontiguousarray(make())
            if made.dtype != np.uint8 or made.ndim != 4 or made.shape[3] != 3:
                raise UserError(f"a store holds uint8 [n, height, width, 3], not {made.dtype} {list(made.shape)}")
            return self._keep(path, made)

    def _keep(self, path: Path, made: Images) -> Images:
        """Write and open again, or hand back as it is where there is no room."""
        with held(self.folder / "locks" / "store.lock"):
            path.unlink(missing_ok=True)  # what could not be opened
            if self._make_room(made.nbytes + 4096):  # the header takes less
                with atomic_path(path) as temporary, temporary.open("wb") as f:
                    np.save(f, made, allow_pickle=False)
                found = _open(path)
                if found is not None:
                    return found
        made.flags.writeable = False
        return made

    def size(self) -> int:
        """Bytes of all files kept."""
        return sum(stat.st_size for _, stat in self._files())

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*.npy"):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()

    def _make_room(self, needed: int) -> bool:
        """Remove what was read longest ago until `needed` bytes fit; False where they cannot."""
        for part in self.folder.glob(".*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > _STALE:
                    part.unlink()
        if needed > self.max_bytes:
            return False
        files = sorted(self._files(), key=lambda entry: entry[1].st_mtime_ns)
        total = sum(stat.st_size for _, stat in files)
        for path, stat in files:
            if total + needed <= self.max_bytes:
                break
            if _remove(path):
                total -= stat.st_size
        return total + needed <= self.max_bytes


def _open(path: Path) -> Images | None:
    """The mapped images, marked as read just now; None where the file is missing, truncated or something else."""
    try:
        with path.open("rb") as f:
            if fcntl is not None:
                # The map keeps a duplicate of this descriptor, and with it the lock, until the last view is gone.
                fcntl.flock(f, fcntl.LOCK_SH)
            major, _ = np.lib.format.read_magic(f)
            header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(f)
            whole = os.fstat(f.fileno()).st_size == f.tell() + int(np.prod(shape, dtype=np.int64))
            if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran or not whole or 0 in shape:
                return None
            images = np.memmap(f, dtype=np.uint8, mode="r", offset=f.tell(), shape=shape)
        with contextlib.suppress(OSError):
            os.utime(path)
        return images
    except (OSError, ValueError):
        return None


def _remove(path: Path) -> bool:
    """Remove a file unless some process holds its images."""
    try:
        if fcntl is None:
            path.unlink()
            return True
        with path.open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        return True
    except FileNotFoundError:
        return True
    except OSError:
        return False
