"""Any folder of images, one folder a class, as a task in words: cars, textures, satellite photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

from edit_robust.core.errors import UserError
from edit_robust.core.options import DataFile
from edit_robust.tasks.vision.folders import Listing, files_of, folder_listing
from edit_robust.tasks.vision.labelled import LabelledImages, Splits, divided, with_test
from edit_robust.tasks.vision.photographs import ClassNames
from edit_robust.tasks.vision.words import PHOTO

PARTS = {"train": ("train", "training"), "held_out": ("val", "validation", "valid"), "test": ("test", "testing")}


@dataclass(kw_only=True, eq=False)
class ImageFolder(LabelledImages):
    """Its further options are those of `LabelledImages`.

    path: a folder (or a .tar or .zip file) with a folder of images for each class; or a folder with train and test, and
        perhaps val, which hold them. Labels follow the sorted names of the folders, and so must `names`; None: the
        folders' own names, with spaces for underscores.
    test: other class folders to judge by; None: those in `path`, or a fifth of its images.
    """

    needs: ClassVar[str] = "your own images: task.path=FOLDER with a folder of images for each class"

    name: str = "image-folder"
    path: DataFile | None = None
    test: DataFile | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_given(self.path)

    @cached_property
    def _places(self) -> dict[str, Path]:
        """Where each part is; `train` alone where the images come in one piece."""
        path = Path(str(self.path)).expanduser()
        found = {
            part: path / name for part, names in PARTS.items() for name in reversed(names) if (path / name).is_dir()
        }
        return found if "train" in found and "test" in found else {"train": path}

    @cached_property
    def _folders(self) -> list[str]:
        """Names of the class folders to train on, sorted."""
        files = files_of(self._places["train"], "task.path")
        if not files.names:
            raise UserError(f"task.path={files.where} holds no images")
        inside = [*files.names, *(f"{e}/" for e in files.empty)]  # an empty one is refused when images are listed
        return sorted({PurePosixPath(n).parent.name if not n.endswith("/") else n[:-1] for n in inside} - {""})

    def own_words(self) -> tuple[Sequence[str], Sequence[str]]:
        return [" ".join(name.replace("_", " ").split()) for name in self._folders], PHOTO

    def _listed(self, path: Path, option: str) -> Listing:
        folders = self._folders

        def index(name: str, where: str) -> int:
            if name not in folders:
                raise UserError(f"{where}: no class of task.path has this name; they are {', '.join(folders[:6])}")
            return folders.index(name)

        return folder_listing(str(path), ClassNames(tuple(folders)), option, index)

    def splits(self) -> Splits:
        """The parts that the folder has, else parts drawn with the seed."""
        found = {part: self._listed(place, "task.path") for part, place in self._places.items()}
        test = self._listed(Path(self.test).expanduser(), "task.test") if self.test else found.get("test")
        if test is None:
            return divided(found["train"], self.n_held_out, self.n_test, self.seed)
        if "held_out" in found:
            return Splits(_apart(found["train"], "train"), _apart(found["held_out"], "val"), _apart(test, "test"))
        parts = with_test(found["train"], test, self.n_held_out, self.seed)
        return Splits(_apart(parts.train, "train"), _apart(parts.held_out, "train"), _apart(test, "test"))


def _apart(listing: Listing, part: str) -> Listing:
    """The listing with its part before every name, so that train/cat/1.png and test/cat/1.png are two pictures."""
    ids = tuple(f"{part}/{name}" for name in listing.ids)
    return Listing(ids, listing.labels, lambda name: listing.load(name.partition("/")[2]), listing.where)
