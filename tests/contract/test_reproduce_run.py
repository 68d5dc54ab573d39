"""A figure of each paper, with the smallest settings, from command line to page; killed once and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from edit_robust.runs.reader import list_runs

LANGUAGE = [
    "at-scale/appendix-rome",
    *("task.order=0,1", "task.n_requests=6", "trajectory.every=3", "hydra/launcher=basic"),
    *("editor.mom2_n_samples=20", "editor.v_num_grad_steps=3", "task.n_corpus=60", "text_tokens=200"),
]
VISION = [
    "at-your-own-risk/figure-3",
    *("editor=rewriting", "layer.index=5", "task.pairs=[grass-snow]", "task.n_validation=16", "task.n_edit=16"),
    *("corruption=fog", "editor.lr=100.0", "editor.num_steps=3", "trajectory.alphas=[0.5,1.0]"),
]


def command(given: list[str], outputs: Path) -> list[str]:
    return [sys.executable, "-m", "edit_robust.cli", "reproduce", *given, "--quick", "--outputs", str(outputs)]


def begin(given: list[str], outputs: Path) -> subprocess.Popen[str]:
    there = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(given, outputs), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=there
    )


def finish(given: list[str], outputs: Path) -> str:
    process = begin(given, outputs)
    said, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return said


def measured(outputs: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in outputs.glob("runs/*/points.jsonl"))


def check_page(outputs: Path, paper: str, name: str) -> str:
    place = outputs / "reproduce" / paper
    with Image.open(place / f"{name}.png") as picture:
        assert min(picture.size) > 300
    assert (place / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    told = json.loads((place / f"{name}.json").read_text())
    assert told["quick"] and set(told["runs"]) == {run.id for run in list_runs(outputs)}
    return (place / "index.html").read_text()


@pytest.mark.thorough
def test_a_figure_of_the_language_paper_is_killed_and_gone_on_with(tmp_path: Path) -> None:
    process = begin(LANGUAGE, tmp_path)
    while measured(tmp_path) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not all(run.complete for run in list_runs(tmp_path)) or len(list_runs(tmp_path)) < 2
    said = finish(LANGUAGE, tmp_path)
    assert "at-scale/appendix-rome: " in said
    runs = list_runs(tmp_path)
    assert len(runs) == 2 and all(run.complete for run in runs)
    assert sum(int(run.status["resumed"]) for run in runs) == 1
    page = check_page(tmp_path, "at-scale", "appendix-rome")
    assert "about 100 to 1000" in page and "0 of 2 walks broke, up to 6 edits" in page
    assert "Quick look: one order of 4" in page and "task.order=0,1" in page
    before = {run.id: (run.path / "records.jsonl").stat().st_mtime_ns for run in runs}
    finish(LANGUAGE, tmp_path)  # finished runs return at once
    assert before == {run.id: (run.path / "records.jsonl").stat().st_mtime_ns for run in list_runs(tmp_path)}


@pytest.mark.slow
def test_a_figure_of_the_vision_paper(tmp_path: Path) -> None:
    finish(VISION, tmp_path)
    page = check_page(tmp_path, "at-your-own-risk", "figure-3")
    assert 'src="figure-3.png"' in page and "Claims, by these runs" in page
    assert "edit-robust reproduce at-your-own-risk/claims-patching" in page  # what is not made yet, and how to make it
