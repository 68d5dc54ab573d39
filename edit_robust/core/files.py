"""Files that are either whole or absent, and hashes of what a path holds."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """Hash of a file's or a folder's content that does not depend on where it lies."""
    path = Path(path)
    h = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for f in files:
        size = f.stat().st_size
        h.update(f"{f.relative_to(path) if path.is_dir() else ''}:{size}:".encode())
        if len(files) > _MANY:
            continue
        with f.open("rb") as stream:
            if size <= _WHOLE:
                while chunk := stream.read(1 << 20):
                    h.update(chunk)
            else:
                h.update(stream.read(_SPAN))
                stream.seek(-_SPAN, os.SEEK_END)
                h.update(stream.read(_SPAN))
    return h.hexdigest()[:16]
