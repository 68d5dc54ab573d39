"""What data sets of digits in files share: where they lie, and the words for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edit_robust.core.options import DataFile
from edit_robust.tasks.vision.fetched import torchvision_folder
from edit_robust.tasks.vision.labelled import LabelledImages
from edit_robust.tasks.vision.words import DIGITS, NUMBER


@dataclass(kw_only=True, eq=False)
class DigitFiles(LabelledImages):
    """To inherit from, with `needs` and `splits`; `path` must be given."""

    path: Literal["download"] | DataFile | None = None
    test: DataFile | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_given(self.path)

    def own_words(self) -> tuple[Sequence[str], Sequence[str]]:
        return DIGITS, NUMBER

    def place(self, name: str) -> Path:
        """Where the files are; `name` is torchvision's, for a download."""
        return torchvision_folder(name) if self.path == "download" else Path(str(self.path)).expanduser()
