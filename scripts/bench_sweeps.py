"""A sweep by joblib with two workers, against the same with one: how many jobs a second, and the same records.

It measures wall time of the whole command, starts included: run it where two cores are idle.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_rows import Row

FLOOR = 1.7


def row(jobs: int = 8, requests: int = 30, workers: int = 2) -> Row:
    """`jobs` runs of ROME on the built-in model, `requests` edits upon edits each, with second moments at hand."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _sweep(place, "first", "seed=1000", 1, 1)  # second moments
        alone, one = _sweep(place, "one", f"seed=range(0,{jobs})", requests, 1)
        together, many = _sweep(place, "many", f"seed=range(0,{jobs})", requests, workers)
    same = one == many and len(one) == jobs
    words = f"records of {len(one)} runs" if same else "the records differ"
    what = f"sweep of {jobs} runs of {requests} ROME edits, {workers} workers against one"
    return Row(what, jobs, alone, together, alone / together, FLOOR, words, not same)


def _sweep(place: Path, name: str, seeds: str, requests: int, workers: int) -> tuple[float, dict[str, bytes]]:
    """-> seconds of the command, and the records of each run. The cache of statistics is shared by all."""
    outputs = place / name
    outputs.mkdir()
    (place / "cache").mkdir(exist_ok=True)
    (outputs / "cache").symlink_to(place / "cache")
    options = [seeds, "editor=rome", f"task.n_requests={requests}", "tracker=none", "figures=false", "device=cpu"]
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}", "threads=1"]
    command = [sys.executable, "-m", "edit_robust.cli", "run", "-m", *launcher, *options, f"paths.outputs={outputs}"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return spent, {path.parent.name: path.read_bytes() for path in outputs.glob("runs/*/records.jsonl")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--requests", type=int, default=30)
    given = parser.parse_args()
    found = row(given.jobs, given.requests)
    print(f"{found.what}: {found.before:.1f} s, {found.here:.1f} s, {found.ratio:.2f}x; {found.equal}")
    raise SystemExit(found.wrong or found.ratio < found.floor)
