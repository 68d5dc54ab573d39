"""A hundredth of ImageNet's validation images, 500 photographs, asked as a run asks them, against the arithmetic.

What an image costs is measured as `measure_image_scale.py` does, on a few images; then runs are made with the tool,
their edits are asked about all photographs in one pass, and the processor time of that pass is compared.

  2c   edits of a classifier's last layers by two methods, clean and under every variant of ImageNet-C
  4    one layer of CLIP ViT-L/14 at true size (random weights), eleven alphas, clean images
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure_image_scale import ALPHAS, image_seconds, network, photograph, work
from PIL import Image
from rich.console import Console

import edit_robust
from edit_robust.config.asking import asking
from edit_robust.core.allocator import keep_freed_memory
from edit_robust.messages import Ui
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.clip import Clip
from edit_robust.revisit import revisit_all
from edit_robust.runs.reader import Run

CONSOLE = Console(highlight=False)
CLASSES = ["dog", "boat", "bridge", "cup", "tree", "bicycle", "piano", "goose"]
COMMON = ["measure=[edits]", "tracker=none", "figures=false", "device=cpu", "threads=1"]


def photographs(folder: Path, n: int) -> Path:
    """n JPEGs that differ, in a table with labels."""
    rng = np.random.default_rng(0)
    base, rows = photograph(), ["path,label\n"]
    for i in range(n):
        shown = np.roll(base, rng.integers(0, 375, 2), (0, 1)) ^ np.uint8(rng.integers(0, 64))
        Image.fromarray(shown).save(folder / f"{i:05d}.jpg", quality=90)
        rows.append(f"{folder / f'{i:05d}.jpg'},{i % len(CLASSES)}\n")
    table = folder / "photographs.csv"
    table.write_text("".join(rows))
    return table


def pairs(folder: Path) -> Path:
    """Six pairs of a photograph and itself with its lower half white, two of each split."""
    rows = ["path,edited_path,label,split\n"]
    for i, split in enumerate(("train", "search", "val") * 2):
        pixels = np.array(Image.open(folder / f"{i:05d}.jpg"))
        pixels[len(pixels) // 2 :] = 240
        Image.fromarray(pixels).save(folder / f"edited-{i}.png")
        rows.append(f"{folder / f'{i:05d}.jpg'},{folder / f'edited-{i}.png'},{i},{split}\n")
    table = folder / "pairs.csv"
    table.write_text("".join(rows))
    return table


def asked(runs: Sequence[Run], ask: Sequence[str], outputs: Path) -> tuple[float, int]:
    """Processor seconds of asking all in one pass, the loading of the model left out; how many images were asked."""
    loading = 0.0

    def timed(model: Callable[[], Any]) -> Callable[[], Any]:
        def load() -> Any:
            nonlocal loading
            start = time.process_time()
            made = model()
            loading += time.process_time() - start
            return made

        return load

    questions = [replace(q, model=timed(q.model)) for q in (asking(run, ask, outputs) for run in runs)]
    start = time.process_time()
    found = revisit_all(questions, Ui())
    took = time.process_time() - start - loading
    return took, sum(len(right) for right in found[0].right(max(p["step"] for p in found[0].points)).values())


def figure_2c(folder: Path, outputs: Path, n: int, name: str, layers: Sequence[int]) -> str:
    """Two methods, the last layers, every variant."""
    originals = photographs(folder, n)
    given = [
        *("model=timm", f"model.name={name}", "model.path=random", "task=pairs", f"task.path={pairs(folder)}"),
        *(f"task.original={originals}", *COMMON, f"paths.outputs={outputs}", "editor.max_epochs=1"),
    ]
    methods = (["editor=local-ft"], ["editor=low-rank", "editor.restarts=1"])
    runs = [
        edit_robust.run([*given, *method, "editor.lr=0.01", f"layer.index={i}"]) for method in methods for i in layers
    ]
    model = Classifier("random", name, "timm", device="cpu")
    decode, each = image_seconds(model, 3)
    net = network(model, 64)
    del model
    passes = work([net.above[i] for i in layers], len(methods), 1)
    took, images = asked(
        runs, ["measure=[image-answers]", "corruption=imagenet-c", "shifts.store_gb=0", "figures=false"], outputs
    )
    by_rule = images / (1 + 5 * len(each)) * (decode + sum(each.values())) + images * passes * net.seconds
    what = f"{len(runs)} edits of {name}: {images:,} images and variants, {passes:.2f} passes each"
    return verdict(what, took, by_rule)


def figure_4(folder: Path, outputs: Path, n: int, layer: int) -> str:
    """One layer of the image tower, eleven alphas."""
    words: dict[str, Any] = {"class_names": CLASSES, "templates": ["a photo of a {}."]}
    given = [
        *("model=clip-vit-l14", "model.path=random", "model.batch_size=8", f"model.class_names=[{','.join(CLASSES)}]"),
        *("model.templates=['a photo of a {}.']", "task=digits", f"task.original={photographs(folder, n)}"),
        *("task.n_train=8", "task.n_test=8", "task.n_held_out=0", "editor=one-layer", f"layer.index={layer}"),
        *("editor.batch_size=8", "editor.epochs=1", "trajectory=interpolate", *COMMON, f"paths.outputs={outputs}"),
    ]
    run = edit_robust.run(given, quiet=False)
    model = Clip("random", "ViT-L-14", quick_gelu=True, device="cpu", batch_size=8, **words)
    decode, _ = image_seconds(model, 3)
    net = network(model, 8)
    del model
    passes = work([net.above[layer]], 1, ALPHAS)
    took, images = asked([run], ["measure=[image-answers]", "corruption=none", "figures=false"], outputs)
    by_rule = images * (decode + passes * net.seconds)
    return verdict(
        f"{ALPHAS} alphas of ViT-L/14's layer {layer}: {images} images, {passes:.2f} passes each", took, by_rule
    )


def verdict(what: str, took: float, by_rule: float) -> str:
    return (
        f"{what}: {took:,.0f} s of processor time measured, {by_rule:,.0f} s by the arithmetic ({took / by_rule:.2f})"
    )


def main() -> None:
    """Make the photographs and the runs, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=["2c", "4"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--network", default="resnet18", help="of figure 2c, by timm's name")
    parser.add_argument("--layers", type=int, nargs="+", default=[-1, -2, -3], help="the first alone for figure 4")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    start = time.time()
    with tempfile.TemporaryDirectory() as place:
        folder, outputs = Path(place) / "images", Path(place) / "outputs"
        folder.mkdir()
        if args.figure == "2c":
            CONSOLE.print(figure_2c(folder, outputs, args.images, args.network, args.layers))
        else:
            CONSOLE.print(figure_4(folder, outputs, args.images, args.layers[0]))
    CONSOLE.print(f"{time.time() - start:.0f} s of the clock")


if __name__ == "__main__":
    main()
