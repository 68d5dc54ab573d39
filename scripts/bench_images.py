"""How much faster classifiers are evaluated and edited than in the naive loop: both in one run, with the same logits.

Moments: scene-cnn, one product of matrices a batch, against a pixel at a time.
Grid: low-rank edits of scene-cnn, all learning rates from all starts side by side, against one after another through
the whole network.
Lines: VGG16 at block 10, 8 edits x 11 alphas on 19 corruptions. The naive loop corrupts every image again for every
edited model, and runs the whole network. It is timed on one edit at `--naive-alphas` places, and its seconds are taken
times what is left out; the fast path does everything.
Alphas: a change of every parameter of ResNet18 at four alphas, a batch of 16: edited weights, made once, take the place
of the model's, against copying and adding them each time; an alpha in multiples of a plain forward pass.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from edit_robust.core import Delta, Dense
from edit_robust.core.allocator import keep_freed_memory
from edit_robust.core.work import Workspace
from edit_robust.editors.vision.helpers.features import LabelledFeatures, prefix_features
from edit_robust.editors.vision.helpers.moments import image_moments, pixels, width
from edit_robust.editors.vision.helpers.options import GRID, Training
from edit_robust.editors.vision.helpers.pairs import image_pairs
from edit_robust.editors.vision.helpers.selection import selection
from edit_robust.editors.vision.helpers.side_by_side import LayerInputs, LowRankProblem, OutputTarget, optimise
from edit_robust.models.vision.classifier import Classifier
from edit_robust.shifts import ALL, corrupt, seed_of
from edit_robust.tasks.vision.scene_world import SceneWorldTask

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


def naive(
    model: Classifier, images: list[np.ndarray], deltas: list[Delta], alphas: list[float]
) -> dict[tuple[int, float, str], np.ndarray]:
    """Every edited model on its own: corrupt, change the weights, run everything."""
    found = {}
    for e, delta in enumerate(deltas):
        for alpha in alphas:
            with model.patched(delta.scale(alpha)):
                for name in ALL:
                    shown = [corrupt(x, name, 3, seed(i, name)) for i, x in enumerate(images)]
                    found[e, alpha, name] = model.logits(model.normalise(shown)).numpy()
    return found


def together(
    model: Classifier, images: list[np.ndarray], deltas: list[Delta]
) -> dict[tuple[int, float, str], np.ndarray]:
    """A batch is corrupted once and classified by every edited model."""
    found = {}
    for name in ALL:
        shown = [corrupt(x, name, 3, seed(i, name)) for i, x in enumerate(images)]
        logits = model.logits_along(model.normalise(shown), [(d, ALPHAS) for d in deltas])
        for e, some in enumerate(logits):
            for alpha, one in zip(ALPHAS, some, strict=True):
                found[e, alpha, name] = one.numpy()
    return found


def row_of_moments(table: Table, n: int) -> None:
    """Second moments of a layer's inputs over n images."""
    model, task = Classifier("builtin:scene-cnn"), SceneWorldTask(n_moments=n)
    images, name = task.moment_images(), model.layer_at(5).name
    network, layer = model.split_at(name), model.layers[name]
    load = [images.load(i) for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        work = Workspace(Path(folder))
        start = time.perf_counter()
        fast = image_moments(model, name, images, n, work).second
        seconds = time.perf_counter() - start
    start = time.perf_counter()
    d = width(layer)
    total, count = torch.zeros(d, d, dtype=torch.float64), 0
    with torch.no_grad():
        for image in load:
            for k in pixels(layer, network.prefix(model.see([image])).input)[0]:
                total += torch.outer(k, k)
                count += 1
    plain = time.perf_counter() - start
    error = float((total / count - fast).norm() / fast.norm())
    what = f"second moments of scene-cnn's block 5, {n} images"
    table.add_row(what, f"{plain:.2f} s", f"{seconds:.2f} s", f"{plain / seconds:.1f} x", "", f"to {error:.0e}")


def row_of_grid(table: Table, steps: int, restarts: int) -> None:
    """Low-rank edits: every learning rate from every start."""
    asked = SceneWorldTask(pairs="grass-snow").requests()[0]
    how, found, seconds = Training(GRID, steps), [], []
    for fast in (True, False):
        model = Classifier("builtin:scene-cnn", fast=fast)
        layer, end = model.layer_at(5), model.blocks[5].end
        network, pairs = model.split_at(layer.name), image_pairs(model, [asked.x])
        g = torch.Generator().manual_seed(0)
        start = time.perf_counter()
        train = LabelledFeatures(prefix_features(model, network, pairs.edited), pairs.labels)
        edited = LayerInputs.of(layer, train.features, model.batch_size)
        clean = LayerInputs.of(layer, prefix_features(model, network, pairs.clean), model.batch_size)
        chosen = selection(model, network, [asked], pairs, how)
        v = torch.randn(restarts, edited.summed.shape[1], 1, generator=g) / edited.summed.shape[1] ** 0.5
        u = v.new_zeros(restarts, layer.shape[0], 1)
        goal = OutputTarget(edited, end, None, clean)
        problem = LowRankProblem(layer, network, goal, train, chosen, model.batch_size)
        if fast:
            found.append(optimise(problem, how, (u, v), True))
        else:
            each = [(Training((lr,), steps), (u[i : i + 1], v[i : i + 1])) for lr in GRID for i in range(restarts)]
            found.append([optimise(problem, one, start_at, True)[0] for one, start_at in each])
        seconds.append(time.perf_counter() - start)
    same = [
        (a is None and b is None) or (a and b and (a.step, a.accuracy) == (b.step, b.accuracy))
        for a, b in zip(*found, strict=True)
    ]
    table.add_row(
        f"low-rank edits of scene-cnn's block 5: {len(GRID)} rates x {restarts} starts, {steps} steps",
        f"{seconds[1]:.1f} s", f"{seconds[0]:.1f} s", f"{seconds[1] / seconds[0]:.1f} x", "",
        f"{sum(map(bool, same))} of {len(same)} runs end alike",
    )  # fmt: skip


def row_of_lines(table: Table, args: argparse.Namespace) -> None:
    """Many edited models under all corruptions."""
    model = Classifier("random", args.model)
    images, deltas = pictures(args.images, model.size), edits(model, args.block, args.edits)
    model.split_at(model.layer_at(args.block).name)  # found once a run, and warms up both
    for name in ALL:
        corrupt(images[0], name, 3)
    start = time.perf_counter()
    fast = together(model, images, deltas)
    seconds = time.perf_counter() - start
    some = ALPHAS[:: len(ALPHAS) // args.naive_alphas][: args.naive_alphas]
    times = args.edits * len(ALPHAS) / len(some)
    start = time.perf_counter()
    slow = naive(model, images, deltas[:1], some)
    plain = (time.perf_counter() - start) * times
    worst = max(float(np.abs(slow[k] - fast[k]).max()) for k in slow)
    same = np.mean([(slow[k].argmax(-1) == fast[k].argmax(-1)).mean() for k in slow])
    table.add_row(
        f"{model.name}, block {args.block}: {args.edits} edits x {len(ALPHAS)} alphas x {len(ALL)} corruptions",
        f"{plain:.1f} s ({plain / times:.1f} s measured)",
        f"{seconds:.1f} s",
        f"{plain / seconds:.1f} x",
        "8 x",
        f"{100 * same:.1f} % of answers, logits to {worst:.0e}",
    )


def row_of_alphas(table: Table, repeat: int = 5) -> None:
    """A global change at several alphas; the least of several times."""
    model, alphas = Classifier("random", "resnet18", input_size=224, batch_size=16), [0.25, 0.5, 0.75, 1.0]
    g = torch.Generator().manual_seed(0)
    names = [n for n, _ in model.net.named_parameters()]
    delta = Delta({n: Dense(0.001 * torch.randn(model.matrix(n).shape, generator=g)) for n in names}, model.base)
    x = model.sample(16)

    def least(run: Callable[[], Any]) -> tuple[float, Any]:
        best, found = float("inf"), None
        for _ in range(repeat):
            start = time.perf_counter()
            found = run()
            best = min(best, time.perf_counter() - start)
        return best / len(alphas), found

    forward, _ = least(lambda: [model.logits(x) for _ in alphas])

    def copied() -> list[torch.Tensor]:
        found = []
        for a in alphas:
            with model.patched(delta.scale(a)):
                found.append(model.logits(x))
        return found

    slow, theirs = least(copied)
    with model.at_base({}):
        fast, ours = least(lambda: model.logits_along(x, [(delta, alphas)])[0])
    same = all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    what = f"an alpha of a change of all {sum(p.numel() for p in model.net.parameters()) // 10**6} M parameters"
    share = f"{fast / forward:.2f} forward passes (copied: {slow / forward:.2f})"
    table.add_row(what, f"{slow:.2f} s", f"{fast:.2f} s", f"{slow / fast:.1f} x", share, "to the bit" if same else "no")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--edits", type=int, default=8)
    parser.add_argument("--naive-alphas", type=int, default=4, help="on how many, of one edit, the naive loop is timed")
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as runs do, and for both sides
    table = Table("what", "naive", "fast", "ratio", "asked for", "equal?", box=None)
    row_of_moments(table, 64)
    row_of_grid(table, 20, 4)
    row_of_alphas(table)
    row_of_lines(table, args)
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
