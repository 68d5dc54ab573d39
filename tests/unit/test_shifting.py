"""How image sets are shown under shifts: the two orders, the noise's names, the store's keys, and the stamp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import picture

from edit_robust.core.images import ImageSet
from edit_robust.models.vision.preprocessing import Preprocessing, crop
from edit_robust.shifts import corrupt, seed_of
from edit_robust.shifts.images import order, released, store
from edit_robust.shifts.images.names import noise_name
from edit_robust.shifts.images.variants import Shifting, ShiftOptions, Variant
from edit_robust.tasks.vision.scene_world import SceneWorldTask

FOG = Variant("impulse_noise", 3)


def shifting(folder: Path, size: int, **options) -> Shifting:
    return Shifting.of(
        {"impulse_noise": (3,), "fog": (1, 2)}, ShiftOptions(**options), folder, size, "resize 72 (bicubic), crop 64"
    )


def photographs(*names: str, height: int = 300, width: int = 400) -> ImageSet:
    """Each a picture of its own, whatever its name."""
    made = [picture(i, height, width) for i in range(len(names))]
    return ImageSet("original", names, np.zeros(len(names), np.int64), made.__getitem__)


def shown(by: Shifting, images: ImageSet, how: Preprocessing, variant: Variant = FOG) -> np.ndarray:
    pixels = [crop(images.load(r), how) for r in range(len(images))]
    return by.apply(variant, images, range(len(images)), pixels)


@pytest.mark.parametrize("size, resize", [(224, 256), (224, 224), (64, 64), (299, 342)])
def test_the_released_order_is_made_at_224_whatever_the_models_crop(tmp_path: Path, size: int, resize: int) -> None:
    images = photographs("a.png", "b.png")
    got = shown(
        shifting(tmp_path, size, order="released"), images, Preprocessing(size, resize, interpolation="bicubic")
    )
    for r, name in enumerate(images.ids):
        seed = seed_of("original|", name, "impulse_noise", 3)
        made = order.prepare_image(images.load(r), 224, 256, "released", "impulse_noise", 3, seed)
        np.testing.assert_array_equal(got[r], order.fit(made, size))
    assert got.shape == (2, size, size, 3)


def test_the_released_order_leaves_clean_images_to_the_model(tmp_path: Path) -> None:
    images, how = photographs("a.png"), Preprocessing(64, 72)
    got = shown(shifting(tmp_path, 64, order="released"), images, how, Variant())
    np.testing.assert_array_equal(got[0], crop(images.load(0), how))


def test_a_shard_is_prepared_once_for_all_its_variants(tmp_path: Path) -> None:
    loaded: list[int] = []
    images = ImageSet("original", ("a", "b"), np.zeros(2, np.int64), lambda i: loaded.append(i) or picture(i, 300, 300))
    by = shifting(tmp_path, 64, order="released", store_gb=0.0)
    pixels = [picture(i, 64, 64) for i in range(2)]
    one = [by.apply(Variant("fog", k), images, range(1), pixels[:1]) for k in (1, 2)]
    assert loaded == [0] and (one[0] != one[1]).any()
    by.apply(Variant("fog", 1), images, range(1, 2), pixels[1:])
    assert loaded == [0, 1]


def test_the_stamp_names_resize_crop_and_interpolation(tmp_path: Path) -> None:
    made = {size: shifting(tmp_path, size, order="released").stamp for size in (224, 299)}
    assert made[224].endswith("resize 256 (bilinear), crop 224, corrupt, JPEG quality 85")
    assert made[299] == made[224] + ", resize to 299 (bicubic)"
    assert "3 variants" in made[224] and len(set(made.values())) == 2
    assert shifting(tmp_path, 64).stamp.endswith("resize 72 (bicubic), crop 64, corrupt")
    for name in ("impulse_noise/3", "fog/1", "fog/2"):
        (tmp_path / "imagenet-c" / name).mkdir(parents=True)
    of_files = shifting(tmp_path, 299, released=str(tmp_path / "imagenet-c")).stamp
    assert of_files.startswith(
        "original task: released ImageNet-C (imagenet-c), resize to 299 (bicubic); else in memory"
    )


def test_noise_goes_by_the_picture_and_not_by_how_its_path_is_spelled(tmp_path: Path) -> None:
    how, by = Preprocessing(64, 64), shifting(tmp_path, 64, store_gb=0.0)
    first = shown(by, photographs("cats/a.png"), how)
    for name in ("./cats/a.png", "cats//a.png", "dogs/../cats/a.png", "cats/./a.png"):
        np.testing.assert_array_equal(first, shown(by, photographs(name), how))
    assert (first != shown(by, photographs("cats/b.png"), how)).any()
    np.testing.assert_array_equal(
        first[0],
        corrupt(
            crop(picture(0, 300, 400), how), "impulse_noise", 3, seed_of("original|", "cats/a.png", "impulse_noise", 3)
        ),
    )
    moved = [shown(by, photographs(name), how) for name in ("/here/a.png", "/there/b.png", "../else/c.png", "~/d.png")]
    for one in moved[1:]:
        np.testing.assert_array_equal(moved[0], one)
    two = photographs("/x/a.png", "/x/b.png")
    assert noise_name(two.ids[0], two.load(0)) != noise_name(two.ids[1], two.load(1))


def test_pairs_are_spelled_in_two_parts() -> None:
    x = picture(0)
    assert noise_name("./a.png@b/../c.png", x) == "a.png@c.png" == noise_name("a.png@c.png", x)
    assert noise_name("a.png@/abs/c.png", x) == noise_name("/abs/a.png@c.png", x) == noise_name("..", x)
    assert noise_name("..a.png", x) == "..a.png" and noise_name("a@", x) == "a@"


def test_the_built_in_world_keeps_its_noise(tmp_path: Path) -> None:
    """Bit for bit what the names themselves give."""
    task = SceneWorldTask(n_validation=3, n_edit=3, n_search=3, n_natural=3, natural=["rendition", "filtered", "snow"])
    by = shifting(tmp_path, 64)
    for images in task.image_sets(task.requests()):
        pixels = [images.load(r) for r in range(3)]
        assert [noise_name(name, x) for name, x in zip(images.ids, pixels, strict=False)] == list(images.ids[:3])
        got = by.apply(FOG, images, range(3), pixels)
        dataset = f"{images.probe}|{images.request}"
        for r in range(3):
            seed = seed_of(dataset, images.ids[r], "impulse_noise", 3)
            np.testing.assert_array_equal(got[r], corrupt(pixels[r], "impulse_noise", 3, seed))


def test_the_store_is_keyed_by_versions_and_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, how = photographs("a.png"), Preprocessing(64, 64)

    def kept() -> set[str]:
        shown(shifting(tmp_path / "store", 64), images, how)
        return {file.stem for file in (tmp_path / "store").glob("*.npy")}

    first = kept()
    assert len(first) == 1 and kept() == first
    monkeypatch.setattr(store, "VERSION", store.VERSION + 1)
    second = kept()
    assert len(second) == 2
    monkeypatch.setattr(store, "_release", lambda library: "99.0" if library == "numpy" else "1")
    assert len(kept()) == 3


def test_released_files_are_found_however_their_name_is_spelled(tmp_path: Path) -> None:
    file = tmp_path / "fog" / "3" / "n01" / "b.JPEG"
    file.parent.mkdir(parents=True)
    file.touch()
    for name in ("val/n01/b.JPEG", "./n01/b.JPEG", "val/n01/x/../b.JPEG", "/data/val//n01/b.png"):
        assert released.file_of(tmp_path, "fog", 3, name) == file
