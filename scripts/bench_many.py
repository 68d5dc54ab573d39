"""Many edited models asked together, against one at a time: the same answers in a fraction of the processor's time.

Alphas: the change of one projection of CLIP ViT-L/14's image tower (random weights at the true size, 8 images, a block
in the last third) at eleven alphas. What lies below runs once, the projection twice, what lies above eleven times. Full
passes are timed at some of the alphas, and their seconds taken times what is left out.
Whole: a change of every parameter of the same tower; what an alpha costs, in plain forward passes.
Runs: 20 finished runs of scene-cnn's last layer are asked about ImageNet-C's 95 variants, once one by one and once in
one pass over the images, by what `edit-robust evaluate` calls: runs whose change is of rank 1, and such whose change is
a whole matrix, which the layer has to be run with anew for each. Images are not stored, as at ImageNet's size.

Seconds are those of the processor, with one thread. The exit code says whether all is equal and fast enough.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bench_rows import Row, seconds, shown

from edit_robust.config.asking import asking
from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.core import Delta, Dense
from edit_robust.core.allocator import keep_freed_memory
from edit_robust.messages import Ui
from edit_robust.models.vision.clip import Clip
from edit_robust.revisit import revisit, revisit_all
from edit_robust.runner import execute
from edit_robust.runs.reader import Run

ALPHAS = [i / 10 for i in range(11)]
CLASSES = ["dog", "cat", "car", "boat", "house", "tree", "road", "hat"]
#: Edits of the last layer, by what they change: what is not shared is the layer with the change.
EDITS = {"of rank 1": ["editor=low-rank", "editor.restarts=1"], "of whole matrices": ["editor=local-ft"]}
SMALL = ["model=scene-cnn", "task=scene-world", "task.natural=[]", "task.n_search=8", "editor.max_epochs=1"]
ASKED = ["measure=[image-answers]", "corruption=imagenet-c", "shifts.store_gb=0", "figures=false", "threads=1"]


def worst(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest difference of logits, as a share of the largest logit."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max()) / float(b.abs().max()) for a, b in pairs)


def tower() -> Clip:
    """CLIP ViT-L/14 with random weights."""
    torch.manual_seed(0)
    words: dict[str, Any] = {"class_names": CLASSES, "templates": ["a photo of a {}."]}
    return Clip("random", "ViT-L-14", quick_gelu=True, device="cpu", batch_size=8, **words)


def alpha_row(model: Clip, block: int, timed: int) -> Row:
    """Eleven alphas of one projection."""
    layer, x = model.layer_at(block), model.sample(8)
    g = torch.Generator().manual_seed(0)
    change = Dense(0.2 * float(layer.weight.std()) * torch.randn(layer.shape, generator=g))
    delta = Delta({layer.weight_name: change}, model.base)
    model.split_at(layer.name)  # is found out once a run
    found: list[torch.Tensor] = []
    here = seconds(lambda: found.extend(model.logits_along(x, [(delta, ALPHAS)])[0]))
    some = [round(i * 10 / max(1, timed - 1)) for i in range(timed)]
    full: list[torch.Tensor] = []

    def passes() -> None:
        for i in some:
            with model.patched(delta.scale(ALPHAS[i])):
                full.append(model.logits(x))

    before = seconds(passes) * len(ALPHAS) / timed
    off = worst([found[i] for i in some], full)
    moved = float((found[-1] - found[0]).abs().max()) / float(found[0].abs().max())
    what = f"11 alphas of {layer.name.removeprefix('visual.transformer.')} of ViT-L/14 (timed at {timed})"
    equal = f"logits to {off:.0e}, which the edit moves by {moved:.0e}"
    return Row(what, 8, before, here, before / here, 3.0, equal, not off <= 1e-5 < moved)


def whole_row(model: Clip) -> Row:
    """Two alphas of a change of everything; the ratio is that of plain passes to them."""
    x, alphas = model.sample(8), [0.5, 1.0]
    names = [n for n, p in model.net.named_parameters() if p.requires_grad or n.startswith("visual.")]
    delta = Delta({n: Dense(0.01 * model.matrix(n)) for n in names}, model.base)
    model.split_at(model.first_of(list(delta.terms)))  # is found out once a run
    plain: list[torch.Tensor] = []
    before = seconds(lambda: plain.append(model.logits(x)))
    found: list[torch.Tensor] = []
    here = seconds(lambda: found.extend(model.logits_along(x, [(delta, alphas)])[0])) / len(alphas)
    with model.patched(delta):
        off = worst(found[1:], [model.logits(x)])
    millions = sum(model.param(n).numel() for n in names) // 10**6
    what = f"an alpha of a change of all {millions} M parameters ({here / before:.2f} plain passes)"
    return Row(what, 8, before, here, before / here, 1 / 1.2, f"logits to {off:.0e}", not off <= 1e-5)


def finished(folder: Path, how: list[str], n: int, images: int) -> None:
    """n runs that edited, each with its own learning rate, and asked nothing."""
    sizes = [f"task.n_validation={images}", f"task.n_edit={images // 4}", f"paths.outputs={folder}", "layer.index=9"]
    for i in range(n):
        given = [*SMALL, *sizes, *how, f"editor.lr={0.001 * (i + 1):g}", "measure=[edits]", "tracker=none"]
        given += ["figures=false", "device=cpu", "threads=1"]
        execute(experiment(compose(given)), Ui(quiet=True))


def runs_row(folder: Path, what: str, n: int, images: int) -> Row:
    """n finished runs asked one by one, and in one pass. what: of EDITS."""
    finished(folder / "made", EDITS[what], n, images)
    found: dict[str, list[Run]] = {}

    def ask(name: str, how: Callable[[list[Any]], list[Run]]) -> float:
        shutil.copytree(folder / "made", folder / name)
        runs = [Run(p) for p in sorted((folder / name / "runs").iterdir())]
        given = [asking(run, ASKED, folder / name) for run in runs]
        return seconds(lambda: found.__setitem__(name, how(given)))

    ask("warm", lambda asked: [revisit(asked[0], Ui(quiet=True))])  # compiles the corruptions
    before = ask("alone", lambda asked: [revisit(a, Ui(quiet=True)) for a in asked])
    here = ask("beside", lambda asked: revisit_all(asked, Ui(quiet=True)))
    pairs = list(zip(found["alone"], found["beside"], strict=True))
    same = [(a.path / "records.jsonl").read_bytes() == (b.path / "records.jsonl").read_bytes() for a, b in pairs]
    kept = [all((x == b.right(s)[k]).all() for s in (0, 1) for k, x in a.right(s).items()) for a, b in pairs]
    told = f"{n} runs of scene-cnn, changes {what}, asked about 96 x {images + images // 4} images"
    equal = f"records and outcomes of {sum(map(all, zip(same, kept, strict=True)))} of {n} runs are the same"
    return Row(told, n, before, here, before / here, 8.0, equal, not all(same) or not all(kept))


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """All rows, or those of `args.only`."""
    if not args.only or "runs" in args.only:
        for what in EDITS:
            with tempfile.TemporaryDirectory() as name:
                yield runs_row(Path(name), what, args.runs, args.images)
    if not args.only or {"alphas", "whole"} & set(args.only):
        model = tower()
        if not args.only or "alphas" in args.only:
            yield alpha_row(model, args.block, args.timed)
        if not args.only or "whole" in args.only:
            yield whole_row(model)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="some of: runs, alphas, whole")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--images", type=int, default=64, help="of the original task; a quarter as many of the edit")
    parser.add_argument("--block", type=int, default=20, help="of ViT-L/14's 24")
    parser.add_argument("--timed", type=int, default=3, help="at how many of the eleven alphas full passes are timed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as runs do, and for both sides
    return shown(list(rows(args)), 1, "otherwise: one at a time")


if __name__ == "__main__":
    raise SystemExit(main())
