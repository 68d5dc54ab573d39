"""Kill a run with SIGKILL at random moments, run the command again, and compare its records with an unbroken run's.

    python scripts/kill_test.py --kills 10 -- editor=rome task.n_requests=25

Each trial starts the run anew, kills it once at a moment between the first sign of life and its usual end, runs the
same command to its end and compares records.jsonl byte by byte (records hold no times) and the final weights' deltas.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how many runs are killed (default: 10)")
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
        for trial in range(args.kills):
            outputs = Path(folder) / "killed"
            # most of a short run is starting Python: half of the moments count from the run folder's appearance
            process = start(args.overrides, outputs)
            if trial % 2:
                while process.poll() is None and not list(outputs.glob("runs/*/points.jsonl")):
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 0.4) * seconds)
            else:
                time.sleep(chance.uniform(0.1, 0.95) * seconds)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            at = points(outputs)
            finish(start(args.overrides, outputs))
            same = results(outputs) == expected
            differ += not same
            print(f"kill {trial + 1}: at point {at} of {last}: {'equal' if same else 'DIFFERENT'}", flush=True)
            shutil.rmtree(outputs)
    print(f"{args.kills - differ} of {args.kills} ended with the records of the unbroken run")
    raise SystemExit(1 if differ else 0)


if __name__ == "__main__":
    main()
