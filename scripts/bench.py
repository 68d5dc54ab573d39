"""How fast language models are edited and asked, compared with the public implementation's way of doing the same.

That way is what a sensible user would run (`bench_reference.py`): every prompt of a value optimisation in one padded
batch, every question of a record in one padded batch. Both are measured in one process, one after the other, on the
model that travels with the tests; results must agree, and every ratio has a floor: the exit code says so.

With one thread, seconds are those of the processor, which other jobs on the machine lengthen less; with several, those
of the clock.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> int:
    """Measure, print the table, and say whether everything is equal and fast enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, help="a folder laid out as tests/helpers/golden.py unpacks it")
    parser.add_argument("--edits", type=int, default=200, help="edits of the sequence")
    parser.add_argument("--past", type=int, default=300, help="records of the questions")
    parser.add_argument("--values", type=int, default=20, help="value optimisations a layer")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--only", nargs="*", default=[], help="some of: values, questions, sequence, wide")
    args = parser.parse_args()
    import torch
    from bench_rows import measure, shown

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        if args.golden is None:
            from helpers.golden import unpack  # type: ignore[import-not-found]
        rows = measure(args.golden or unpack(Path(folder)), args)
    return shown(rows, args.threads)


if __name__ == "__main__":
    raise SystemExit(main())
