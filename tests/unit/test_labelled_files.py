"""KITTI's distances and folders of images as tasks in words: labels, parts, and one line for what is wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.real import DATA
from PIL import Image

from edit_robust.core import UserError
from edit_robust.editors.vision.helpers.stream import TrainingImages
from edit_robust.tasks.vision.image_folder import ImageFolder
from edit_robust.tasks.vision.kitti_distance import SENTENCES, KittiDistance, by_video, distance_bin

SMALL: dict[str, Any] = {"n_original": 16, "n_held_out": 8}


def one_line(match: str, make: Any) -> None:
    with pytest.raises(UserError, match=match) as e:
        make()
    assert "\n" not in str(e.value)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 20, 3), dtype=np.uint8)).save(path)


# -- KITTI -------------------------------------------------------------------------------------------------------------


def kitti_line(kind: str, depth: float) -> str:
    return f"{kind} 0.00 0 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 {depth} 0.01"


@pytest.mark.parametrize(
    ("objects", "label"),
    [
        ([("Car", 8.0), ("Truck", 60.0)], 0),
        ([("Car", 8.01)], 1),
        ([("Van", 20.0), ("Pedestrian", 3.0)], 1),
        ([("Truck", 69.44), ("Car", 58.49)], 2),
        ([("Cyclist", 5.0), ("DontCare", -1000), ("Tram", 7.0)], 3),
        ([], 3),
    ],
)
def test_the_nearest_vehicle_decides(objects: list[tuple[str, float]], label: int, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(kitti_line(*o) + "\n" for o in objects))
    assert distance_bin(tmp_path / "a.txt") == label


def kitti(root: Path, n: int) -> Path:
    for i in range(n):
        picture(root / "training" / "image_2" / f"{i:06d}.png", i)
        text = kitti_line("Car", (5.0, 15.0, 40.0)[i % 4]) if i % 4 < 3 else ""
        (root / "training" / "label_2").mkdir(exist_ok=True)
        (root / "training" / "label_2" / f"{i:06d}.txt").write_text(text)
    return root


def test_videos_are_never_torn_apart(tmp_path: Path) -> None:
    root = kitti(tmp_path / "kitti", 30)
    order = np.random.default_rng(0).permutation(30) + 1
    (tmp_path / "rand.txt").write_text(",".join(map(str, order)))
    lines = [f"2011_09_26 2011_09_26_drive_{k // 3:04d}_sync {k:010d}" for k in range(30)]
    (tmp_path / "mapping.txt").write_text("\n".join(lines))
    known: dict[str, Any] = {"mapping": str(tmp_path / "mapping.txt"), "order": str(tmp_path / "rand.txt")}
    task = KittiDistance(path=str(root), **known, **SMALL)
    sets = {x.probe: set(x.ids) for x in task.image_sets(task.requests()) if "edit" in x.probe}
    parts = [set(task.requests()[0].x.ids), sets["edit"], sets["edit-held-out"]]
    video = {f"{i:06d}": (int(n) - 1) // 3 for i, n in enumerate(order)}
    found = [{video[name] for name in part} for part in parts]
    assert sum(map(len, parts)) == 30 and all(parts)
    assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
    assert task.class_names == list(SENTENCES) and task.templates == ["{}"]
    (tmp_path / "rand.txt").write_text("31")
    one_line("does not go with", lambda: KittiDistance(path=str(root), **known, **SMALL).requests())
    one_line("belong together", lambda: KittiDistance(path=str(root), mapping=known["mapping"]))
    one_line("path must be given", KittiDistance)
    assert by_video(["a", "b", "c"], {}, 0)[0] and all(by_video(["a", "b", "c"], {}, 0))


def test_damaged_kitti_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = kitti(tmp_path, 8)
    with caplog.at_level(logging.WARNING):
        KittiDistance(path=str(root / "training"), **SMALL).requests()
    assert "videos are not known" in caplog.text
    (root / "training" / "label_2" / "000002.txt").write_text("Car 1 2 3")
    one_line(r"000002\.txt, line 1 has 4 fields", lambda: KittiDistance(path=str(root), **SMALL).requests())
    (root / "training" / "label_2" / "000002.txt").unlink()
    one_line("000002 has no file in label_2", lambda: KittiDistance(path=str(root), **SMALL).requests())
    one_line("no folders image_2 and label_2", lambda: KittiDistance(path=str(tmp_path / "x"), **SMALL).requests())


@pytest.mark.skipif(not (DATA / "kitti").is_dir(), reason="needs the shared data")
def test_the_shared_frames() -> None:
    task = KittiDistance(path=str(DATA / "kitti"), **SMALL)
    (request,) = task.requests()
    sets = {x.probe: x for x in task.image_sets([request])}
    labels = [*request.x.labels, *sets["edit"].labels, *sets["edit-held-out"].labels]
    assert sorted(int(y) for y in labels) == [2, 2, 3]
    assert request.x.edited[0].shape[1] > 1000


# -- folders -----------------------------------------------------------------------------------------------------------


def folders(root: Path, n: int = 10, names: tuple[str, ...] = ("sports_car", "van", "old_truck")) -> Path:
    for k, name in enumerate(names):
        for i in range(n):
            picture(root / name / f"{i}.png", 100 * k + i)
    return root


def test_folders_are_classes(tmp_path: Path) -> None:
    task = ImageFolder(path=str(folders(tmp_path)), **SMALL)
    assert task.class_names == ["old truck", "sports car", "van"] and task.templates == ["a photo of a {}."]
    (request,) = task.requests()
    sets = {x.probe: x for x in task.image_sets([request])}
    assert [len(request.x), len(sets["edit"]), len(sets["edit-held-out"])] == [18, 6, 6]
    for name, label in zip(request.x.ids, request.x.labels, strict=True):
        assert ("old_truck", "sports_car", "van")[label] in name
    named = ImageFolder(path=str(tmp_path), names=["lorry", "car", "bus"], prompts=["my {}."], **SMALL)
    assert named.class_names == ["lorry", "car", "bus"]


def test_parts_that_the_folder_has(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        folders(tmp_path / part, 4)
    task = ImageFolder(path=str(tmp_path), **SMALL)
    sets = {x.probe: x for x in task.image_sets(task.requests())}
    assert len(task.requests()[0].x) == 12 == len(sets["edit"]) and len(sets["edit-held-out"]) == 8
    assert {i.partition("/")[0] for i in sets["edit-held-out"].ids} == {"val"}
    assert sets["edit"].load(0).shape == (12, 20, 3)
    picture(tmp_path / "test" / "ship" / "0.png", 1)
    one_line("folder ship: no class", lambda: ImageFolder(path=str(tmp_path), **SMALL).requests())


def test_folders_that_make_no_task(tmp_path: Path) -> None:
    one_line("path must be given", ImageFolder)
    (tmp_path / "nothing").mkdir()
    one_line("holds no images", lambda: ImageFolder(path=str(tmp_path / "nothing"), **SMALL).class_names)
    one_line("there is no such folder", lambda: ImageFolder(path=str(tmp_path / "not"), **SMALL).class_names)
    alike = folders(tmp_path / "alike", 2, ("Van", "van", "car"))
    one_line('"Van" and "van" are the same', lambda: ImageFolder(path=str(alike), **SMALL).class_names)
    hollow = folders(tmp_path / "hollow", 3)
    (hollow / "bus").mkdir()
    one_line("the class folder bus holds no images", lambda: ImageFolder(path=str(hollow), **SMALL).requests())
    one_line("there are no images|has no images", lambda: ImageFolder(
        path=str(folders(tmp_path / "few", 1, ("a", "b"))), **SMALL).requests())  # fmt: skip


def test_a_damaged_image_is_named_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folders(tmp_path, 20)
    bad = root / "van" / "7.png"
    task = ImageFolder(path=str(root), **SMALL, n_test=6)
    (request,) = task.requests()
    sets = task.image_sets([request])
    # Damaged now: the types that tests check are those of any one image, which would be opened above.
    bad.write_bytes(bad.read_bytes()[:60])

    def everything() -> None:
        images = TrainingImages(None, (request.x,), None, None, 0)  # type: ignore[arg-type]
        for i in range(len(request.x)):
            images.load(i)
        for x in sets:
            for i in range(len(x)):
                x.load(i)

    one_line(r"van/7\.png cannot be read as an image", everything)
    with caplog.at_level(logging.WARNING):
        kept = ImageFolder(path=str(root), **SMALL, n_test=6, corrupt="skip")
        (request,) = kept.requests()
        sets = kept.image_sets([request])
    assert "1 images are left out" in caplog.text and "van/7.png" in caplog.text
    everything()
