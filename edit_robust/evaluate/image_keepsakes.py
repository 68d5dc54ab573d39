"""What is kept beside the numbers of a run on images: the first training pairs, what reference models reach, the names
of the classes, and small pictures of the images that the edits put right or wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edit_robust.core.data import ImageRequest
from edit_robust.core.files import atomic_path, write_text
from edit_robust.core.images import ImageSet
from edit_robust.evaluate.image_words import SeveralHeads

if TYPE_CHECKING:
    from edit_robust.models.base import LogitsAlong

PAIRS = 3  # of each request
#: Small pictures: of each kind, set and point; of a run; pixels a side.
FLIPS, KEPT, SIDE = 12, 256, 96


def keep_triples(path: Path, requests: Sequence[ImageRequest], model: LogitsAlong) -> None:
    """The first pairs of every request with their masks, as the model sees them, in triples.npz."""
    pictures: dict[str, np.ndarray] = {}
    for r in requests:
        for k in range(min(PAIRS, len(r.x))):
            pictures[f"{r.id}|clean|{k}"] = model.crop(r.x.clean[k])
            pictures[f"{r.id}|edited|{k}"] = model.crop(r.x.edited[k])
            pictures[f"{r.id}|mask|{k}"] = model.crop_mask(r.x.mask(k)).astype(np.uint8) * 255
    with atomic_path(path / "triples.npz") as temporary, temporary.open("wb") as f:
        np.savez_compressed(f, **pictures)  # type: ignore[arg-type]


def keep_reference(path: Path, task: Any) -> None:
    """Accuracies of unedited reference models, where the task knows any, in reference.json."""
    known = task.reference_accuracies() if hasattr(task, "reference_accuracies") else None
    if known:
        write_text(path / "reference.json", json.dumps(known, indent=1))


def keep_classes(path: Path, task: Any, sets: Sequence[ImageSet], model: LogitsAlong) -> None:
    """Names of the classes by their place among the model's answers, where anybody knows them, in classes.json."""
    words = list(dict.fromkeys(x.words for x in sets if x.words is not None))
    own = getattr(model, "classes", None) or (None if words else getattr(task, "classes", None))
    names = {place: str(name) for place, name in enumerate(own or ())}
    for one in words:
        if isinstance(model, SeveralHeads):
            names |= dict(zip(model.columns(one), one.class_names, strict=True))
    if names:
        write_text(path / "classes.json", json.dumps(names, ensure_ascii=False))


def keep_flips(path: Path, flips: Iterable[tuple[ImageSet, np.ndarray, np.ndarray]], model: LogitsAlong) -> None:
    """Small pictures of images that an edit put right or wrong, as the model sees them, in flips.npz.

    flips: (set, right before bool [n], right now bool [n]); of each the first FLIPS of both kinds are kept, up to KEPT
    pictures a run. A picture stands under `probe|request|shift|position` as the bytes of a WebP file.
    """
    kept: dict[str, np.ndarray] = {}
    if (path / "flips.npz").is_file():
        with np.load(path / "flips.npz", allow_pickle=False) as f:
            kept = {name: f[name] for name in f.files}
    known = len(kept)
    for images, before, now in flips:
        gained, lost = np.flatnonzero(now & ~before)[:FLIPS], np.flatnonzero(before & ~now)[:FLIPS]
        for row in (*gained.tolist(), *lost.tolist()):
            name = f"{images.probe}|{images.request}|{images.shift}|{row}"
            if name not in kept and len(kept) < KEPT:
                kept[name] = small(model.crop(images.load(row)))
    if len(kept) > known:
        with atomic_path(path / "flips.npz") as temporary, temporary.open("wb") as f:
            np.savez_compressed(f, **kept)  # type: ignore[arg-type]


def small(pixels: np.ndarray) -> np.ndarray:
    """A picture of at most SIDE pixels a side as the bytes of a WebP file [n_bytes]."""
    from PIL import Image

    picture, buffer = Image.fromarray(pixels), BytesIO()
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(buffer, format="WEBP", quality=80)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)
