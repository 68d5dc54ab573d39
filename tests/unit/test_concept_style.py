"""The tasks of concept-style pairs on ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import fails
from helpers.pictures import NAMES, clean_of, picture, save, segments_file
from helpers.real import real

from edit_robust.core.image_files import read_image
from edit_robust.tasks.vision.concept_style import ConceptStyle
from edit_robust.tasks.vision.segments import paper_split, read_annotations


def test_the_papers_split() -> None:
    labels = [0] * 20 + [1] * 30 + [2] * 19
    split = paper_split(labels, 3, n_train=10, rho=0.5, s_train=1, n_search=5, leak_free=True, seed=0)
    train, search, val = ({i for i, _ in part} for part in (split.train, split.search, split.val))
    assert {labels[i] for i in train} == {0, 1} and len(split.train) == 20 and len({v for _, v in split.train}) == 1
    assert len(split.search) == 10 and not train & search and not train & val and not search & val
    assert {labels[i] for i in val} == {0, 1} and len(split.val) == (50 - 30) * 3  # label 2 has no image in training
    leaky = paper_split(labels, 3, 10, 0.5, 1, 5, leak_free=False, seed=0)
    assert leaky.train == split.train and len(leaky.val) == len(split.val) + 20 * 2
    assert not set(leaky.val) & set(leaky.train)
    assert {labels[i] for i, _ in leaky.val} == {0, 1}
    with pytest.raises(ValueError, match="30"):
        paper_split(labels, 3, 16, 0.5, 1, 5, True, 0)


@pytest.fixture
def concepts(tmp_path: Path) -> dict[str, str]:
    """Twelve images of three classes, one file of segmentations of all of them, two styles."""
    for i in range(12):
        save(tmp_path / "val" / NAMES[i // 4] / f"{i}.png", picture(i, 8, 8))
    order = np.random.default_rng(0).permutation(12)
    path = tmp_path / "seg" / "COCO" / "concept_ImageNet_COCO_road.pt"
    segments_file(path, [int(i) // 4 for i in order], order.tolist())
    (tmp_path / "styles").mkdir()
    torch.save({"imgs": torch.full((3, 3, 10, 10), 1.0)}, tmp_path / "styles" / "snow.pt")
    save(tmp_path / "styles" / "wood" / "a.png", picture(0))
    return {k: str(tmp_path / v) for k, v in (("original", "val"), ("segmentations", "seg"), ("styles", "styles"))}


def concept_task(places: dict[str, str], **options: Any) -> ConceptStyle:
    small = {"n_train": 1, "rho": 0.5, "n_search": 1, "classes": list(NAMES), "n_original": 4}
    return ConceptStyle(**places | small | options)


def test_concept_style(concepts: dict[str, str]) -> None:
    task = concept_task(concepts)
    snow, wood = task.requests()
    assert (snow.id, wood.id, snow.concept, snow.style) == ("road-snow", "road-wood", "road", "snow")
    assert (len(snow.x), len(snow.search), len(wood.x)) == (3, 3, 3)
    mask = snow.x.mask(0)
    assert mask.mean() == 0.5 and (snow.x.edited[0][mask] == 255).all()
    assert np.array_equal(snow.x.edited[0][~mask], snow.x.clean[0][~mask])
    original, edit, _ = task.image_sets([snow, wood])
    assert (len(original), len(edit), edit.request, edit.source) == (4, 6 * 3, "road-snow", "texture paste")
    assert len(set(edit.ids)) == len(edit) and edit.load(0).shape == (8, 8, 3)
    train, search, val = (clean_of(ids) for ids in (snow.x.ids, snow.search.ids, edit.ids))
    assert not train & val and not train & search and not search & val
    assert [NAMES.index(i.partition("/")[0]) for i in edit.ids] == edit.labels.tolist()
    assert len(concept_task(concepts, n_edit=5).image_sets([snow])[1]) == 5
    assert len(concept_task(concepts, n_variants=2).image_sets([snow])[1]) == 12
    leaky = concept_task(concepts, leak_free=False).image_sets([snow])[1]
    assert len(leaky) == 6 * 3 + 3 * 2
    assert [r.id for r in concept_task(concepts, pairs=["road-wood"]).requests()] == ["road-wood"]


def test_concept_style_stylised_and_annotations(tmp_path: Path, concepts: dict[str, str]) -> None:
    for i in range(12):
        for v in range(2):
            stylised = np.full((8, 8, 3), 20 * i + v, np.uint8)
            save(tmp_path / "stylised" / "ImageNet" / "snow" / str(v) / f"img_{i}.png", stylised)
    (tmp_path / "concept_road_161.json").write_text('{"class_0": "yes", "class_1": "no", "class_2": "yes"}')
    options = {"stylised": str(tmp_path / "stylised"), "pairs": "road-snow", "annotations": str(tmp_path)}
    task = concept_task(concepts, **options)
    (request,) = task.requests()
    assert set(request.x.labels) == {0, 2}
    position = {name: i for i, name in enumerate(task.originals.every.ids)}
    for k, name in enumerate(request.x.ids):
        clean, _, style = name.partition("@")
        assert (request.x.edited[k][request.x.mask(k)] == 20 * position[clean] + int(style[-1])).all()
    for path in (tmp_path / "stylised").rglob("*.png"):
        path.unlink()
    fails("img_ & no such file", lambda: request.x.edited[0])
    task = concept_task(concepts, **options | {"pairs": "road-wood"})
    fails("no folder wood/0", task.requests)


def test_concept_style_from_mask_images(tmp_path: Path, concepts: dict[str, str]) -> None:
    half = np.zeros((8, 8), np.uint8)
    half[4:] = 255
    for i in range(8):
        save(tmp_path / "masks" / "road" / f"{NAMES[i // 4]}_{i}.png", half)
    places = concepts | {"segmentations": str(tmp_path / "masks")}
    (request,) = concept_task(places, pairs="road-snow").requests()
    clean = tmp_path / "val" / request.x.ids[0].partition("@")[0]
    assert len(request.x) == 2 and np.array_equal(request.x.clean[0], read_image(clean))
    save(tmp_path / "masks" / "road" / "cat_99.png", half)
    fails("cat_99.png & no image of val is called so", concept_task(places, pairs="road-snow").requests)


def test_concept_style_errors(tmp_path: Path, concepts: dict[str, str]) -> None:
    fails("task.segmentations, task.styles must be given & releases", lambda: ConceptStyle("o", None, None))
    fails("task.rho=0.0", lambda: concept_task(concepts, rho=0.0))
    fails("no pair 'road-snwo' & did you mean \"road-snow\"?", concept_task(concepts, pairs="road-snwo").requests)
    fails("no class has 20 images & has 4", concept_task(concepts, n_train=10).requests)
    fails("all 12 images are used up", concept_task(concepts, n_train=4, rho=1.0).requests)
    fails("task.s_train=2 & wood has 1", concept_task(concepts, s_train=2).requests)
    for option, words in (("segmentations", "segmentations.tar.gz"), ("styles", "styles.tar.gz")):
        places = concepts | {option: str(tmp_path / "absent")}
        fails(f"task.{option} & no such folder & {words}", concept_task(places).requests)
    (tmp_path / "concept_raod_1.json").write_text("{}")
    task = concept_task(concepts, annotations=str(tmp_path))
    fails('no concept_road_*.json & did you mean "raod"?', task.requests)
    path = tmp_path / "seg" / "COCO" / "concept_ImageNet_COCO_road.pt"
    for labels, idx, words in (
        ([0, 0], [0, 4], "idx 4 has class 0, but file 4 of val by sorted path, dog/4.png, has class 1"),
        ([0, 0], [1, 1], '"idx" must hold different'),
        ([0, 9], [0, 1], "labels are from 0 to 9; there are 4 classes"),
    ):
        segments_file(path, labels, idx)
        fails(f"{path} & {words}", concept_task(concepts).requests)
    np.savez(path.with_suffix(".npz"), imgs=np.zeros((1, 3, 8, 8)), masks=np.zeros((1, 8, 9)), labels=np.zeros(1))
    fails("are both of road", concept_task(concepts).requests)
    path.unlink()
    fails("do not fit", concept_task(concepts).requests)
    np.savez(path.with_suffix(".npz"), imgs=np.zeros((1, 3, 8, 8)), masks=np.zeros((1, 8, 8)), labels=np.zeros(1))
    fails("every mask is zero", concept_task(concepts).requests)


def test_annotations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "concept_road_1.json"
    path.write_text('{"class_444": "yes", "class_7": "no"}')
    assert read_annotations(path) == {444}
    path.write_text('{"444": "yes"}')
    fails('the entry "444" is not of the form', lambda: read_annotations(path))
    assert {444, 751, 920, 670} <= read_annotations(real("annotations/concept_road_1619633014.json"))
