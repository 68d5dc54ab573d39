"""Locks between processes that go with the process that holds them, however it ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from edit_robust.core.errors import UserError


def hard_lock(path: str | Path) -> FileLock:
    """A lock of the operating system (flock), not taken yet.

    A lock that is no more than a file would outlive a killed process and stop every later one, so that there is none
    instead: see `explained`.
    """
    return FileLock(path, fallback_to_soft=False)


@contextmanager
def held(path: str | Path) -> Iterator[None]:
    """Inside the block no other process holds the lock; waits for it. UserError where the file system has no locks."""
    with explained(path):
        lock = hard_lock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Inside the block, a file system without locks makes a UserError that says so."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        raise UserError(
            f"{path}: this file system has no locks ({e.strerror}), without which two processes would do the same "
            "work twice or damage it; give a folder on another one: paths.outputs=FOLDER (NFS: version 4; Lustre: "
            "mounted with -o flock)"
        ) from e
