"""The scene world: every image on its own, exact masks, and networks that reach what their manifests say."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edit_robust.assets import asset_dir
from edit_robust.core.errors import UserError
from edit_robust.models.vision.scene_nets import build
from edit_robust.tasks.worlds.scenes import world

NETS = ("scene-cnn", "scene-resnet", "scene-vit")


@pytest.fixture(scope="module")
def scenes() -> world.Scenes:
    return world.render("test", range(300))


def test_an_image_is_the_same_alone_and_in_any_batch(scenes: world.Scenes) -> None:
    mixed = [207, 3, 64, 12, 3]
    again = world.render("test", mixed)
    assert np.array_equal(again.images, scenes.images[mixed])
    assert np.array_equal(world.render("test", [12]).images[0], scenes.images[12])
    for concept in world.CONCEPTS:
        assert np.array_equal(again.masks[concept], scenes.masks[concept][mixed])


@pytest.mark.parametrize("kind", [None, *world.DRAWINGS])
def test_drawings_and_snow_photographs_do_not_depend_on_the_batch(kind: str | None) -> None:
    images, labels = world.renditions("test", range(20), kind=kind)
    assert images.shape == (20, 48, 48, 3) and images.dtype == np.uint8
    assert np.array_equal(world.renditions("test", [17], kind=kind)[0][0], images[17])
    assert labels.tolist() == [i % 16 for i in range(20)]
    snow, labels = world.snow_photographs("test", range(20))
    assert np.array_equal(world.snow_photographs("test", [19])[0][0], snow[19])
    assert labels.max() < len(world.VEHICLES)


@pytest.mark.parametrize("kind", world.DIGITS)
def test_digits_do_not_depend_on_the_batch(kind: str) -> None:
    images, labels = world.digits(kind, "test", range(30))
    assert images.shape == (30, 48, 48, 3) and labels.tolist() == [i % 10 for i in range(30)]
    assert np.array_equal(world.digits(kind, "test", [23])[0][0], images[23])
    assert not np.array_equal(world.digits(kind, "train", [23])[0][0], images[23])


def test_splits_and_seeds_are_different_streams() -> None:
    images = [world.render(split, range(8)).images for split in world.SPLITS]
    images.append(world.render("test", range(8), seed=1).images)
    for i, a in enumerate(images):
        assert all((a[k] != b[k]).mean() > 0.5 for b in images[:i] for k in range(8))


def test_classes_are_balanced_and_masks_do_not_overlap(scenes: world.Scenes) -> None:
    counts = np.bincount(scenes.labels[:288], minlength=16)
    assert (counts == 18).all()
    assert sum(m.astype(int) for m in scenes.masks.values()).max() == 1
    area = np.stack([m.mean((1, 2)) for m in scenes.masks.values()], -1)
    assert np.array_equal(scenes.concepts, area >= 0.05)
    assert scenes.concepts.any(0).all()


@pytest.mark.parametrize("style", world.STYLES)
def test_a_style_changes_its_concept_and_not_a_pixel_else(style: str, scenes: world.Scenes) -> None:
    index = [i for i in range(120) if scenes.concepts[i, 1]][:12]
    some = world.render("test", index)
    new = world.styled(some, "grass", style)
    mask = some.masks["grass"]
    assert np.array_equal(new[~mask], some.images[~mask])
    assert (new[mask] != some.images[mask]).any(-1).mean() > 0.9
    # One image alone gets the same pattern; another variant or seed gets another one.
    assert np.array_equal(world.styled(world.render("test", index[3:4]), "grass", style)[0], new[3])
    assert np.array_equal(
        world.styled(some, "grass", style, variant=(2,)), world.styled(some, "grass", style, variant=2)
    )
    assert not np.array_equal(
        world.styled(some, "grass", style, variant=1), world.styled(some, "grass", style, variant=2)
    )
    assert not np.array_equal(world.styled(some, "grass", style, seed=1), new)


def test_scenes_with_a_concept_are_found() -> None:
    index = world.with_concept("val", "trees", 10, labels=("cow", "car"))
    found = world.render("val", index)
    assert found.concepts[:, world.CONCEPTS.index("trees")].all()
    assert {world.CLASSES[k] for k in found.labels} <= {"cow", "car"}
    assert np.array_equal(world.with_concept("val", "trees", 4, labels=("cow", "car")), index[:4])
    with pytest.raises(UserError, match="0 scenes with sea"):
        world.with_concept("val", "sea", 1, labels=("mug",))


def test_unknown_names_are_refused(scenes: world.Scenes) -> None:
    with pytest.raises(UserError, match="table"):
        world.with_concept("val", "tabel", 1)
    with pytest.raises(UserError, match="gravel"):
        world.styled(scenes, "road", "gravell")
    with pytest.raises(UserError, match="train"):
        world.render("trains", [0])
    with pytest.raises(UserError, match="VGG"):
        build({"architecture": "timm.models.vgg.VG", "kwargs": {}})


def test_the_filtered_set_is_re_rendered_from_its_indices() -> None:
    images, labels = world.filtered()
    assert len(images) == len(labels) >= 200
    one, label = world.filtered([7])
    assert np.array_equal(one[0], images[7]) and label[0] == labels[7]


@pytest.mark.parametrize("name", NETS)
def test_a_shipped_network_is_what_its_manifest_says(name: str, scenes: world.Scenes) -> None:
    folder = asset_dir(name)
    manifest = json.loads((folder / "manifest.json").read_text())
    for file, digest in manifest["sha256"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    assert (folder / "model.safetensors").stat().st_size <= 2 * 2**20
    config = json.loads((folder / "config.json").read_text())
    assert config["classes"] == list(world.CLASSES)
    net = build(config)
    weights = load_file(folder / "model.safetensors")
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    mean, std = (torch.tensor(config[k])[:, None, None] for k in ("mean", "std"))
    x = (torch.from_numpy(scenes.images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        right = (net.eval()(x).argmax(1).numpy() == scenes.labels).mean()
    assert abs(right - manifest["accuracy"]["clean"]) < 0.04
