"""A run in a process of its own is killed at random moments; the same command ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import go, options, override, prepared

from edit_robust.core import Delta
from edit_robust.models.language.causal_lm import CausalLM


def start(given: list[str], outputs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edit_robust.cli", "run", *given, f"paths.outputs={outputs}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(given: list[str], outputs: Path) -> tuple[bytes, list[str]]:
    """Run the command to its end; records to the byte (they hold no times), and every kept change to the bit."""
    process = start(given, outputs)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()
    return kept(outputs)


def kept(outputs: Path) -> tuple[bytes, list[str]]:
    """Records and changes of the only run there."""
    (run,) = (outputs / "runs").iterdir()
    changes = [Delta.load(p).digest() for p in sorted((run / "deltas").glob("*.safetensors"))]
    return (run / "records.jsonl").read_bytes(), changes


def measured(outputs: Path) -> int:
    """How many points a run has measured so far."""
    found = list(outputs.glob("runs/*/points.jsonl"))
    return found[0].read_bytes().count(b"\n") if found else 0


def kill(given: list[str], outputs: Path, at_point: int, seconds: float) -> None:
    """Start the command and kill it `seconds` after it has measured `at_point` points (-1: after it was started)."""
    process = start(given, outputs)
    while at_point >= 0 and measured(outputs) < at_point and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    assert process.poll() is None, "the run ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.thorough
def test_a_killed_process_is_gone_on_with(
    checkpoint: Callable[[str], Path], tiny_model: Callable[[str], CausalLM], facts: Path, tmp_path: Path
) -> None:
    """Killed while it starts, or loads, or prepares; then among its edits; then run to its end.

    The run that it must equal is made in this process, which saves a start."""
    longer = ["editor.v_num_grad_steps=40", "trajectory.every=1", "task.n_requests=10", "text_tokens=2000"]
    given = override(options(checkpoint("gpt2"), facts, tmp_path), *longer)
    given = [o for o in given if not o.startswith("paths.outputs")]
    go(prepared([*given, f"paths.outputs={tmp_path / 'whole'}"], tiny_model("gpt2")))
    whole = kept(tmp_path / "whole")
    assert measured(tmp_path / "whole") == 11
    chance, killed = random.Random(0), tmp_path / "killed"
    kill(given, killed, -1, chance.uniform(0.2, 4))
    kill(given, killed, chance.randint(1, 8), chance.uniform(0, 0.05))
    assert 0 < measured(killed) < 11
    assert finish(given, killed) == whole
