"""Images of a table have one name each, however its cells spell their paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.errors import fails
from helpers.pictures import clean_of, pair_rows, pairs_task, picture, save, table

from edit_robust.tasks.vision.folders import csv_listing
from edit_robust.tasks.vision.photographs import ClassNames, name_beside
from edit_robust.tasks.vision.segments import table_segments


@pytest.mark.parametrize(
    "spelled", ["a/x.png", "./a/x.png", "a//x.png", "b/../a/x.png", "HERE/a/x.png", "HERE/b/../a/x.png"]
)
def test_spellings_are_one_name(tmp_path: Path, spelled: str) -> None:
    assert name_beside(tmp_path, spelled.replace("HERE", str(tmp_path))) == "a/x.png"


def test_files_elsewhere_keep_their_spelling(tmp_path: Path) -> None:
    for name in (str(tmp_path / "x.png"), "../x.png"):
        assert name_beside(tmp_path / "tables", name) == name


def test_listings(tmp_path: Path) -> None:
    for i in range(2):
        save(tmp_path / "a" / f"{i}.png", picture(i))
    rows = [{"path": f"{tmp_path}/a/0.png", "label": 0}, {"path": "./a/1.png", "label": 1}]
    found = csv_listing(table(tmp_path / "o.csv", rows), None, "task.original")
    assert found.ids == ("a/0.png", "a/1.png") and np.array_equal(found.load("a/1.png"), picture(1))
    fails(
        '"label" is 3, but a/0.png had 0',
        lambda: csv_listing(table(tmp_path / "o.csv", [*rows, {"path": "a/0.png", "label": 3}]), None, "o"),
    )
    half = np.zeros((12, 16), np.uint8)
    half[6:] = 255
    save(tmp_path / "m.png", half)
    rows = [row | {"mask_path": "m.png"} for row in rows]
    path = Path(table(tmp_path / "s.csv", rows))
    assert table_segments(path, ClassNames(("cat", "dog")), "task.originals").ids == ("a/0.png", "a/1.png")


def test_a_photograph_spelled_twice_stays_in_one_split(tmp_path: Path) -> None:
    """Two styles each of ten photographs, the second spelled otherwise: no photograph is trained on and judged by."""
    rows = pair_rows(tmp_path, n=10, styles=2)
    rows = [row | {"path": f"./{row['path']}"} if k % 2 else row for k, row in enumerate(rows)]
    task = pairs_task(tmp_path, rows)
    (request,) = task.requests()
    edit = task.image_sets([request])[1]
    assert not clean_of(request.x.ids) & clean_of(edit.ids) and len(edit) == 10
    assert all(not name.startswith(".") for name in (*request.x.ids, *edit.ids))
