"""Every corruption at every severity against recorded hashes, for machines where imagecorruptions does not run.

`python tests/unit/test_corruptions_golden.py` records them anew. On another stack (releases, processor) rounding may
differ in places: there the mean of the pixels is compared.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from edit_robust.shifts import ALL, corrupt

RECORDED = Path(__file__).parent / "corruption_hashes.json"
SIZES = ((48, 48), (64, 64), (224, 224), (40, 72))
#: JPEG depends on the libjpeg inside Pillow: it is compared with Pillow itself.
NAMES = [n for n in ALL if n != "jpeg_compression"]


def picture(height: int, width: int) -> np.ndarray:
    """uint8, from integers alone."""
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([255 * x // width, 255 * y // height, (x * y) % 256], -1)
    return np.clip(ramps + np.random.RandomState(0).randint(-25, 26, ramps.shape), 0, 255).astype(np.uint8)


def stack() -> str:
    """What rounding may depend on: releases, and what this processor makes of exp, sin and OpenCV."""
    import cv2

    probe = np.linspace(-30, 3, 4001)
    told = [f"{n} {version(n)}" for n in ("numpy", "opencv-python", "Pillow")] + [platform.machine()]
    digest = hashlib.sha256("".join(told).encode() + np.exp(probe).tobytes() + np.sin(probe).tobytes())
    digest.update(cv2.getCPUFeaturesLine().encode())
    return digest.hexdigest()[:16]


def outcome(name: str, height: int, width: int, severity: int) -> list[object]:
    """[hash, mean pixel]; the seed is the severity."""
    out = corrupt(picture(height, width), name, severity, severity)
    return [hashlib.sha256(out.tobytes()).hexdigest()[:16], round(float(out.mean()), 4)]


@pytest.mark.parametrize("name", NAMES)
def test_recorded_pixels(name: str) -> None:
    recorded = json.loads(RECORDED.read_text())
    same_stack = recorded["stack"] == stack()
    for height, width in SIZES:
        for severity in range(1, 6):
            key = f"{name} {height}x{width} {severity}"
            digest, mean = outcome(name, height, width, severity)
            if same_stack:
                assert [digest, mean] == recorded["pixels"][key], key
            else:
                assert mean == pytest.approx(recorded["pixels"][key][1], abs=0.05), key


def test_jpeg_is_that_of_pillow(tmp_path: Path) -> None:
    from PIL import Image

    image = picture(64, 80)
    for severity, quality in enumerate((25, 18, 15, 10, 7), start=1):
        Image.fromarray(image).save(tmp_path / "x.jpg", quality=quality)
        expected = np.asarray(Image.open(tmp_path / "x.jpg"))
        np.testing.assert_array_equal(corrupt(image, "jpeg_compression", severity), expected)


def record() -> None:
    """Write the file of hashes."""
    pixels = {f"{n} {h}x{w} {s}": outcome(n, h, w, s) for n in NAMES for h, w in SIZES for s in range(1, 6)}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in pixels.items())
    RECORDED.write_text(f'{{"stack": "{stack()}",\n"pixels": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    record()
