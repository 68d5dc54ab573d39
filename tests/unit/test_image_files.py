"""Images, masks, textures and arrays from files: every kind of them, and every error."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import fails
from helpers.pictures import picture, save
from PIL import Image

from edit_robust.core import image_files as images
from edit_robust.core.image_files import image_size, read_image, read_mask
from edit_robust.tasks.vision.textures import Lazy, fitted, read_arrays, read_textures


def modes() -> dict[str, tuple[Image.Image, str, int]]:
    """name -> an image of 3 x 4 pixels, the ending to save it with, and the red of its first pixel as it is seen."""
    grey = np.full((3, 4), 100, np.uint8)
    rgba = np.dstack([np.full((3, 4, 3), 10, np.uint8), np.zeros((3, 4), np.uint8)])
    palette = Image.fromarray(grey).convert("P")
    cmyk = Image.fromarray(np.zeros((3, 4, 4), np.uint8), mode="CMYK")
    return {
        "grey": (Image.fromarray(grey), ".png", 100),
        "bits": (Image.fromarray(grey > 0), ".png", 255),
        "palette": (palette, ".png", 100),
        "alpha": (Image.fromarray(rgba), ".png", 255),
        "grey-alpha": (Image.fromarray(rgba).convert("LA"), ".png", 255),
        "cmyk": (cmyk, ".tif", 255),
        "16-bit": (Image.fromarray(np.full((3, 4), 25700, np.uint16)), ".png", 100),
        "32-bit": (Image.fromarray(np.full((3, 4), 25700, np.int32)), ".tif", 100),
        "float": (Image.fromarray(np.full((3, 4), 100 / 255, np.float32)), ".tif", 100),
    }


@pytest.mark.parametrize("mode", modes())
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image, ending, red = modes()[mode]
    path = save(tmp_path / f"x{ending}", image)
    found = read_image(path)
    assert (found.shape, found.dtype) == ((3, 4, 3), np.uint8)
    assert abs(int(found[0, 0, 0]) - red) <= 1
    assert image_size(path) == (3, 4)
    assert found.flags.writeable


def test_cmyk_jpeg_and_transparent_palette(tmp_path: Path) -> None:
    cmyk = Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).convert("CMYK")
    assert abs(int(read_image(save(tmp_path / "c.jpg", cmyk))[4, 4, 1]) - 200) < 6
    see_through = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    assert read_image(save(tmp_path / "p.png", see_through, transparency=0))[0, 0].tolist() == [255] * 3


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.png", picture(0, 4, 6), exif=exif)
    assert np.array_equal(read_image(path), np.rot90(picture(0, 4, 6), -1))
    assert image_size(path) == (6, 4)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return start + struct.pack(">I", 4) + b"IDATxxxx"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as an image (the file is empty)"),
        (b"GIF89a", "cannot be read as an image"),
        (b"not an image", "no known image format"),
        (png_header(30_000, 30_000), "too large (more than 200 million pixels)"),
        (png_header(16_000, 15_000), "too large"),
        (png_header(8, 8), "cannot be read as an image"),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    fails(f"{path} & {words}", lambda: read_image(path))


def test_damaged_small_and_absent_images(tmp_path: Path) -> None:
    whole = save(tmp_path / "x.png", picture(0, 64, 64)).read_bytes()
    for name, ending in (("cut.png", whole[: len(whole) // 2]), ("flipped.png", whole[:60] + b"xx" + whole[62:])):
        (tmp_path / name).write_bytes(ending)
        fails(f"{name} & cannot be read as an image", lambda name=name: read_image(tmp_path / name))
    jpeg = save(tmp_path / "x.jpg", picture(0, 64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    fails("cut.jpg & truncated", lambda: read_image(tmp_path / "cut.jpg"))
    fails("1 x 7 pixels", lambda: read_image(save(tmp_path / "thin.png", picture(0, 7, 1))))
    fails("no such file", lambda: read_image(tmp_path / "absent.png"))
    fails("no such file", lambda: image_size(tmp_path / "absent.png"))
    fails("cannot be read", lambda: read_image(tmp_path))


def test_masks(tmp_path: Path) -> None:
    half = np.zeros((4, 6), np.uint8)
    half[2:] = 1
    for scale in (1, 90, 255):
        mask = read_mask(save(tmp_path / "m.png", half * scale), (4, 6))
        assert mask.dtype == bool and np.array_equal(mask, half > 0)
    assert read_mask(save(tmp_path / "full.png", np.full((4, 6), 255, np.uint8))).all()
    fails("m.png & 6 x 4 & 4 x 6 & same size", lambda: read_mask(tmp_path / "m.png", (6, 4)))
    fails("zero everywhere", lambda: read_mask(save(tmp_path / "empty.png", half * 0)))


def test_textures(tmp_path: Path) -> None:
    torch.save({"imgs": torch.full((2, 3, 8, 8), 0.5)}, tmp_path / "a.pt")
    np.savez(tmp_path / "b.npz", imgs=np.full((3, 3, 8, 8), 7, np.uint8))
    assert [t[0, 0, 0] for t in read_textures(tmp_path / "a.pt")] == [128, 128]
    assert [t.shape for t in read_textures(tmp_path / "b.npz")] == [(8, 8, 3)] * 3
    save(tmp_path / "folder" / "x.png", picture(0))
    save(tmp_path / "folder" / "y.jpg", picture(1))
    assert len(read_textures(tmp_path / "folder")) == 2
    assert len(read_textures(tmp_path / "folder" / "x.png")) == 1
    assert fitted(picture(0, 20, 10), (7, 9)).shape == (7, 9, 3)
    (tmp_path / "none").mkdir()
    fails("task.textures & holds no images", lambda: read_textures(tmp_path / "none"))
    fails("task.textures & no such file or folder", lambda: read_textures(tmp_path / "absent"))
    torch.save({"img": torch.zeros(1, 3, 8, 8)}, tmp_path / "c.pt")
    fails('has no "imgs" & did you mean "img"?', lambda: read_textures(tmp_path / "c.pt"))
    torch.save({"imgs": torch.zeros(1, 8, 8, 3)}, tmp_path / "d.pt")
    fails("[1, 8, 8, 3] & [n, 3, height, width]", lambda: read_textures(tmp_path / "d.pt"))
    torch.save({"imgs": torch.full((1, 3, 8, 8), 99.0)}, tmp_path / "e.pt")
    fails("numbers from 0 to 1", lambda: read_textures(tmp_path / "e.pt"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/nowhere/evil").touch, ())


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"imgs": Evil()}, tmp_path / "x.pt")
    fails("x.pt cannot be read as plain tensors", lambda: read_arrays(tmp_path / "x.pt"))
    np.savez(tmp_path / "x.npz", imgs=np.array([{}], dtype=object))
    fails("x.npz cannot be read as named arrays", lambda: read_arrays(tmp_path / "x.npz"))
    (tmp_path / "y.pt").write_bytes(b"junk")
    fails("y.pt cannot be read", lambda: read_arrays(tmp_path / "y.pt"))


def test_lazy_is_a_sequence() -> None:
    made: list[int] = []
    lazy = Lazy(4, lambda i: made.append(i) or i * 10)  # type: ignore[func-returns-value]
    assert (len(lazy), lazy[2], lazy[-1], list(lazy), lazy[1:3]) == (4, 20, 30, [0, 10, 20, 30], [10, 20])
    assert made[0] == 2
    with pytest.raises(IndexError):
        lazy[4]


def test_images_module_has_no_global_effect() -> None:
    assert Image.MAX_IMAGE_PIXELS == 89478485 and images.MAX_PIXELS == 200_000_000
