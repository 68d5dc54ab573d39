"""The image task of the scene world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.errors import fails
from helpers.pictures import clean_of

from edit_robust.tasks.vision.scene_world import SceneWorldTask

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


SMALL = {"n_train": 2, "n_labels": 2, "n_search": 4, "n_edit": 6, "n_validation": 16, "n_moments": 5, "n_natural": 8}


def test_scene_world() -> None:
    task = SceneWorldTask(**SMALL, natural=["rendition"])
    (request,) = task.requests()
    x, search = request.x, request.search
    assert (request.id, request.concept, request.style) == ("grass-snow", "grass", "snow")
    assert len(x) == 4 and len(set(x.labels)) == 2 and len(search) == 4
    for i in range(4):
        changed = (x.clean[i] != x.edited[i]).any(-1)
        assert changed.any() and not (changed & ~x.mask(i)).any()
    original, edit, drawn = task.image_sets([request])
    assert (len(original), len(edit), len(drawn), drawn.shift) == (16, 6, 8, "rendition")
    assert edit.load(2).shape == (48, 48, 3) and np.array_equal(np.bincount(original.labels), [1] * 16)
    variants = [{i[-1] for i in ids} for ids in (x.ids, search.ids, edit.ids)]
    assert variants[0] == {"0"} and variants[1] == {"1"} and not variants[2] & {"0", "1"}
    assert not clean_of(x.ids) & (clean_of(search.ids) | clean_of(edit.ids) | set(original.ids))
    moments = task.moment_images()
    assert len(moments) == 5 and not set(moments.ids) & set(original.ids)
    assert len(task.classes) == 16
    again = SceneWorldTask(**SMALL | {"n_edit": 3, "n_validation": 4})
    assert np.array_equal(again.requests()[0].x.edited[3], x.edited[3])
    assert np.array_equal(again.image_sets([request])[1].load(1), edit.load(1))
    assert not np.array_equal(SceneWorldTask(**SMALL, world_seed=1).requests()[0].x.clean[0], x.clean[0])


def test_scene_world_vehicles_labels_and_shifts() -> None:
    task = SceneWorldTask(**SMALL, pairs=["vehicles-on-snow"], natural=["snow"])
    (request,) = task.requests()
    assert (request.id, request.concept) == ("vehicles-on-snow", "vehicles")
    assert set(request.x.labels) == {0, 1} and set(request.search.labels) <= set(range(6))
    _, edit, masked, free = task.image_sets([request])
    assert edit.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert (masked.shift, masked.classes, free.shift, free.classes) == (
        "snow", tuple(range(6)), "snow-unmasked", None,
    )  # fmt: skip
    chosen = SceneWorldTask(**SMALL, labels=["sheep"]).requests()[0].x.labels
    assert set(chosen) == {9}


def test_scene_world_filtered() -> None:
    if not (ROOT / "edit_robust/assets/scene-world/filtered.json").is_file():
        pytest.skip("the filtered set is not built")
    found = SceneWorldTask(**SMALL, natural=["filtered"]).image_sets([])[1]
    assert found.shift == "filtered" and len(found) == 8


def test_scene_world_errors() -> None:
    assert len(SceneWorldTask(pairs="all").pairs) == 64
    fails("no pair 'gras-snow' & did you mean \"grass-snow\"?", lambda: SceneWorldTask(pairs="gras-snow"))
    fails("task.pairs is empty", lambda: SceneWorldTask(pairs=[]))
    fails("no class 'cwo' & did you mean \"cow\"?", lambda: SceneWorldTask(labels=["cwo"]))
    fails("no shift 'snwo' & did you mean", lambda: SceneWorldTask(natural=["snwo"]))
    fails("task.s_train=5 & 6 variants", lambda: SceneWorldTask(s_train=5))
    fails("task.n_edit=0", lambda: SceneWorldTask(n_edit=0))
    fails("cow is no vehicle", SceneWorldTask(pairs="vehicles-on-snow", labels=["cow"]).requests)


def test_reference_networks_of_the_scene_world_know_every_shift() -> None:
    known = SceneWorldTask().reference_accuracies()
    assert known and len(known) >= 6
    for net in known:
        assert set(net) == {"model", "n", "accuracy"}
        assert {"original", "rendition", "filtered", "snow", "fog/1", "glass_blur/5"} <= set(net["accuracy"])
        assert all(0 <= v <= 1 for v in net["accuracy"].values())
