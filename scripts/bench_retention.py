"""The retention matrix from kept changes, against making the edits again: the same matrix, in a fraction of the time.

Run alone it prints one line; `row` is for the table of benchmarks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_rows import Row

from edit_robust.config.asking import asking
from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.evaluate.retention_matrix import HOWS, matrix_of
from edit_robust.messages import Ui
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.revisit import revisit
from edit_robust.runner import execute
from edit_robust.runs.reader import Run

FLOOR = 5.0


def row(n: int = 100, every: int = 10) -> Row:
    """n ROME edits of the built-in model with a check of all past edits every `every`: a walk that makes the edits and
    asks, against one that adds the changes of a finished run and asks. Loading the model counts in neither."""
    model = CausalLM("builtin:fact-gpt", name="fact-gpt", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        given = [f"task.n_requests={n}", f"trajectory.every={every}", "tracker=none", "figures=false", "device=cpu"]
        given += [f"paths.outputs={folder}", "threads=1"]
        walk = _run([*given, "measure=[edits]"], model)  # statistics are cached now
        again, edited = _timed([*given, "measure=[retention]"], model)
        asked = asking(walk, ["measure=[retention]", "figures=false", "threads=1"], Path(folder))
        start = time.perf_counter()
        revisit(replace(asked, model=lambda: model), Ui(quiet=True))
        spent = time.perf_counter() - start
        same = all(_same(Run(walk.path), again, how) for how in HOWS)
    ratio = edited / spent
    words = "every cell of the matrix" if same else "the matrices differ"
    return Row(f"retention matrix of {n} ROME edits", n, edited, spent, ratio, FLOOR, words, not same)


def _run(given: list[str], model: CausalLM) -> Run:
    return execute(replace(experiment(compose(given)), model=lambda: model), Ui(quiet=True))


def _timed(given: list[str], model: CausalLM) -> tuple[Run, float]:
    start = time.perf_counter()
    run = _run(given, model)
    return run, time.perf_counter() - start


def _same(a: Run, b: Run, how: str) -> bool:
    one, other = matrix_of(a, how), matrix_of(b, how)
    assert one is not None and other is not None
    return np.array_equal(one.right, other.right, equal_nan=True) and np.array_equal(one.taught, other.taught)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=100)
    found = row(parser.parse_args().edits)
    print(
        f"{found.what}: {found.before:.1f} s again, {found.here:.1f} s from changes, {found.ratio:.1f}x; {found.equal}"
    )
    raise SystemExit(found.wrong or found.ratio < found.floor)
