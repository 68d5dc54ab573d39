"""Corruptions: what imagecorruptions gives for the same seed, without its state, and the same for any worker count."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from helpers import imagecorruptions_repaired as repaired
from PIL import Image

from edit_robust.core.errors import UserError
from edit_robust.shifts import ALL, CORRUPTIONS, EXTRA, corrupt, corrupt_many, seed_of
from edit_robust.shifts.images import weather as weather_module

pytestmark = pytest.mark.slow

SEVERITIES = (1, 2, 3, 4, 5)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8: noise on ramps, with a flat, a black and a white part, where rounding shows."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([255 * x // width, 255 * y // height, 127 * x // width + 127 * y // height], -1)
    image = np.clip(ramps + rng.randint(-20, 21, (height, width, 3)), 0, 255).astype(np.uint8)
    image[: height // 4, : width // 4] = (200, 90, 90)
    image[-height // 8 :], image[height // 2, :] = 0, 255
    return image


def skip_unless_repairable() -> None:
    try:
        repaired.load()
    except repaired.Unrepairable as e:
        pytest.skip(str(e))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("height", "width", "seed"), [(48, 48, 0), (57, 36, 1)])
def test_bits_of_imagecorruptions(name: str, height: int, width: int, seed: int) -> None:
    skip_unless_repairable()
    image = picture(height, width, seed)
    for severity in SEVERITIES:
        expected = repaired.reference(image, name, severity, seed)
        got = corrupt(image, name, severity, seed)
        assert got.dtype == expected.dtype == np.uint8
        np.testing.assert_array_equal(got, expected, err_msg=f"{name} at severity {severity}")


@pytest.mark.parametrize("name", [n for n in ALL if n != "glass_blur"])
def test_bits_of_imagecorruptions_at_full_size(name: str) -> None:
    skip_unless_repairable()
    image = picture(224, 224)
    np.testing.assert_array_equal(corrupt(image, name, 3, 2), repaired.reference(image, name, 3, 2))


@pytest.mark.parametrize("name", ["frost", "fog", "elastic_transform"])
def test_bits_of_imagecorruptions_where_the_image_outgrows_a_picture(name: str) -> None:
    """Wider than every frost picture, and far from square."""
    skip_unless_repairable()
    image = picture(40, 910)
    for seed in (0, 3, 4):
        np.testing.assert_array_equal(corrupt(image, name, 2, seed), repaired.reference(image, name, 2, seed))


def test_grey_images_become_three_channels_as_there() -> None:
    skip_unless_repairable()
    grey = picture(40, 48)[..., 0]
    for image in (grey, grey[..., np.newaxis]):
        for name in ("snow", "contrast", "saturate", "jpeg_compression"):
            np.testing.assert_array_equal(corrupt(image, name, 2, 0), repaired.reference(image, name, 2, 0))


@pytest.mark.parametrize("seed", [1, 27, 30])
@pytest.mark.parametrize(("severity", "photons"), enumerate((60, 25, 12, 5, 3), start=1))
def test_poisson_counts_are_those_of_numpy(severity: int, photons: int, seed: int) -> None:
    """shot_noise draws its own. With seeds 27 and 30, proposals of several hundred come up at severity 1."""
    image = np.repeat(np.arange(256, dtype=np.uint8), 3 * 64).reshape(128, 128, 3)
    counts = np.random.RandomState(seed).poisson(image / 255.0 * photons)
    expected = (np.clip(counts / float(photons), 0, 1) * 255).astype(np.uint8)
    np.testing.assert_array_equal(corrupt(image, "shot_noise", severity, seed), expected)


def test_impulse_noise_is_that_of_skimage_with_a_seeded_generator() -> None:
    """Defect: imagecorruptions lets skimage draw from a generator that nobody seeds."""
    from skimage.util import random_noise

    image = picture(48, 64)
    for severity, amount in zip(SEVERITIES, (0.03, 0.06, 0.09, 0.17, 0.27), strict=True):
        generator = np.random.Generator(np.random.RandomState(5)._bit_generator)  # type: ignore[attr-defined]
        noisy = random_noise(image / 255.0, mode="s&p", amount=amount, rng=generator)
        expected = (np.clip(noisy, 0, 1) * 255).astype(np.uint8)
        np.testing.assert_array_equal(corrupt(image, "impulse_noise", severity, 5), expected)


def test_a_spatter_without_drops_is_black_as_there() -> None:
    """Kept: the original divides zero by zero where no pixel is wet, and the result is cast to 0."""
    flat = np.full((40, 40), 0.5)
    assert not weather_module._water(picture(40, 40), np.where(flat > 0.69, flat, 0), 0.6).any()


def test_nothing_global_is_touched() -> None:
    image = picture(40, 40)
    before_image, before = image.copy(), np.random.get_state()
    for name in ALL:
        corrupt(image, name, 3, 7)
    after = np.random.get_state()
    assert before[0] == after[0] and before[2:] == after[2:]
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(image, before_image)


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    image = picture(40, 40)
    random = set(ALL) - {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    for name in sorted(random - {"gaussian_blur", "saturate"}):
        first = corrupt(image, name, 4, 1)
        np.testing.assert_array_equal(first, corrupt(image, name, 4, 1))
        assert (first != corrupt(image, name, 4, 2)).any(), name


def test_names() -> None:
    assert len(CORRUPTIONS) == 15 and len(EXTRA) == 4 and ALL == CORRUPTIONS + EXTRA and len(set(ALL)) == 19


def test_seeds_depend_on_what_is_corrupted_alone() -> None:
    assert seed_of("imagenet", "a/b.jpg", "fog", 3) == 1795363707
    others = {seed_of(*args) for args in (("x", "1", "fog", 1), ("x", "1", "fog", 2), ("x", "2", "fog", 1))}
    assert len(others | {seed_of("y", "1", "fog", 1), seed_of("x", "1", "snow", 1)}) == 5
    assert all(0 <= s < 2**32 for s in others)


def test_any_number_of_workers_and_any_order_give_the_same() -> None:
    images = [picture(32 + i, 40, i) for i in range(5)]
    ids = [f"image-{i}" for i in range(5)]
    here = corrupt_many(images, ids, "glass_blur", 2, "some")
    for workers in (1, 2):
        there = corrupt_many(images, ids, "glass_blur", 2, "some", workers=workers)
        for a, b in zip(here, there, strict=True):
            np.testing.assert_array_equal(a, b)
    backwards = corrupt_many(images[::-1], ids[::-1], "glass_blur", 2, "some")[::-1]
    for image, name, a, b in zip(images, ids, here, backwards, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, corrupt(image, "glass_blur", 2, seed_of("some", name, "glass_blur", 2)))
    assert corrupt_many([], [], "fog", 1, "some", workers=2) == []


def test_pil_images_are_taken() -> None:
    image = picture(40, 48)
    np.testing.assert_array_equal(corrupt(Image.fromarray(image), "fog", 1), corrupt(image, "fog", 1))
    grey = image[..., 1].copy()
    np.testing.assert_array_equal(corrupt(Image.fromarray(grey), "fog", 1), corrupt(grey, "fog", 1))
    np.testing.assert_array_equal(corrupt(image[:, ::-1], "fog", 1), corrupt(image[:, ::-1].copy(), "fog", 1))


@pytest.mark.parametrize(
    ("image", "name", "severity", "told"),
    [
        (np.zeros((32, 32, 3), np.uint8), "fogg", 1, 'no corruption "fogg": did you mean "fog"'),
        (np.zeros((32, 32, 3), np.uint8), "fog", 0, "severity 0 of fog: expected 1, 2, 3, 4 or 5"),
        (np.zeros((32, 32, 3), np.uint8), "fog", 6, "severity 6 of fog"),
        (np.zeros((32, 32, 3), np.uint8), "fog", True, "severity True of fog"),
        (np.zeros((32, 32, 3), np.float32), "fog", 1, "uint8 in 0..255, not as float32"),
        (np.zeros((31, 32, 3), np.uint8), "fog", 1, "31 x 32 is too small: both sides need 32 pixels"),
        (np.zeros((32, 32, 4), np.uint8), "fog", 1, r"\[height, width, 3\], not as \[32, 32, 4\]"),
        (np.zeros((1, 32, 32, 3), np.uint8), "fog", 1, r"not as \[1, 32, 32, 3\]"),
        ([[0]], "fog", 1, "as a uint8 array, not as list"),
        (Image.new("RGBA", (32, 32)), "fog", 1, "PIL image of mode RGBA"),
    ],
)
def test_errors_are_one_line(image: object, name: str, severity: int, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        corrupt(image, name, severity)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(UserError, match="is out of range: expected 0 to 4294967295"):
        corrupt(np.zeros((32, 32, 3), np.uint8), "fog", 1, seed)


def test_errors_of_many() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="1 images but 2 ids"):
        corrupt_many([image], ["a", "b"], "fog", 1, "some")
    with pytest.raises(UserError, match="workers=-1"):
        corrupt_many([image], ["a"], "fog", 1, "some", workers=-1)


def test_frost_without_its_pictures_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weather_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install imagecorruptions"):
        corrupt(np.zeros((32, 32, 3), np.uint8), "frost", 1)


def test_importing_is_light() -> None:
    code = (
        "import sys, edit_robust.shifts; print(*[m for m in ('numba', 'cv2', 'skimage', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ""
