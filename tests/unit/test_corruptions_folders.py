"""Orders of preparation, the released ImageNet-C's folders, and natural shifts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edit_robust.core.errors import UserError
from edit_robust.shifts import corrupt, natural, order, released


def picture(height: int, width: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("size", [(300, 400, 256, 224), (257, 256, 256, 224), (123, 500, 64, 48), (333, 200, 64, 64)])
def test_resize_and_crop_are_torchvisions(size: tuple[int, int, int, int]) -> None:
    from torchvision import transforms

    height, width, resize, crop = size
    image = picture(height, width)
    theirs = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])(Image.fromarray(image))
    np.testing.assert_array_equal(order.resize_crop(image, resize, crop), np.asarray(theirs))


def test_orders() -> None:
    image = picture(90, 120)
    clean = order.resize_crop(image, 64, 48)
    direct = order.prepare_image(image, 48, 64, "direct", "fog", 2, 3)
    np.testing.assert_array_equal(direct, corrupt(clean, "fog", 2, 3))
    through_a_file = order.prepare_image(image, 48, 64, "released", "fog", 2, 3)
    np.testing.assert_array_equal(through_a_file, order.jpeg_round_trip(direct))
    np.testing.assert_array_equal(through_a_file, order.released(image, "fog", 2, 3, resize=64, crop=48))
    assert (through_a_file != direct).any()
    assert order.released(image, "pixelate", 1, 0).shape == (224, 224, 3)
    for kind in order.ORDERS:
        np.testing.assert_array_equal(order.prepare_image(image, 48, 64, kind), clean)


def test_grey_and_small_images_are_prepared() -> None:
    grey = picture(20, 30)[..., 0].copy()
    out = order.prepare_image(grey, 48, 64, "direct")
    assert out.shape == (48, 48, 3)
    np.testing.assert_array_equal(out, order.prepare_image(Image.fromarray(grey), 48, 64, "direct"))


def test_a_released_file_is_what_the_order_says(tmp_path: Path) -> None:
    image = picture(64, 64)
    Image.fromarray(corrupt(image, "contrast", 2)).save(tmp_path / "x.JPEG", quality=85, optimize=True)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "x.JPEG")), order.released(image, "contrast", 2, 0, resize=64, crop=64)
    )


def test_order_errors() -> None:
    with pytest.raises(UserError, match='no order "release": did you mean "released"'):
        order.prepare_image(picture(40, 40), 32, 32, "release", "fog")
    with pytest.raises(UserError, match="crop of 64 pixels does not fit in images resized to 48"):
        order.prepare_image(picture(40, 40), 64, 48, "direct")
    with pytest.raises(UserError, match="not as float64"):
        order.prepare_image(np.zeros((40, 40, 3)), 32, 32, "direct")


def test_released_layouts(tmp_path: Path) -> None:
    first = touch(tmp_path / "weather" / "fog" / "3" / "n02" / "b.JPEG")
    second = touch(tmp_path / "weather" / "fog" / "3" / "n01" / "a.JPEG")
    touch(tmp_path / "weather" / "fog" / "3" / "n01" / "notes.txt")
    flat = touch(tmp_path / "spatter" / "5" / "n01" / "c.JPEG")
    assert released.list_images(released.find(tmp_path, "fog", 3)) == [(second, "n01"), (first, "n02")]
    assert released.list_images(released.find(tmp_path, "spatter", 5)) == [(flat, "n01")]
    assert released.archive("speckle_noise") == "extra" and released.archive("contrast") == "digital"
    with pytest.raises(UserError, match=r"no fog at severity 4 \(it holds fog, spatter\): unpack weather.tar"):
        released.find(tmp_path, "fog", 4)
    with pytest.raises(UserError, match=r"there is no folder .*absent"):
        released.find(tmp_path / "absent", "fog", 4)
    with pytest.raises(UserError, match="severity 7"):
        released.find(tmp_path, "fog", 7)
    with pytest.raises(UserError, match="holds no images"):
        released.list_images(tmp_path / "weather" / "fog" / "3" / "n01")


WNIDS = ("n00000005", "n00000003", "n00000009", "n00000001")


def test_a_subset_of_classes_is_found_out_from_the_folders(tmp_path: Path) -> None:
    for wnid in ("n00000009", "n00000005"):
        for file in ("b.jpg", "a.jpg"):
            touch(tmp_path / "imagenet-r" / wnid / file)
    touch(tmp_path / "imagenet-r" / "README.txt")
    for root in (tmp_path, tmp_path / "imagenet-r"):
        shift = natural.read("imagenet-r", root, WNIDS)
        assert shift.classes == (0, 2)
        assert shift.labels.tolist() == [0, 0, 2, 2] and len(shift) == 4
        assert shift.ids[0] == "n00000005/a.jpg" and shift.files[3].name == "b.jpg"


def test_v2_folders_are_positions_in_imagenets_list(tmp_path: Path) -> None:
    listed = natural.imagenet_wnids()
    assert len(listed) == 1000 and listed[0] == "n01440764" and list(listed) == sorted(listed)
    for folder in ("0", "10", "2", "999"):
        touch(tmp_path / "imagenetv2-matched-frequency-format-val" / folder / "x.jpeg")
    shift = natural.read("imagenet-v2", tmp_path)
    assert shift.labels.tolist() == [0, 10, 2, 999] and shift.classes == (0, 2, 10, 999)
    backwards = natural.read("imagenet-v2", tmp_path, listed[::-1])
    assert backwards.labels.tolist() == [999, 989, 997, 0]


def test_natural_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no natural shift "imagenet-q"'):
        natural.read("imagenet-q", tmp_path, WNIDS)
    with pytest.raises(UserError, match=r"holds no class folders: unpack imagenet-a there.*WordNet ids"):
        natural.read("imagenet-a", tmp_path, WNIDS)
    with pytest.raises(UserError, match=r"is no folder: unpack imagenet-v2 there.*0 to 999"):
        natural.read("imagenet-v2", tmp_path / "absent", WNIDS)
    touch(tmp_path / "n00000007" / "x.jpg")
    with pytest.raises(UserError, match="1 of 1 class folders of imagenet-a are no class of the model, n00000007"):
        natural.read("imagenet-a", tmp_path, WNIDS)
