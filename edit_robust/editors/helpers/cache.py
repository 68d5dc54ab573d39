"""Files that are computed once and shared by all runs: second moments, and what editors learn.

A file's name is a hash of what it was computed from, so that it is never used for anything else. It is written in one
step, under a lock, with a .json file beside it that tells where it comes from.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edit_robust.core import UserError
from edit_robust.core.files import atomic_path, write_text
from edit_robust.core.locks import held
from edit_robust.core.work import Workspace

#: What reading a damaged .npz file raises.
UNREADABLE = (TypeError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def key_digest(key: Mapping[str, Any]) -> str:
    """A hash of the names and values that something was computed from."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def locked(locks: Iterable[Path]) -> Iterator[None]:
    """Inside the block no other process holds any of the locks.

    They are taken in the order of their names: two processes that want some of the same locks never wait for each
    other in a circle.
    """
    with ExitStack() as taken:
        for lock in sorted(set(locks)):
            lock.parent.mkdir(parents=True, exist_ok=True)
            taken.enter_context(held(lock))
        yield


def make_missing(paths: Iterable[Path], lock: Path | Sequence[Path], make: Callable[[list[Path]], None]) -> None:
    """Let `make` write those of the files that are not there yet; other processes wait for it.

    lock: one for all files, or one for each of them, where other processes may want others of them.
    """
    wanted = list(paths)
    if all(p.exists() for p in wanted):
        return
    with locked([lock] if isinstance(lock, Path) else lock):
        missing = [p for p in wanted if not p.exists()]  # another process may have made them
        if missing:
            make(missing)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], provenance: Mapping[str, Any] | None = None) -> None:
    """Arrays as an .npz file, in one step; where they come from, in a .json file beside it."""
    with atomic_path(path) as temporary, temporary.open("wb") as f:
        np.savez(f, **dict(arrays))  # type: ignore[arg-type]
    if provenance is not None:
        write_text(path.with_suffix(".json"), json.dumps(dict(provenance), indent=1))


def read_arrays(path: Path, names: Iterable[str], what: str) -> list[Tensor]:
    """Arrays of a stored .npz file as tensors. UserError, calling the file `what`, when it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as f:
            return [torch.from_numpy(f[n]) for n in names]
    except UNREADABLE as e:
        raise UserError(f"the stored {what} {path} cannot be read ({e}); delete it to compute it again") from e


def learned(
    work: Workspace, kind: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Tensors that are learned or large, such as a hypernetwork or a projector: made once, stored once.

    kind: folder under `work.cache`.   key: everything that the result depends on; plain values, for the file's name and
    provenance.   make: computes the tensors where the cache does not have them. They come back on the CPU, in the same
    types and bits. UserError when the stored file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    path = work.cache / kind / f"{key_digest(key)}.safetensors"

    def write(missing: list[Path]) -> None:
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in make().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
        write_text(path.with_suffix(".json"), json.dumps(dict(key), indent=1))

    make_missing([path], path.with_suffix(".lock"), write)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as e:
        raise UserError(f"the stored {kind} {path} cannot be read ({e}); delete it to compute it again") from e
