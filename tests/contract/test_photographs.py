"""SqueezeNet on photographs that lie beside the repository: several edits are answered in one pass."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.real import needs_data, real
from helpers.runs import go, records
from PIL import Image

from edit_robust.config.asking import asking
from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.messages import Ui
from edit_robust.revisit import revisit, revisit_all
from edit_robust.runs.reader import Run

pytestmark = [pytest.mark.slow, needs_data]

ASK = ["measure=[image-answers]", "corruption=[pixelate]", "shifts.severities=[3]", "figures=false"]
ALONG = ["trajectory=interpolate", "trajectory.alphas=[0.5,1.0]"]
EDITS = (
    ["layer.index=-1", "editor.lr=0.001", *ALONG],
    ["layer.index=-1", "editor.lr=0.01"],
    ["layer.index=-4", "editor.lr=0.001", *ALONG],
)


def photographs(folder: Path, n: int) -> tuple[Path, Path]:
    """Tables of n photographs, and of as many pairs whose lower half is snowed over. Labels of the file start at 1."""
    with real("nips2017/images.csv").open() as f:
        rows = [(r["ImageId"], int(r["TrueLabel"]) - 1) for r in csv.DictReader(f)]
    there = {p.stem: p for p in real("nips2017/images").iterdir()}
    some = [(there[name], label) for name, label in rows if name in there][: 2 * n]
    originals, pairs = folder / "originals.csv", folder / "pairs.csv"
    originals.write_text("path,label\n" + "".join(f"{p},{label}\n" for p, label in some[:n]))
    lines = ["path,edited_path,label,split\n"]
    for i, (path, label) in enumerate(some[n:]):
        pixels = np.array(Image.open(path).convert("RGB"))
        pixels[len(pixels) // 2 :] = (235, 240, 250)
        Image.fromarray(pixels).save(folder / f"{path.stem}-snow.png")
        lines.append(f"{path},{folder / f'{path.stem}-snow.png'},{label},{('train', 'search', 'val')[i % 3]}\n")
    pairs.write_text("".join(lines))
    return originals, pairs


def test_several_edits_of_squeezenet_in_one_pass(tmp_path: Path) -> None:
    weights = real("models/squeezenet1_0_deepcompression.safetensors")
    originals, pairs = photographs(tmp_path, 9)
    given = [
        *("model=torchvision", "model.name=squeezenet1_0", f"model.path={weights}", "model.input_size=160"),
        *("task=pairs", f"task.path={pairs}", f"task.original={originals}", "editor=local-ft", "editor.max_epochs=1"),
        *("measure=[edits]", "tracker=none", "figures=false", "device=cpu", "threads=1", "model.batch_size=8"),
    ]
    for more in EDITS:
        go(experiment(compose([*given, *more, f"paths.outputs={tmp_path / 'alone'}"])))
    shutil.copytree(tmp_path / "alone", tmp_path / "beside")
    asked = {}
    for name in ("alone", "beside"):
        runs = [Run(p) for p in sorted((tmp_path / name / "runs").iterdir())]
        asked[name] = [asking(run, ASK, tmp_path / name) for run in runs]
    alone = [revisit(a, Ui(quiet=True)) for a in asked["alone"]]
    beside = revisit_all(asked["beside"], Ui(quiet=True))
    assert [records(r) for r in beside] == [records(r) for r in alone] and len(alone) == 3
    for run in beside:
        assert run.summary["unedited_original_accuracy"] >= 0.2, "of these weights 56 % is told over all photographs"
        assert {k[2:] for k in run.right(0)} == {("none", 0), ("pixelate", 3)}
    assert len({r.summary["edit_accuracy"] for r in beside} | {records(r) for r in beside}) > 1
