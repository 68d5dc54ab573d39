"""Processor seconds of the runs of `edit-robust reproduce`, as edit_robust/reproduce/measured.yaml has them.

Reads the statuses of finished runs in an outputs folder where items were made, one thread each, and prints a line for
each family and editor: the mean over runs. What a model needs once (MEND's training) counts for every run that did it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edit_robust.reproduce.catalogue import BUILTIN, items
from edit_robust.reproduce.plan import Plan
from edit_robust.runs.reader import Run


def found(outputs: Path, quick: bool) -> dict[tuple[str, str], dict[str, float]]:
    """(family, editor) -> run -> its processor seconds."""
    out: dict[tuple[str, str], dict[str, float]] = {}
    for item in items():
        for job in Plan(item, BUILTIN, quick).jobs:
            run = Run(outputs / "runs" / job.id)
            seconds = run.status.get("processor_seconds") if run.complete else None
            if seconds:
                editor = str(run.config["editor"]["name"])
                out.setdefault((item.family.name, editor), {})[job.id] = sum(seconds.values())
    return out


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    for (family, editor), runs in found(args.outputs, args.quick).items():
        mean = sum(runs.values()) / len(runs)
        what = f"family: {family}, quick: {str(args.quick).lower()}, editor: {editor}"
        print(f"  - {{{what}, seconds: {mean:.0f}, n: {len(runs)}, how: measured}}")


if __name__ == "__main__":
    main()
