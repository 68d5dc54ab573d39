"""The small CLIP patched in real runs: every figure of patched models is drawn, and the claims are asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.runs import CommandLine, go

from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.figures import RunData, applies, draw_all
from edit_robust.figures.vision import (
    patching,
    patching_alpha,
    patching_corruptions,
    patching_corruptions_task,
    patching_layers,
    patching_shifts,
)
from edit_robust.figures.vision.patching_points import CORRUPTED, WHOLE, points
from edit_robust.report import Drawn, claims_patching, write_report

pytestmark = pytest.mark.slow

FIGURES = (patching_shifts, patching, patching_alpha, patching_corruptions, patching_corruptions_task, patching_layers)
SMALL = (
    *("model=scene-clip", "task=digits", "trajectory=interpolate", "trajectory.alphas=[0.0,0.5,1.0]", "device=cpu"),
    *("task.n_train=64", "task.n_test=32", "task.n_held_out=0", "task.n_original=32", "task.natural=[rendition]"),
    *("task.n_natural=16", "corruption=[fog,contrast]", "shifts.severities=[3]", "editor.batch_size=16"),
    *("editor.epochs=1", "editor.warmup=1", "editor.crop_scale=null", "figures=false", "tracker=none"),
)


def test_every_figure_of_a_patched_clip(say: CommandLine, tmp_path: Path) -> None:
    """One layer and the whole tower, four steps of training each."""
    runs = []
    for own in (("editor=one-layer", "editor.lr=0.005", "layer.index=5"), ("editor=paint", "editor.lr=0.0005")):
        done = go(experiment(compose([*own, *SMALL, f"paths.outputs={tmp_path / 'outputs'}"])))
        runs.append(RunData.of(done))
    table = points(runs)
    assert set(table.place) == {"layer 5", WHOLE} and set(table.alpha) == {0.0, 0.5, 1.0}
    start = table[(table.kind == CORRUPTED) & (table.alpha == 0)].accuracy
    assert start.nunique() == 1 and 0.2 < start.iloc[0] < 1  # both begin at the same unedited model
    assert all(applies(module, runs) for module in FIGURES)
    drawn = Drawn()
    names = [module.NAME for module in FIGURES]
    written = draw_all(runs, tmp_path / "figures", names, ["png"], also=drawn.take)
    assert len(written) == len(FIGURES) and all(path.stat().st_size > 10_000 for path in written)
    assert len(claims_patching.claims(runs)) > 10
    page = write_report(runs, tmp_path / "page", drawn=drawn).read_text()
    assert list(drawn) == names and all(str(drawn[name]["markup"]) in page for name in names)
    assert all(module.TITLE in page for module in FIGURES)
    told = say("report", "--outputs", str(tmp_path / "outputs"), "--claims", str(tmp_path / "claims.md"))
    assert told.code == 0 and "1-LI is above the whole tower" in (tmp_path / "claims.md").read_text()
