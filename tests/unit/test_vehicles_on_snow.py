"""The task of vehicles on snow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers.errors import fails
from helpers.pictures import NAMES, clean_of, pair_rows, picture, save, segments_file, table
from helpers.real import real

from edit_robust.tasks.vision.vehicles_on_snow import VehiclesOnSnow


def snow_folder(root: Path) -> Path:
    for i, name in enumerate(("firetruck", "tank")):
        for j in range(2):
            save(root / "snow" / "test" / name / f"{j}.jpg", picture(i + j))
    return root / "snow"


def vehicles(root: Path, **options: Any) -> VehiclesOnSnow:
    save(root / "photos" / "0.png", picture(0))
    original = table(root / "original.csv", [{"path": "photos/0.png", "label": 2}])
    return VehiclesOnSnow(**{"snow": str(snow_folder(root)), "original": original, "classes": list(NAMES)} | options)


def test_vehicles_from_pairs(tmp_path: Path) -> None:
    pairs = table(tmp_path / "pairs.csv", pair_rows(tmp_path, 10))
    task = vehicles(tmp_path, pairs=pairs)
    (request,) = task.requests()
    assert (request.id, request.concept, request.style) == ("vehicles-on-snow", "vehicles", "snow")
    assert (len(request.x), len(request.search)) == (8, 2)
    _, edit = task.image_sets([request])
    assert (edit.ids, edit.labels.tolist()) == (
        ("firetruck/0.jpg", "firetruck/1.jpg", "tank/0.jpg", "tank/1.jpg"), [2, 2, 3, 3],
    )  # fmt: skip
    assert edit.load(0).shape == (12, 16, 3) and task.moment_images().ids == ("photos/0.png",)
    assert len(vehicles(tmp_path, pairs=pairs, n_train=3).requests()[0].x) == 3
    rows = pair_rows(tmp_path, 4, split=lambda i: "val" if i else "train")
    (request,) = vehicles(tmp_path, pairs=table(tmp_path / "p2.csv", rows)).requests()
    assert clean_of(request.x.ids) == {"clean/0.png"} and len(request.search) == 0


def test_vehicles_by_pasting(tmp_path: Path) -> None:
    save(tmp_path / "snow.png", np.full((20, 30, 3), 250, np.uint8))
    half = np.zeros((12, 16), np.uint8)
    half[6:] = 255
    save(tmp_path / "m.png", half)
    rows = [{k: r[k] for k in ("path", "label")} | {"mask_path": "m.png"} for r in pair_rows(tmp_path, 5)]
    given = {
        "table": table(tmp_path / "masks.csv", rows),
        "npz": str(segments_file(tmp_path / "road.npz", [2, 3, 2, 3, 3])),
    }
    for path in given.values():
        (request,) = vehicles(tmp_path, originals=path, textures=str(tmp_path / "snow.png")).requests()
        x = request.x
        assert (len(x), len(request.search)) == (4, 1)
        assert (x.edited[0][x.mask(0)] == 250).all()
        assert np.array_equal(x.edited[0][~x.mask(0)], x.clean[0][~x.mask(0)])
    released = segments_file(tmp_path / "snow" / "train" / "road:15.pt", [2, 3, 2, 3, 3])
    save(released.parent / "snow_texture.jpg", np.full((20, 30, 3), 250, np.uint8))
    assert len(vehicles(tmp_path).requests()[0].x) == 4


def test_vehicles_errors(tmp_path: Path) -> None:
    fails("task.snow and task.original must be given & EditingClassifiers", lambda: VehiclesOnSnow(None, None))
    fails("give one of them", lambda: VehiclesOnSnow("s", "o", pairs="p", originals="q"))
    fails("task.originals and task.textures must be given & task.pairs", vehicles(tmp_path).requests)
    save(tmp_path / "snow" / "test" / "tanc" / "x.png", picture(0))
    task = vehicles(tmp_path)
    fails('folder tanc & did you mean "tank"? & +task.labels.tanc=', lambda: task.image_sets([task_request()]))
    task = vehicles(tmp_path, labels={"tanc": "tank"})
    assert task.image_sets([task_request()])[1].labels.tolist() == [2, 2, 3, 3, 3]
    fails("task.labels.tanc & no class 9", lambda: vehicles(tmp_path, labels={"tanc": 9}).image_sets([task_request()]))
    fails("must end in .pt", vehicles(tmp_path, originals="x.txt", textures="y").requests)


def task_request() -> Any:
    from edit_robust.core.data import Request

    return Request("vehicles-on-snow", None, None)


def test_vehicles_on_real_snow() -> None:
    snow = real("snow/test")
    task = VehiclesOnSnow(snow=str(snow.parent), original=str(snow), classes="imagenet")
    (edit,) = [s for s in task.image_sets([task_request()]) if s.probe == "edit"]
    assert len(edit) == 42 and set(edit.labels) == {479, 555, 670, 751, 779, 847, 920}
    assert all(min(edit.load(i).shape[:2]) > 200 for i in range(0, 42, 6))
