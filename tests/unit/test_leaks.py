"""The leak audit: pictures are told apart by what they show, not by how their files are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.pictures import clean_of, pair_rows, pairs_task, picture, save, table
from PIL import Image

from edit_robust.core.data import ImageRequest
from edit_robust.core.images import ImageSet, Triples
from edit_robust.evaluate.leaks import leaks
from edit_robust.tasks.vision.pairs import Pairs
from edit_robust.tasks.vision.scene_world import SceneWorldTask


def triples(names: dict[str, np.ndarray]) -> Triples:
    clean = list(names.values())
    return Triples(tuple(names), clean, [255 - x for x in clean], np.zeros(len(clean), np.int64))


def originals(names: dict[str, np.ndarray], **more: str) -> ImageSet:
    some = list(names.values())
    return ImageSet("original", tuple(names), np.zeros(len(some), np.int64), some.__getitem__, **more)


def audit(trained: dict[str, np.ndarray], *sets: ImageSet, search: dict[str, np.ndarray] | None = None) -> int:
    request = ImageRequest("r", triples(trained), None, search=None if search is None else triples(search))
    shared, n = leaks([request], sets)["r"]
    assert n == sum(len(x) for x in sets)
    return shared


def test_a_copy_under_another_name_is_found() -> None:
    judged = originals({"copies/x.png": picture(0), "a.png": picture(5), "c.png": picture(2)})
    assert audit({"a.png@a-snow.png": picture(0), "b.png@b-snow.png": picture(1)}, judged) == 1
    assert audit({"x.png": picture(9)}, judged, search={"s.png@s-snow.png": picture(2)}) == 1
    assert audit({"x.png": picture(9)}, originals({"snowy.png": 255 - picture(9)})) == 1  # the edited image itself


def test_two_pictures_of_one_name_are_two() -> None:
    """Two tables in two folders: each has a 0.png of its own."""
    assert audit({"0.png@0-snow.png": picture(0)}, originals({"0.png": picture(1)})) == 0
    assert audit({"0.png@0-snow.png": picture(0)}, originals({"0.png": picture(0)})) == 1


def test_a_crop_is_known_by_its_name() -> None:
    """Segmentations hold crops of the photographs that they are named after."""
    assert audit({"cat/0.png@snow-1": picture(0, 8, 8)}, originals({"cat/0.png": picture(1, 30, 40)})) == 1


def test_spellings_of_a_path_are_one_name() -> None:
    edit = ImageSet("edit", ("x/../a.png@b.png", "c.png@d.png"), np.zeros(2, np.int64), lambda i: picture(7 + i), "r")
    assert audit({"./a.png@z.png": picture(0)}, edit) == 1
    assert audit({"cat//0.png@snow-1": picture(0, 8, 8)}, originals({"./cat/0.png": picture(1, 30, 40)})) == 1


def test_sets_of_other_requests_do_not_count() -> None:
    edit = ImageSet("edit", ("a.png@b.png",), np.zeros(1, np.int64), lambda i: picture(0), "another")
    request = ImageRequest("r", triples({"a.png@z.png": picture(0)}), None)
    assert leaks([request], [edit, originals({"q.png": picture(3)})]) == {"r": (0, 1)}


def test_files_are_compared_by_their_pixels(tmp_path: Path) -> None:
    """The original task's table lists the same photographs in other formats, folders and spellings."""
    rows = pair_rows(tmp_path)
    task = pairs_task(tmp_path, rows)
    (request,) = task.requests()
    trained = clean_of(request.x.ids) | clean_of(request.search.ids)
    for row in rows:
        Image.open(tmp_path / row["path"]).save(
            save(tmp_path / "other" / f"{row['label']}-{Path(row['path']).stem}.bmp", picture(0))
        )
    copies = [{"path": f"other/{row['label']}-{Path(row['path']).stem}.bmp", "label": row["label"]} for row in rows]
    spelled = [{"path": f"./clean/../{row['path']}", "label": row["label"]} for row in rows]
    for listed in (copies, spelled):
        again = Pairs(path=str(tmp_path / "pairs.csv"), original=table(tmp_path / "listed.csv", listed))
        assert leaks([request], again.image_sets([request])[:1]) == {request.id: (len(trained), 10)}


def test_the_picture_behind_an_edited_image_counts(tmp_path: Path) -> None:
    """A photograph that was trained on is judged by, too: as a copy under another name, in other edited images."""
    rows = [row | {"split": ("train", "val")[k % 2]} for k, row in enumerate(pair_rows(tmp_path, n=4))]
    save(tmp_path / "clean" / "copy.png", picture(0))
    save(tmp_path / "edited" / "copy.png", picture(500))
    rows.append({"path": "clean/copy.png", "edited_path": "edited/copy.png", "label": 0, "split": "val"})
    task = pairs_task(tmp_path, rows)
    (request,) = task.requests()
    edit = task.image_sets([request])[1]
    assert len(edit) == 3 and leaks([request], [edit]) == {request.id: (1, 3)}


def test_a_photograph_is_read_once_for_all_its_styles() -> None:
    read: list[int] = []
    edit = ImageSet(
        "edit", ("a@snow-0", "a@snow-1", "b@snow-0"), np.zeros(3, np.int64), lambda i: picture(9), "r",
        clean=lambda i: read.append(i) or picture(i),
    )  # fmt: skip
    assert audit({"x@snow-2": picture(0)}, edit) == 2 and read == [0, 2]


def test_the_built_in_world_shares_nothing() -> None:
    task = SceneWorldTask(n_validation=32, n_edit=8, n_search=8, n_natural=8, natural=["rendition", "snow"])
    (request,) = task.requests()
    assert leaks([request], task.image_sets([request])) == {"grass-snow": (0, 32 + 8 + 3 * 8)}
