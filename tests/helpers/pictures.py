"""Random pictures, tables of them, and the small sets that the image tasks are tested on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edit_robust.tasks.vision.pairs import Pairs

NAMES = ("cat", "dog", "fire truck", "tank")


def picture(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    """Noise, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    """Write an image; the folder is made, and the path comes back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def table(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write a .csv file with the first row's keys as its header; its name comes back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def class_folders(root: Path) -> Path:
    """The folder val/ with a folder each of cats, dogs and tanks, two images in each."""
    for i, name in enumerate(("cat", "dog", "tank")):
        for j in range(2):
            save(root / "val" / name / f"{j}.png", picture(10 * i + j))
    return root / "val"


def pair_rows(root: Path, n: int = 10, styles: int = 1, **more: Any) -> list[dict[str, Any]]:
    """n clean images with `styles` edited ones each, in folders beside the table."""
    rows = []
    for i in range(n):
        save(root / "clean" / f"{i}.png", picture(i))
        for s in range(styles):
            save(root / "edited" / f"{i}_{s}.png", picture(100 + 10 * i + s))
            values = {k: v(i) if callable(v) else v for k, v in more.items()}
            rows.append({"path": f"clean/{i}.png", "edited_path": f"edited/{i}_{s}.png", "label": i % 4} | values)
    return rows


def pairs_task(root: Path, rows: list[dict[str, Any]], **options: Any) -> Pairs:
    """The task of these pairs; their clean images are the original task's, too."""
    original = table(root / "original.csv", [{"path": r["path"], "label": r["label"]} for r in rows])
    return Pairs(**{"path": table(root / "pairs.csv", rows), "original": original} | options)


def clean_of(ids: Sequence[str]) -> set[str]:
    """The pictures that pairs were made of: what stands before the @ of their ids."""
    return {i.partition("@")[0] for i in ids}


def segments_file(path: Path, labels: Sequence[int], idx: Sequence[int] | None = None, size: int = 8) -> Path:
    """A file of segmentations: image i is random, its mask the lower half."""
    n = len(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    masks = np.zeros((n, 1, size, size), np.uint8)
    masks[:, :, size // 2 :] = 1
    imgs = np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    held = {"imgs": imgs, "masks": masks, "labels": np.asarray(labels)}
    if idx is not None:
        held["idx"] = np.asarray(idx)
    if path.suffix == ".npz":
        np.savez(path, **held)
    else:
        torch.save({k: torch.from_numpy(v) for k, v in held.items()}, path)
    return path
