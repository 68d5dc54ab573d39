"""Caches: where they lie, how large they are, and which of it may go because it can be made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edit_robust.core.errors import UserError
from edit_robust.doctor.finding import Finding
from edit_robust.report.numbers import gigabytes
from edit_robust.runs.reader import list_runs

ABOUT = "caches"
#: Folders of outputs/cache, and what making one again takes. What is not named here is shown and never removed.
MADE_AGAIN = {
    "moments": "second moments: passes over the corpus",
    "image-moments": "second moments of images: passes over them",
    "eigenvectors": "null spaces: an eigendecomposition a layer",
    "mend": "MEND's network: its training",
    "norms": "norms of values: value optimisations",
    "corrupted": "corrupted images",
    "clip-heads": "zero-shot heads: passes of the text tower",
}
#: A store that is no cache of ours: shown, never removed.
OTHERS = (
    ("hub", "Hugging Face's downloads", "`hf cache` lists and removes them"),
    ("torch", "torch's downloads", "remove the files there that are not needed"),
)


@dataclass(frozen=True)
class Cache:
    """A folder of outputs/cache that can be removed."""

    path: Path
    size: int
    again: str


def removable(outputs: Path) -> list[Cache]:
    """What `prune` would remove: parts of outputs/cache that a run makes again when it needs them."""
    found = []
    for name, again in MADE_AGAIN.items():
        path = outputs / "cache" / name
        if path.is_dir() and not path.is_symlink() and (size := size_of(path)):
            found.append(Cache(path, size, again))
    return found


def cache_findings(outputs: Path) -> Iterator[Finding]:
    """A line a cache with where it is and how large."""
    own = removable(outputs)
    for one in own:
        yield Finding(ABOUT, one.path.name, "ok", f"{gigabytes(one.size)} in {one.path} ({one.again})")
    if not own:
        yield Finding(ABOUT, "outputs", "ok", f"nothing in {outputs / 'cache'} yet")
    for path in sorted((outputs / "cache").glob("*")) if (outputs / "cache").is_dir() else ():
        if path.name not in MADE_AGAIN and path.is_dir():
            yield Finding(ABOUT, path.name, "ok", f"{gigabytes(size_of(path))} in {path} (is not removed by --prune)")
    for (name, what, mend), path in zip(OTHERS, (hub_folder(), torch_folder()), strict=True):
        if path.is_dir():
            yield Finding(ABOUT, name, "ok", f"{what}: {gigabytes(size_of(path))} in {path} ({mend})")


def prune(outputs: Path) -> int:
    """Remove what `removable` lists; gives back the bytes. Raises UserError while a run is going on."""
    busy = [run.id for run in list_runs(outputs) if run.status.get("status") == "running"]
    if busy:
        raise UserError(f"{busy[0]} is being run and may need its cache: prune when it has ended")
    freed = 0
    for one in removable(outputs):
        shutil.rmtree(one.path)
        freed += one.size
    return freed


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; links to files elsewhere count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
        except OSError:
            continue
    return total


def hub_folder() -> Path:
    """Where Hugging Face keeps what it has downloaded."""
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def torch_folder() -> Path:
    """Where torch keeps what it has downloaded."""
    home = os.environ.get("TORCH_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"
