"""How much faster images are asked than in the naive loop: both measured in one run, with the same answers.

VGG16 at block 10: 8 edits x 11 alphas on 19 corruptions. The naive loop corrupts every image again for every edited
model, and runs the whole network. It is measured on `--naive-edits` of the 8 edits, and its seconds are taken times
what is left out; the fast path does everything.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from edit_robust.core import Delta, Dense
from edit_robust.models.classifier import Classifier
from edit_robust.shifts import ALL, corrupt, seed_of

CONSOLE = Console(highlight=False)
ALPHAS = [i / 10 for i in range(11)]


def edits(model: Classifier, block: int, n: int) -> list[Delta]:
    """Random changes of a block's weights, a tenth of their size."""
    layer = model.layer_at(block)
    g = torch.Generator().manual_seed(0)
    size = 0.1 * float(layer.weight.std())
    return [
        Delta({layer.weight_name: Dense(size * torch.randn(layer.shape, generator=g))}, model.base) for _ in range(n)
    ]


def pictures(n: int, size: int) -> list[np.ndarray]:
    """Smooth random images, uint8 [size, size, 3]."""
    g = torch.Generator().manual_seed(1)
    small = torch.rand(n, 3, 14, 14, generator=g)
    big = torch.nn.functional.interpolate(small, (size, size), mode="bicubic").clamp(0, 1)
    return list((big * 255).byte().permute(0, 2, 3, 1).numpy())


def seed(i: int, name: str) -> int:
    return seed_of("bench", str(i), name, 3)


def naive(model: Classifier, images: list[np.ndarray], deltas: list[Delta]) -> dict[tuple[int, float, str], np.ndarray]:
    """Every edited model on its own: corrupt, change the weights, run everything."""
    found = {}
    for e, delta in enumerate(deltas):
        for alpha in ALPHAS:
            with model.patched(delta.scale(alpha)):
                for name in ALL:
                    shown = [corrupt(x, name, 3, seed(i, name)) for i, x in enumerate(images)]
                    found[e, alpha, name] = model.logits(model.normalise(shown)).numpy()
    return found


def together(
    model: Classifier, images: list[np.ndarray], deltas: list[Delta]
) -> dict[tuple[int, float, str], np.ndarray]:
    """A batch is corrupted once and every edited model answers it."""
    found = {}
    for name in ALL:
        shown = [corrupt(x, name, 3, seed(i, name)) for i, x in enumerate(images)]
        logits = model.panel(model.normalise(shown), [(d, ALPHAS) for d in deltas])
        for e, some in enumerate(logits):
            for alpha, answer in zip(ALPHAS, some, strict=True):
                found[e, alpha, name] = answer.numpy()
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--edits", type=int, default=8)
    parser.add_argument("--naive-edits", type=int, default=1, help="how many of them the naive loop is timed on")
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = Classifier("random", args.model)
    images, deltas = pictures(args.images, model.size), edits(model, args.block, args.edits)
    model.spine(model.layer_at(args.block).name)  # found once a run, and warms up both
    for name in ALL:
        corrupt(images[0], name, 3)
    start = time.perf_counter()
    fast = together(model, images, deltas)
    seconds = time.perf_counter() - start
    some = max(1, min(args.naive_edits, args.edits))
    start = time.perf_counter()
    slow = naive(model, images, deltas[:some])
    plain = (time.perf_counter() - start) * args.edits / some
    worst = max(float(np.abs(slow[k] - fast[k]).max()) for k in slow)
    same = np.mean([(slow[k].argmax(-1) == fast[k].argmax(-1)).mean() for k in slow])
    table = Table("what", "naive", "fast", "ratio", "asked for", "equal?", box=None)
    table.add_row(
        f"{model.name}, block {args.block}: {args.edits} edits x {len(ALPHAS)} alphas x {len(ALL)} corruptions",
        f"{plain:.1f} s" + (f" (of {some} x {args.edits // some})" if some < args.edits else ""),
        f"{seconds:.1f} s",
        f"{plain / seconds:.1f} x",
        "8 x",
        f"{100 * same:.1f} % of answers, logits to {worst:.0e}",
    )
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
