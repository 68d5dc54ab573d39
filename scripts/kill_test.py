"""Kill a run with SIGKILL at random moments, run the command again, and compare its records with an unbroken run's.

    python scripts/kill_test.py --runs 10 -- editor=rome task.n_requests=25

Each trial starts the run anew, kills it at random moments within its usual length, runs the same command to its end
and compares records.jsonl byte by byte (records hold no times) and every kept change of the weights to the bit.
Exits with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEFAULT = ["editor=rome", "task.n_requests=25", "trajectory.every=5"]


def start(overrides: list[str], outputs: Path) -> subprocess.Popen[bytes]:
    """The command in a process of its own, silent."""
    given = [*overrides, f"paths.outputs={outputs}", "tracker=none", "figures=false"]
    command = [sys.executable, "-m", "edit_robust.cli", "run", *given]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run ended with code {process.returncode}: {err.decode()[-2000:]}")


def results(outputs: Path) -> tuple[bytes, list[str]]:
    """Records to the byte, and every kept change to the bit."""
    from edit_robust.core import Delta

    (run,) = (outputs / "runs").iterdir()
    digests = [Delta.load(p).digest() for p in sorted((run / "deltas").glob("*.safetensors"))]
    return (run / "records.jsonl").read_bytes(), digests


def points(outputs: Path) -> int:
    found = list(outputs.glob("runs/*/points.jsonl"))
    return found[0].read_bytes().count(b"\n") if found else 0


def kill(overrides: list[str], outputs: Path, chance: random.Random, seconds: float) -> int:
    """Start the command, kill it at a random moment, and say how many points it had measured by then.

    Most of a short run is starting Python, so half of the moments count from the first measured point.
    """
    before = points(outputs)
    process = start(overrides, outputs)
    if chance.random() < 0.5:
        while process.poll() is None and points(outputs) == before:
            time.sleep(0.01)
    time.sleep(chance.uniform(0, seconds))
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return points(outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="how many runs are killed (default: 10)")
    parser.add_argument("--kills", type=int, default=1, help="how often each of them is killed (default: once)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "overrides", nargs="*", default=DEFAULT, help=f"the run's options (default: {' '.join(DEFAULT)})"
    )
    args = parser.parse_args()
    chance = random.Random(args.seed)
    differ = 0
    with tempfile.TemporaryDirectory(prefix="kill-test-") as folder:
        whole = Path(folder) / "whole"
        begin = time.monotonic()
        finish(start(args.overrides, whole))
        seconds = time.monotonic() - begin
        expected = results(whole)
        lines, last = expected[0].count(b"\n"), points(whole)
        print(f"unbroken: {lines} records, {last} points, {seconds:.1f} s", flush=True)
        for trial in range(1, args.runs + 1):
            outputs = Path(folder) / "killed"
            at = [kill(args.overrides, outputs, chance, seconds / args.kills) for _ in range(args.kills)]
            finish(start(args.overrides, outputs))
            same = results(outputs) == expected
            differ += not same
            print(f"run {trial}: killed at points {at} of {last}: {'equal' if same else 'DIFFERENT'}", flush=True)
            shutil.rmtree(outputs)
    print(f"{args.runs - differ} of {args.runs} killed runs ended with the records of the unbroken run")
    raise SystemExit(1 if differ else 0)


if __name__ == "__main__":
    main()
