"""Weather: snow, frost, fog, brightness, and spatter. Each takes uint8 [height, width, 3] and draws from the stream."""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edit_robust.core.errors import UserError
from edit_robust.shifts.images import pointwise, spatial
from edit_robust.shifts.images.blur import gaussian, motion, zoomed, zoomed_side
from edit_robust.shifts.images.types import Pixels

#: The pictures that frost is taken from. The package holds a sixth, which the original never draws.
FROST = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def snow(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """Bright flakes, blown up and smeared, over a whitened image; once as drawn and once turned by 180 degrees."""
    import cv2

    mean, std, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    height, width = image.shape[:2]
    x = image.astype(np.float32) / np.float32(255)
    noise = rng.normal(size=(height, width), loc=mean, scale=std)
    # Smeared at its whole zoomed size: the flakes beside the image drift into it.
    flakes = np.zeros((zoomed_side(height, zoom), zoomed_side(width, zoom), 1))
    zoomed(noise[..., np.newaxis], zoom, flakes)
    flakes[flakes < threshold] = 0
    flakes = np.clip(flakes, 0, 1)
    smeared = motion(flakes, radius, sigma, rng.uniform(-135, -45), (height, width))
    layer = np.round(smeared * 255).astype(np.uint8) / 255.0
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).reshape(height, width, 1)
    x = keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5)
    return pointwise.floor_bytes((x + layer + np.rot90(layer, k=2)).ravel()).reshape(image.shape)


# Two small tables of constants, at most one entry a picture: decoding and resizing cost ten times the rest of frost.
# They hold files of the installation and nothing of a run.
@lru_cache(maxsize=len(FROST))
def _decoded(file: Path) -> np.ndarray:
    """A picture of frost, uint8 [rows, columns, 3] BGR. OpenCV decodes it, as in the original: decoders differ."""
    import cv2

    picture = cv2.imread(str(file))
    if picture is None:
        raise UserError(f"{file} cannot be read; frost needs the pictures of imagecorruptions: install it again")
    picture.flags.writeable = False
    return np.asarray(picture)


@lru_cache(maxsize=len(FROST))
def _resized(file: Path, size: tuple[int, int]) -> np.ndarray:
    """The picture at (columns, rows)."""
    import cv2

    resized = cv2.resize(_decoded(file), dsize=size, interpolation=cv2.INTER_CUBIC)
    resized.flags.writeable = False
    return np.asarray(resized)


def frost_picture(file: Path, height: int, width: int) -> np.ndarray:
    """A picture of frost, uint8 BGR, a tenth larger than it is, or than an image that it would not cover."""
    rows, columns = _decoded(file).shape[:2]
    scale = 1.1 * max(1.0, height / rows, width / columns)
    return _resized(file, (math.ceil(columns * scale), math.ceil(rows * scale)))


def frost_folder() -> Path:
    """Where the installed imagecorruptions keeps its pictures; found without importing it."""
    spec = find_spec("imagecorruptions")
    for place in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(place) / "frost"
        if folder.is_dir():
            return folder
    raise UserError("frost needs the pictures that imagecorruptions brings along: pip install imagecorruptions")


def frost(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """A part of a picture of frost laid over the image."""
    keep, amount = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width = image.shape[:2]
    picture = frost_picture(frost_folder() / FROST[rng.randint(5)], height, width)
    top = rng.randint(0, picture.shape[0] - height)
    left = rng.randint(0, picture.shape[1] - width)
    part = picture[top : top + height, left : left + width, ::-1]
    values = np.arange(256)
    return pointwise.blend(image, part, keep * values.astype(np.float64), amount * values.astype(np.float64))


def fog(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """A plasma fractal of brightness, at the image's own range. Defect fixed: `np.float_` is gone from numpy."""
    amount, decay = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    size = 1 << (max(image.shape) - 1).bit_length()
    grid = np.zeros((size, size))
    step, wibble = size, 100.0
    while step >= 2:
        n = size // step
        spatial.diamond_square(grid, step, wibble, rng.uniform(-wibble, wibble, (3, n, n)))
        step //= 2
        wibble /= decay
    return pointwise.add_fog(image, grid, float(amount), image.max() / 255.0)


def brightness(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """HSV value + c."""
    c = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    return pointwise.shift_hsv(image.reshape(-1, 3), 1.0, 0.0, c, False).reshape(image.shape)


def spatter(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """Drops of water (severities 1 to 3) or splashes of mud (4 and 5)."""
    mean, std, sigma, threshold, amount, mud = (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    )[severity - 1]
    liquid = gaussian(rng.normal(size=image.shape[:2], loc=mean, scale=std), (sigma, sigma))
    liquid[liquid < threshold] = 0
    return _mud(image, liquid > threshold, amount) if mud else _water(image, liquid, amount)


def _water(image: Pixels, liquid: np.ndarray, amount: float) -> Pixels:
    """Pale turquoise drops with a lit rim; liquid float64 [height, width].

    Kept, though it looks unmeant: where no pixel is wet the original divides zero by zero, and the image comes out
    black (at 32 x 32 and severity 1 about one in forty; not seen from 48 x 48 on).
    """
    import cv2

    wet = (liquid * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(wet, 50, 150), cv2.DIST_L2, 5)
    _, distance = cv2.threshold(distance, 20, 20, cv2.THRESH_TRUNC)
    relief = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    light = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = cv2.blur(cv2.filter2D(relief, cv2.CV_8U, light), (3, 3)).astype(np.float32)
    drops = wet * relief
    if drops.max() == 0:
        return np.zeros_like(image)
    drops = drops / drops.max() * np.float32(amount)
    colour = np.array([175 / 255.0, 238 / 255.0, 238 / 255.0], dtype=np.float32)
    x = image.astype(np.float32) / np.float32(255)
    return (np.clip(x + drops[..., np.newaxis] * colour, 0, 1) * np.float32(255)).astype(np.uint8)


def _mud(image: Pixels, wet: np.ndarray, amount: float) -> Pixels:
    """Brown splashes; wet bool [height, width], amount: blur of their edge in pixels."""
    m = gaussian(wet.astype(np.float32), (amount, amount))
    m[m < 0.8] = 0
    x = image.astype(np.float32) / np.float32(255)
    colour = np.array([63 / 255.0, 42 / 255.0, 20 / 255.0]) * m[..., np.newaxis]
    x *= 1 - m[..., np.newaxis]
    return (np.clip(x + colour, 0, 1) * 255).astype(np.uint8)
