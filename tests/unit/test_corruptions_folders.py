"""Orders of preparation, and the released ImageNet-C's folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edit_robust.core.errors import UserError
from edit_robust.shifts import corrupt
from edit_robust.shifts.images import order, released


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
    nested = touch(tmp_path / "weather" / "fog" / "3" / "n02" / "b.JPEG")
    flat = touch(tmp_path / "spatter" / "5" / "n01" / "c.jpg")
    assert released.file_of(tmp_path, "fog", 3, "val/n02/b.JPEG") == nested
    assert released.file_of(tmp_path, "spatter", 5, "n01/c.JPEG") == flat
    assert released.archive("speckle_noise") == "extra" and released.archive("contrast") == "digital"
    with pytest.raises(UserError, match=r"no fog at severity 4 \(it holds fog, spatter\): unpack weather.tar"):
        released.find(tmp_path, "fog", 4)
    with pytest.raises(UserError, match=r"there is no folder .*absent"):
        released.find(tmp_path / "absent", "fog", 4)
    with pytest.raises(UserError, match="severity 7"):
        released.find(tmp_path, "fog", 7)
    with pytest.raises(UserError, match=r"n01 has no b: shifts\.released holds ImageNet's validation images"):
        released.file_of(tmp_path, "spatter", 5, "n01/b.JPEG")
