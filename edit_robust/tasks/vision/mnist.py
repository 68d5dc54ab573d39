"""MNIST: handwritten digits from the files of the original distribution, of Keras, or of any .npz with x and y."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edit_robust.tasks.vision.arrays import Pictures, first_of, has_both, read_idx, read_npz
from edit_robust.tasks.vision.digit_files import DigitFiles
from edit_robust.tasks.vision.labelled import Splits, divided, with_test

PARTS = {"train": "train", "test": "t10k"}
PLACES = (".", "raw", "MNIST/raw")


@dataclass(kw_only=True, eq=False)
class Mnist(DigitFiles):
    """Its further options are those of `LabelledImages`.

    path: a folder with MNIST's idx files (compressed or not), an .npz file, or `download`.
    test: another .npz file to judge by; None: the test part of `path`, or a fifth of an .npz file that has none.
    """

    needs: ClassVar[str] = "MNIST: task.path=FOLDER of idx files, or an .npz file with x and y, or download"

    name: str = "mnist"

    def splits(self) -> Splits:
        """MNIST's own test part, where it is there."""
        path = self.place("MNIST")
        if path.is_dir():
            every, test = (self._idx(path, split).listing(10) for split in PARTS)
            return with_test(every, test, self.n_held_out, self.seed)
        every = read_npz(path, "task.path", "train").listing(10)
        if self.test is not None:
            test = read_npz(self.test, "task.test", "test").listing(10)
        elif has_both(path):
            test = read_npz(path, "task.path", "test").listing(10)
        else:
            return divided(every, self.n_held_out, self.n_test, self.seed)
        return with_test(every, test, self.n_held_out, self.seed)

    def _idx(self, path: Path, split: str) -> Pictures:
        stem = PARTS[split]
        there = [path / p for p in PLACES if any((path / p).glob(f"{stem}-images*"))] or [path]
        files = [
            first_of(there[0], [f"{stem}-{kind}{dot}idx{k}-ubyte{z}" for dot in "-." for z in ("", ".gz")], "task.path")
            for kind, k in (("images", 3), ("labels", 1))
        ]
        return read_idx(files[0], files[1])
