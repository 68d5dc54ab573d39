"""imagecorruptions 1.1.2 made to run on a current stack, from outside: the measure that our corruptions are held to.

Nothing of its code is changed. What is gone from the libraries around it is put in place while it is imported, and two
names in its module are bound again: skimage's `gaussian` (which lost `multichannel=`) and `random_noise` (which draws
from a generator of its own, so that impulse_noise does not listen to np.random.seed; here it draws from np.random's).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Unrepairable(Exception):
    """imagecorruptions is not installed, or cannot be brought to run here."""


def _stand_ins(folder: Path) -> dict[str, types.ModuleType]:
    """Modules that it imports and that may be gone."""
    from scipy import ndimage

    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda package, name: str(folder / name)  # type: ignore[attr-defined]
    interpolation = types.ModuleType("scipy.ndimage.interpolation")
    interpolation.map_coordinates = ndimage.map_coordinates  # type: ignore[attr-defined]
    return {"pkg_resources": resources, "scipy.ndimage.interpolation": interpolation}


class _Numpy:
    """numpy with `float_`, as the module sees it."""

    float_ = np.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _Skimage:
    """The two parts of skimage that the module reaches through `sk`."""

    def __init__(self) -> None:
        from skimage import color, util

        def random_noise(image: np.ndarray, mode: str, **options: Any) -> np.ndarray:
            generator = np.random.Generator(np.random.mtrand._rand._bit_generator)  # type: ignore[attr-defined]
            return np.asarray(util.random_noise(image, mode=mode, rng=generator, **options))

        self.color = color
        self.util = types.SimpleNamespace(random_noise=random_noise)


def _gaussian(image: np.ndarray, sigma: Any, multichannel: bool = False, **options: Any) -> np.ndarray:
    from skimage.filters import gaussian

    return np.asarray(gaussian(image, sigma, channel_axis=-1 if multichannel else None, **options))


def load() -> Callable[..., np.ndarray]:
    """Its `corrupt(image, severity, corruption_name)`, which draws from np.random as it always did. May raise
    `Unrepairable`."""
    spec = importlib.util.find_spec("imagecorruptions")
    if spec is None or not spec.submodule_search_locations:
        raise Unrepairable("imagecorruptions is not installed")
    stand_ins = _stand_ins(Path(next(iter(spec.submodule_search_locations))))
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        package = importlib.import_module("imagecorruptions")
        module = importlib.import_module("imagecorruptions.corruptions")
    except ImportError as e:
        raise Unrepairable(str(e)) from e
    finally:
        for name, was in before.items():
            if was is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = was
    module.np = _Numpy()  # type: ignore[attr-defined]
    module.sk = _Skimage()  # type: ignore[attr-defined]
    module.gaussian = _gaussian  # type: ignore[attr-defined]
    return package.corrupt  # type: ignore[no-any-return]


def reference(image: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """Its answer for np.random.seed(seed); np.random is left as it was found."""
    corrupt = load()
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # a drop-free spatter layer divides by zero
            return corrupt(image, severity=severity, corruption_name=name)
    finally:
        np.random.set_state(state)
