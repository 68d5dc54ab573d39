"""Files that are either whole or absent, and hashes of what a path holds."""

from __future__ import annotations

import csv
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_WHOLE = 64 << 20  # files up to this size are hashed whole, larger ones by size, head and tail
_SPAN = 4 << 20
_MANY = 2000  # a folder of more files is hashed by their names and sizes: reading ImageNet takes minutes


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well, and vanishes otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replace a text file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def content_digest(path: str | Path) -> str:
    """Hash of a file's or a folder's content that does not depend on where it lies.

    A .csv file stands for the files that it names, too, such as the images of a table of pairs.
    """
    path = Path(path)
    h = hashlib.sha256()
    if path.is_dir():
        named = {str(p.relative_to(path)): p for p in sorted(path.rglob("*")) if p.is_file()}
    else:
        named = {"": path} | (files_in_table(path) if path.suffix.lower() == ".csv" else {})
    for name, file in named.items():
        size = file.stat().st_size
        h.update(f"{name}:{size}:".encode())
        if len(named) <= _MANY or not name:
            _hash_file(h, file, size)
    return h.hexdigest()[:16]


def _hash_file(h: Any, file: Path, size: int) -> None:
    with file.open("rb") as stream:
        if size <= _WHOLE:
            while chunk := stream.read(1 << 20):
                h.update(chunk)
        else:
            h.update(stream.read(_SPAN))
            stream.seek(-_SPAN, os.SEEK_END)
            h.update(stream.read(_SPAN))


def files_in_table(path: Path) -> dict[str, Path]:
    """The files that cells of a .csv file name, relative to its folder; a file that is no table names none."""
    found: dict[str, Path] = {}
    with suppress(OSError, ValueError, csv.Error), path.open(encoding="utf-8-sig", newline="") as f:
        for cell in (cell.strip() for row in csv.reader(f) for cell in row):
            if "." in cell and cell not in found:
                with suppress(OSError, ValueError, RuntimeError):  # sentences are no names of files
                    if (file := path.parent / Path(cell).expanduser()).is_file():
                        found[cell] = file
    return found
