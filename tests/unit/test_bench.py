"""The benchmark of language models, on very little: both sides give the same results, and what is wrong is noticed."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import bench_rows
from bench_rows import Row, World, measure, shown


@pytest.mark.slow
def test_both_sides_agree(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_rows, "peak", lambda width: 1e11)
    before = torch.get_num_threads()
    rows = measure(golden, Namespace(values=1, past=2, edits=3, only=["values", "questions", "sequence"]))
    assert torch.get_num_threads() == before
    assert len(rows) == 7 and not any(row.wrong for row in rows)
    assert [row.before is None for row in rows] == [False, True, False, True, False, True, False]
    assert all(row.here > 0 and row.ratio > 0 and row.floor > 0 for row in rows)


def test_what_is_unequal_or_too_slow_fails(capsys: pytest.CaptureFixture[str]) -> None:
    good = Row("a thing", 3, 4.0, 1.0, 4.0, 2.0, "equal to 1e-6")
    share = Row("of the peak", 1, None, 1.0, 0.4, 0.3, "40 of 100 GFLOP/s")
    assert shown([good, share], 1) == 0
    assert "1 thread; CPU seconds" in capsys.readouterr().out
    assert shown([good, replace(good, wrong=True)], 2) == 1
    assert "not equal: equal to 1e-6" in capsys.readouterr().out.replace("\n", " ")
    assert shown([replace(share, ratio=0.2)], 1) == 1
    assert "20 % is below the floor of 30 %" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.slow
def test_the_reference_side_notices_a_wrong_value(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tolerance that nothing fails would say nothing."""
    monkeypatch.setattr(bench_rows, "peak", lambda width: 1e11)
    world = World.of(golden, 2)
    real = bench_rows.optimise_values

    def off(*args: object, **options: object) -> object:
        values = real(*args, **options)  # type: ignore[arg-type]
        return replace(values, value=1.01 * values.value)

    monkeypatch.setattr(bench_rows, "optimise_values", off)
    first, _ = bench_rows.value_rows(world, 4, 1, "")
    assert first.wrong
