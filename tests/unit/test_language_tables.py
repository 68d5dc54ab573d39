"""Tables of editors and of autopsies, from what runs have kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from test_figures import sequence
from test_language_figures import finished

from edit_robust.figures import RunData
from edit_robust.report.tables_language import alone_and_in_sequence, distances, of_editors, tables


def examined(folder: Path, order: int, **found: Any) -> RunData:
    """A run whose folder holds the finding of an autopsy."""
    path = folder / str(order)
    path.mkdir()
    (path / "autopsy.json").write_text(json.dumps(found))
    run = sequence(order=order)
    return RunData(run.run_id, run.records, run.config, run.summary, path)


def walks(folder: Path) -> list[RunData]:
    standing = {"perplexity": 4.0, "neighbours": 1.0}
    broken = {"perplexity": None, "neighbours": 0.005}
    found = {"normalised_distance": 3e-4, "normalised_distance_median": 8e-7, "subject": "Xenia", "culprit_edit": 17}
    sides = {
        "unedited": standing,
        "alone": broken,
        "before": standing,
        "after": {"perplexity": 2230.7, "neighbours": 0},
    }
    return [
        examined(folder, 0, culprit_kind="disabling edit", **found, **sides),
        examined(
            folder, 1, culprit_kind="accumulation", **{**found, "culprit_edit": 40}, **{**sides, "alone": standing}
        ),
        examined(folder, 2, culprit_edit=None, culprit_kind=None, normalised_distance_median=None),
    ]


def test_normal_and_disabling_edits(tmp_path: Path) -> None:
    table = distances(walks(tmp_path))
    assert table is not None
    assert table.lines == (("rome", "2", "8.00e-07", "3.00e-04", "375", "1"),), "an accumulation is no disabling edit"


def test_alone_and_in_sequence(tmp_path: Path) -> None:
    table = alone_and_in_sequence(walks(tmp_path))
    assert table is not None and len(table.lines) == 2
    first, second = (dict(zip(table.columns, line, strict=True)) for line in table.lines)
    assert first["edit"] == "17 (Xenia)" and first["kind"] == "disabling edit"
    assert first["perplexity alone"] == "" and first["perplexity after"] == "2,231"
    assert first["neighbours alone"] == "0.5 %" and second["neighbours alone"] == "100.0 %"
    assert second["walk"] == "rome, order 1" and second["kind"] == "accumulation"
    assert table.to_markdown().count("\n") == 4


def test_a_line_an_editor() -> None:
    runs = [finished("ft", 20.0, inflection_edit=31), finished("rome", 60.0, 0), finished("rome", 80.0, 1)]
    table = of_editors(runs)
    assert table is not None
    best = dict(zip(table.columns, table.lines[0], strict=True))
    assert best["editor"] == "rome" and best["runs"] == "2" and best["at the end: all three (S)"] == "70.0 %"
    assert table.lines[1][-1] == "broke at edit 31"
    assert of_editors(runs[1:]) is None and tables([sequence()]) == []
