"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from edit_robust.core.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(1 << 24)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_large_tensors_do_not_go_back_to_the_system() -> None:
    def faults(how: str) -> tuple[int, int]:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        kept, found = done.stdout.split()
        return int(kept), int(found)

    kept, few = faults("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    _, many = faults("not")
    assert few * 5 < many
