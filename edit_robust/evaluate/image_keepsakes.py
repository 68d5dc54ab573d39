"""What is kept beside the numbers of a run on images: the first training pairs, and what reference models reach."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edit_robust.core.data import ImageRequest
from edit_robust.core.files import atomic_path, write_text

if TYPE_CHECKING:
    from edit_robust.models.base import LogitsAlong

PAIRS = 3  # of each request


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
