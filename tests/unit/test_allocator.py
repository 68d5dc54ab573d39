"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from edit_robust.core.allocator import keep_freed_memory
def faults():
    torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

many = faults()
print(many, int(keep_freed_memory()), faults())
"""


@pytest.mark.slow
def test_large_tensors_do_not_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    many, kept, few = map(int, done.stdout.split())
    if not kept:
        pytest.skip("the C library is not glibc")
    assert few * 5 < many
