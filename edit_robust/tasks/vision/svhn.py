"""SVHN: house numbers, cropped to digits, from the .mat files of the original distribution or any .npz with x and y."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edit_robust.tasks.vision.arrays import Pictures, first_of, read_mat, read_npz
from edit_robust.tasks.vision.digit_files import DigitFiles
from edit_robust.tasks.vision.labelled import Splits, divided, with_test


@dataclass(kw_only=True, eq=False)
class Svhn(DigitFiles):
    """Its further options are those of `LabelledImages`.

    path: a folder with train_32x32.mat and test_32x32.mat, one .mat or .npz file, or `download`.
    test: another file to judge by; None: the folder's own, or a fifth of a single file.
    """

    needs: ClassVar[str] = "SVHN: task.path=FOLDER with train_32x32.mat and test_32x32.mat, an .npz file, or download"

    name: str = "svhn"

    def splits(self) -> Splits:
        """SVHN's own test part, where it is there."""
        path = self.place("SVHN")
        if path.is_dir():
            files = [first_of(path, [f"{part}_32x32.mat"], "task.path") for part in ("train", "test")]
            every, test = (read_mat(file).listing(10) for file in files)
            return with_test(every, test, self.n_held_out, self.seed)
        every = _read(path, "task.path").listing(10)
        if self.test is None:
            return divided(every, self.n_held_out, self.n_test, self.seed)
        return with_test(every, _read(Path(self.test), "task.test").listing(10), self.n_held_out, self.seed)


def _read(path: Path, option: str) -> Pictures:
    return read_mat(path) if path.suffix == ".mat" and path.is_file() else read_npz(path, option)
