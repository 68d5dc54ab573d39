"""One edit of every image editor on the large networks at their true sizes: seconds, and peak memory of the process.

Random weights and noise for images: what is measured is that it runs, how long a step takes, and what it needs.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edit_robust.config.check import resolved
from edit_robust.config.compose import choices, compose
from edit_robust.config.nodes import build, target_of
from edit_robust.core import ImageRequest
from edit_robust.core.allocator import keep_freed_memory
from edit_robust.core.images import ImageSet, Triples
from edit_robust.core.work import Workspace

#: So little of each option that an editor has.
SHORT = {"lr": 0.001, "check_every": 2, "num_steps": 2, "max_epochs": 2, "restarts": 2}


class Noise:
    """Pairs of noise with the lower half pasted over."""

    def __init__(self, n: int, size: int, n_classes: int) -> None:
        r = np.random.default_rng(0)
        clean = [r.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(n)]
        mask = np.arange(size)[:, None].repeat(size, 1) >= size // 2
        edited = [np.where(mask[..., None], np.uint8(230), x) for x in clean]
        labels = r.integers(0, n_classes, n)
        self.triples = Triples(tuple(map(str, range(n))), clean, edited, labels, [mask] * n)
        self.images = ImageSet("original", self.triples.ids, labels, lambda i: clean[i])

    def requests(self) -> list[ImageRequest]:
        return [ImageRequest("noise", self.triples, None, search=self.triples)]

    def moment_images(self) -> ImageSet:
        return self.images


def one(editor_name: str, model: Any, noise: Noise) -> tuple[float, float]:
    """Seconds and the change's norm."""
    node = resolved(compose([f"editor={editor_name}"]))["editor"]
    short = [f"editor.{option}={value}" for option, value in SHORT.items() if option in node]
    cfg = compose([f"editor={editor_name}", *short])
    editor = build(resolved(cfg)["editor"], "editor")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        layers = [model.layer_at(i).name for i in editor.auto_layers(model.n_layers)]
        state = editor.prepare(model, layers, noise, Workspace(Path(cache)))
        edit = editor.edit(model, noise.requests(), state)
    return time.perf_counter() - start, edit.delta.norm()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["vgg16", "resnet50", "vit-b16"])
    parser.add_argument("--images", type=int, default=8)
    args = parser.parse_args()
    keep_freed_memory()  # as runs do
    table = Table("model", "editor", "seconds", "|dW|", "peak GiB so far", box=None)
    for name in args.models:
        model = build(resolved(compose([f"model={name}", "model.path=random"]))["model"], "model")
        noise = Noise(args.images, model.size, model.n_classes)
        for editor in choices("editor"):
            node = resolved(compose([f"editor={editor}"]))["editor"]
            if not issubclass(target_of(node, "editor").takes, ImageRequest):  # type: ignore[attr-defined]
                continue
            seconds, norm = one(editor, model, noise)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            table.add_row(name, editor, f"{seconds:.1f}", f"{norm:.3g}", f"{peak:.1f}")
            Console(stderr=True).print(name, editor, f"{seconds:.1f} s, {peak:.1f} GiB")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
