"""What evaluating edited classifiers takes at ImageNet's size, by arithmetic from what an image costs here.

Measured, in seconds of one processor thread: decoding and cropping a photograph, each of ImageNet-C's 95 variants, one
forward pass of each network, and what share of it lies above each layer (operations). From these come core-hours and
GPU-hours of figures 2c and 4 of arXiv 2303.00046, and the disk that outcomes take. `measure_hundredth.py` compares this
arithmetic with runs.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_many import tower
from bench_rows import seconds
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from edit_robust.core.allocator import keep_freed_memory
from edit_robust.core.image_files import decode_image
from edit_robust.models.vision.classifier import Classifier
from edit_robust.shifts import ALL, corrupt, seed_of

IMAGES, ALPHAS = 50_000, 11
#: Operations a second that a GPU is taken to sustain on these networks in bfloat16. Assumed, not measured here.
SUSTAINED = 1e14
NETWORKS: dict[str, Callable[[], Classifier]] = {
    "vgg16": lambda: Classifier("random", "vgg16", "torchvision", device="cpu"),
    "vit-b16": lambda: Classifier("random", "vit_base_patch16_224", device="cpu"),
    "clip-vit-l14": tower,
}
CONSOLE = Console(highlight=False)


@dataclass(frozen=True)
class Network:
    """seconds, operations: of a forward pass of one image.   above: the share of it above each layer, that included."""

    seconds: float
    operations: float
    above: list[float]


def photograph() -> np.ndarray:
    """A picture as large as ImageNet's are on average, as busy as a photograph."""
    y, x = np.mgrid[:375, :500]
    noise = np.random.RandomState(0).normal(size=(375, 500, 3)) * 12
    ramps = np.stack([x * 255 / 500, y * 255 / 375, (x + y) * 255 / 875], -1)
    return np.asarray(np.clip(ramps + noise, 0, 255).astype(np.uint8))


def image_seconds(model: Classifier, repeat: int) -> tuple[float, dict[str, float]]:
    """Of decoding and cropping a photograph; of every corruption over its five severities."""
    file = io.BytesIO()
    Image.fromarray(photograph()).save(file, "JPEG", quality=90)
    content = file.getvalue()

    def once() -> Any:
        return model.crop(decode_image(io.BytesIO(content), "a photograph"))

    crop = once()
    decode = min(seconds(lambda: [once() for _ in range(10)]) / 10 for _ in range(repeat))
    each = {}
    for name in ALL:
        corrupt(crop, name, 3, 0)  # compiles

        def five(name: str = name) -> None:
            for s in range(1, 6):
                corrupt(crop, name, s, seed_of("scale", "0", name, s))

        each[name] = min(seconds(five) for _ in range(repeat))
    return decode, each


def network(model: Classifier, images: int) -> Network:
    """A forward pass, and its share above each layer."""
    x = model.sample(images)
    took = min(seconds(lambda: model.logits(x)) for _ in range(2)) / images
    order: list[tuple[str, int]] = []
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # operations inside it would not be counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hooks = [
            model.layers[name].module.register_forward_pre_hook(
                lambda m, a, name=name: order.append((name, counter.get_total_flops()))  # type: ignore[misc]
            )
            for name in model.layers
        ]
        model.net(x[:1])
        for h in hooks:
            h.remove()
    torch.backends.mha.set_fastpath_enabled(fused)
    total = counter.get_total_flops()
    ran: dict[str, int] = dict(order)
    return Network(took, float(total), [1 - ran[name] / total for name in model.layers])


def work(shares: list[float], edits: int, alphas: int, whole: int = 0) -> float:
    """Forward passes an image and variant: one up to the last layer, and for every edit and alpha what lies above it.

    edits: of each layer.   whole: edits of everything, which have nothing in common below.
    """
    return 1 + alphas * (edits * sum(shares) + whole)


def figures(decode: float, each: dict[str, float], networks: dict[str, Network], pairs: int) -> Table:
    """Core-hours and GPU-hours of two figures."""
    table = Table(
        "figure", "images x variants", "passes each", "decode, corrupt: core-h", "passes: core-h", "GPU-h", box=None
    )
    corrupting = IMAGES * (decode + sum(each.values())) / 3600
    rows: list[tuple[str, Network, int, float, float]] = []
    for name in ("vgg16", "vit-b16"):
        if name in networks:
            net, what = networks[name], f"2c: {name}, 2 methods x {len(networks[name].above)} layers"
            for many, words in ((pairs, f"{pairs} pairs"), (1, "one pair")):
                rows.append((f"{what} x {words}", net, 96, corrupting, work(net.above, 2 * many, 1)))
    if large := networks.get("clip-vit-l14"):
        what = f"4: ViT-L/14, {len(large.above)} layers and the whole x 11 alphas, one task"
        rows.append((what, large, 1, IMAGES * decode / 3600, work(large.above, 1, ALPHAS, 1)))
    for what, net, variants, ready, passes in rows:
        n = IMAGES * variants
        gpu = n * passes * net.operations / SUSTAINED / 3600
        core = n * passes * net.seconds / 3600
        table.add_row(what, f"{n / 1e6:.2f} M", f"{passes:.0f}", f"{ready:.1f}", f"{core:,.0f}", f"{gpu:,.1f}")
    return table


def disk() -> Table:
    """Outcomes of 50,000 images x 96 variants at a point, as they are written; times eleven alphas."""
    rng = np.random.default_rng(0)
    table = Table("kept", "a point", "11 alphas", box=None)
    wrong = rng.integers(0, 1000, IMAGES, dtype=np.int32)
    for keep in ("right", "answers"):
        arrays: dict[str, np.ndarray] = {}
        for v in range(96):
            right = rng.random(IMAGES) < (0.76 if not v else 0.4)
            arrays[f"original||{v}|right"] = np.packbits(right)
            if not v or keep == "answers":
                arrays[f"original||{v}|pred"] = np.where(right, np.arange(IMAGES, dtype=np.int32) // 50, wrong)
            if keep == "answers":
                arrays[f"original||{v}|logp"] = -rng.exponential(1.5, IMAGES).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "000001.npz"
            with file.open("wb") as f:
                np.savez_compressed(f, **arrays)  # type: ignore[arg-type]
            size = file.stat().st_size
        table.add_row(keep, f"{size / 1e6:.2f} MB", f"{ALPHAS * size / 1e6:.0f} MB")
    return table


def main() -> None:
    """Measure, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--images", type=int, default=4, help="of a timed forward pass")
    parser.add_argument("--pairs", type=int, default=136, help="of figure 2")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    start = time.time()
    networks: dict[str, Network] = {}
    decode, each = 0.0, dict[str, float]()
    for name in args.networks:
        model = NETWORKS[name]()
        if not networks:
            decode, each = image_seconds(model, args.repeat)
            slow = ", ".join(f"{k} {v:.3f}" for k, v in sorted(each.items(), key=lambda kv: -kv[1])[:4])
            CONSOLE.print(f"decode and crop {1000 * decode:.1f} ms; 95 variants {sum(each.values()):.3f} s ({slow} s)")
        found = networks[name] = network(model, args.images)
        shares = " ".join(f"{100 * s:.1f}" for s in found.above)
        CONSOLE.print(
            f"{name}: {found.seconds:.3f} s, {found.operations / 1e9:.1f} G operations; above each layer {shares} %"
        )
        del model
    CONSOLE.print(figures(decode, each, networks, args.pairs))
    CONSOLE.print(disk())
    CONSOLE.print(f"{time.time() - start:.0f} s of the clock")


if __name__ == "__main__":
    main()
