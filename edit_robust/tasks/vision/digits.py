"""Handwritten digits that need no file: scikit-learn's 8 x 8 digits, and those of the scene world."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from edit_robust.core.images import Pixels
from edit_robust.tasks.vision.folders import Listing
from edit_robust.tasks.vision.labelled import LabelledImages, Splits, divided
from edit_robust.tasks.vision.words import DIGITS, NUMBER
from edit_robust.tasks.worlds.scenes import world

SIDE = 64  # pixels that the 8 x 8 digits are enlarged to, so that random crops are finer than one of their pixels
#: Streams of the world, and so many images of each at most.
STREAMS = ("train", "search", "test")
MOST = 10_000


@dataclass(kw_only=True, eq=False)
class Digits(LabelledImages):
    """scikit-learn's copy of the UCI handwritten digits: 1797 images of 8 x 8 pixels, white on black, enlarged.

    Its options are those of `LabelledImages`.
    """

    name: str = "digits"
    n_test: int | None = None

    def own_words(self) -> tuple[Sequence[str], Sequence[str]]:
        return DIGITS, NUMBER

    def splits(self) -> Splits:
        """All images in three parts, drawn with the seed."""
        from sklearn.datasets import load_digits

        held = load_digits()
        images = np.rint(held.images * (255 / 16)).astype(np.uint8)
        ids = tuple(f"digits/{i:04d}" for i in range(len(images)))
        labels = tuple(int(y) for y in held.target)
        every = Listing(ids, labels, lambda name: _enlarged(images[int(name.rpartition("/")[2])]), "digits")
        return divided(every, self.n_held_out, self.n_test, self.seed)


def _enlarged(grey: UInt8[np.ndarray, "height width"]) -> Pixels:
    """A grey picture as [SIDE, SIDE, 3]."""
    large = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(large)[:, :, None], 3, axis=2)


@dataclass(kw_only=True, eq=False)
class SceneDigits(LabelledImages):
    """The scene world's digits, drawn on demand. Its further options are those of `LabelledImages`.

    kind: `mnist` (white on black), `svhn` (on house fronts, between others), `cards` (on cards that lie on a desk).
    world_seed: another one draws other digits.
    """

    needs: ClassVar[str] = "nothing: the digits are drawn on demand"

    name: str = "scene-digits"
    kind: Literal["mnist", "svhn", "cards"] = "mnist"
    n_train: int | None = 1000
    n_test: int | None = 500
    world_seed: int = 0

    def own_words(self) -> tuple[Sequence[str], Sequence[str]]:
        return DIGITS, NUMBER

    def splits(self) -> Splits:
        """A stream of the world for each part."""
        counts = (self.n_train or MOST, self.n_held_out, self.n_test or MOST)
        train, held_out, test = (self._drawn(s, n) for s, n in zip(STREAMS, counts, strict=True))
        return Splits(train, held_out, test)

    def _drawn(self, stream: str, n: int) -> Listing:
        def load(name: str) -> Pixels:
            images, _ = world.digits(self.kind, stream, [int(name.rpartition("/")[2])], self.world_seed)
            return np.asarray(images[0])

        ids = tuple(f"{self.kind}/{stream}/{i}" for i in range(n))
        return Listing(ids, tuple(i % 10 for i in range(n)), load, f"scene world's {self.kind}")
