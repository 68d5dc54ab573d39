"""How much faster the corruptions are than imagecorruptions': both in one process, on one thread, on the same image.

imagecorruptions does not run on current libraries as it is; tests/helpers/imagecorruptions_repaired.py brings it to run
without changing its code. Each time is the best of some calls, in seconds of the processor. The exit code says whether
every image is equal bit for bit, and the whole as fast as `FLOOR` asks; glass_blur, whose original is a loop in Python,
does not count towards it.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before numpy and cv2 start their threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
from rich.console import Console
from rich.table import Table

from edit_robust.shifts import ALL, corrupt

TESTS = Path(__file__).resolve().parent.parent / "tests"
#: How many times as fast all corruptions but glass_blur must be, together.
FLOOR = 3.5


def reference() -> Callable[[np.ndarray, str, int, int], np.ndarray]:
    """imagecorruptions, repaired from outside. Exits with a line where that is not to be had."""
    if not (TESTS / "helpers" / "imagecorruptions_repaired.py").is_file():
        raise SystemExit(f"{TESTS} with helpers/imagecorruptions_repaired.py is needed: run this from a checkout")
    sys.path.insert(0, str(TESTS))
    from helpers import imagecorruptions_repaired as repaired  # type: ignore[import-not-found]

    try:
        repaired.load()
    except repaired.Unrepairable as e:
        raise SystemExit(f"imagecorruptions cannot be measured here: {e}") from None
    return repaired.reference  # type: ignore[no-any-return]


def picture(size: int) -> np.ndarray:
    """uint8 [size, size, 3]: colour ramps with a bit of noise, as busy as a photograph."""
    y, x = np.mgrid[:size, :size] * (255 / size)
    noise = np.random.RandomState(0).normal(size=(size, size, 3)) * 20
    return np.asarray(np.clip(np.stack([x, y, (x + y) / 2], -1) + noise, 0, 255).astype(np.uint8))


def best_of(repeats: int, action: Callable[[], Any]) -> float:
    """Milliseconds of the fastest call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def bench(
    size: int = 224, names: Sequence[str] = ALL, severities: Sequence[int] = (1, 2, 3, 4, 5), repeats: int = 3
) -> list[dict[str, Any]]:
    """One row a corruption: name, old and new milliseconds over the severities, ratio, equal (bit for bit).

    The slow original of glass_blur is run once.
    """
    import cv2

    old, image = reference(), picture(size)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    rows: list[dict[str, Any]] = []
    try:
        for name in names:
            before = after = 0.0
            equal = True
            for severity in severities:
                args = (image, name, severity, 0)
                equal &= np.array_equal(corrupt(*args), old(*args))  # also compiles, and opens what is opened once
                before += best_of(1 if name == "glass_blur" else repeats, lambda a=args: old(*a))  # type: ignore[misc]
                after += best_of(repeats, lambda a=args: corrupt(*a))  # type: ignore[misc]
            rows.append({"name": name, "old": before, "new": after, "ratio": before / after, "equal": bool(equal)})
    finally:
        cv2.setNumThreads(threads)
    return rows


def main() -> int:
    """Print the table; 1 where an image differs or the whole is too slow, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=224, help="side of the image in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="calls of which the fastest counts")
    args = parser.parse_args()
    rows = bench(args.size, repeats=args.repeats)
    title = f"one image of {args.size} x {args.size}, 1 thread, CPU milliseconds over 5 severities"
    table = Table("corruption", "imagecorruptions", "edit-robust", "ratio", "bit-equal", title=title)
    for row in rows:
        equal = "yes" if row["equal"] else "NO"
        table.add_row(row["name"], f"{row['old']:.1f}", f"{row['new']:.2f}", f"{row['ratio']:.1f}x", equal)
    old, new = sum(r["old"] for r in rows), sum(r["new"] for r in rows)
    table.add_section()
    table.add_row("all", f"{old:.1f}", f"{new:.2f}", f"{old / new:.1f}x", "")
    rest = [r for r in rows if r["name"] != "glass_blur"]
    old, new = sum(r["old"] for r in rest), sum(r["new"] for r in rest)
    table.add_row("all but glass_blur", f"{old:.1f}", f"{new:.2f}", f"{old / new:.1f}x (floor {FLOOR}x)", "")
    Console().print(table)
    return int(old / new < FLOOR or not all(row["equal"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
