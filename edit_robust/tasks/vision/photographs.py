"""What the image tasks share: their protocol, the names of classes, and tables of images."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from edit_robust.core.data import ImageRequest, Request
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.image_files import image_size
from edit_robust.core.images import ImageSet
from edit_robust.tasks.reading import existing_file, read_text


class ImageTask(Protocol):
    """A task that asks a classifier about images, and edits it with pairs of images.

    `needs` says what to give, for `edit-robust ls tasks`; `classes` are the names of the model's classes, whose
    positions are the labels (None: unknown).
    """

    gives: ClassVar[type[Request]] = ImageRequest
    needs: ClassVar[str]
    name: str

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    def requests(self) -> list[ImageRequest]:
        """One a pair of concept and style, in the order they are made."""
        ...

    def training_requests(self) -> list[ImageRequest]:
        """Requests for editors that learn; no picture of theirs is in `requests()` or in an edit set. May be empty."""
        ...

    def image_sets(self, requests: Sequence[ImageRequest]) -> list[ImageSet]:
        """The original task's validation images once, an "edit" set a request, then the natural shifts."""
        ...

    def moment_images(self) -> ImageSet:
        """Images of the original task for second moments; none of the validation set where there are enough."""
        ...

    def reference_accuracies(self) -> list[dict[str, Any]] | None:
        """Accuracies of unedited reference models per shift, for effective robustness; None: there are none."""
        ...


def search_requests(requests: Sequence[ImageRequest]) -> list[ImageRequest]:
    """The search pairs of each request as a request of their own; requests without any are left out.

    A pair whose picture some request is made with is left out, too: a photograph can show several concepts.
    """
    taken = {picture_of(i) for r in requests for i in r.x.ids}
    found = []
    for r in requests:
        if r.search is None:
            continue
        rows = [k for k, i in enumerate(r.search.ids) if picture_of(i) not in taken]
        if rows:
            found.append(ImageRequest(f"{r.id}/search", r.search.take(rows), None, concept=r.concept, style=r.style))
    return found


def picture_of(name: str) -> str:
    """The picture that a pair was made of: what stands before the @ of its name; after it stands the style."""
    return name.partition("@")[0]


# -- classes -------------------------------------------------------------------------------------------------------


def plain(word: str) -> str:
    """A name as it is compared: "School_bus" and "school bus" are the same."""
    return re.sub(r"[^a-z0-9]", "", word.casefold())


@dataclass(frozen=True)
class ClassNames:
    """The names of a model's classes, by index. `synonyms`: all names of each; `wnids`: WordNet ids, or nothing."""

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...] = ()
    wnids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _exact(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for i, words in enumerate(self.synonyms or tuple((n,) for n in self.names)):
            for word in {plain(w) for w in (*words, *self.wnids[i : i + 1])}:
                found.setdefault(word, []).append(i)
        return found

    def index(self, word: str, where: str) -> int:
        """The class that an index, a name or a WordNet id means; UserError, which begins with `where`, if none does."""
        if re.fullmatch(r"\d+", word.strip()):
            return self.checked(int(word), where)
        return self._one(self._exact.get(plain(word), []), word, where)

    def index_within(self, word: str, where: str) -> int:
        """Like `index`, but a part of a name is enough ("armytank"), unless it is a part of several classes' names."""
        exact = self._exact.get(plain(word), [])
        parts = {i for name, found in self._exact.items() if plain(word) in name for i in found} if plain(word) else ()
        return self._one(exact or sorted(parts), word, where)

    def checked(self, label: int, where: str) -> int:
        """`label` if there is such a class."""
        if not 0 <= label < len(self):
            raise UserError(f"{where}: there is no class {label}; the {len(self)} classes are 0 to {len(self) - 1}")
        return label

    def _one(self, found: Sequence[int], word: str, where: str) -> int:
        if not found:
            near = list(self._near(word))
            hint = nearest(word, near, "classes") if near else f"{len(self)} are known, such as {self.names[0]}"
            raise UserError(f'{where}: no class is named "{word}"; {hint}')
        if len(found) > 1:
            several = ", ".join(f"{i} {self.names[i]}" for i in found[:6])
            raise UserError(f'{where}: "{word}" fits {len(found)} classes ({several}); give the index of one')
        return found[0]

    def _near(self, word: str) -> Iterable[str]:
        """Names to choose the nearest of, as they are written. With 1000 classes the list would say nothing."""
        from difflib import get_close_matches

        every = {w for words in self.synonyms or ((n,) for n in self.names) for w in words}
        return every if len(every) <= 24 else get_close_matches(word, sorted(every), n=3, cutoff=0.5)


def imagenet_classes() -> ClassNames:
    """The 1000 classes of ImageNet with their WordNet ids, as the installed timm lists them."""
    from timm.data import ImageNetInfo  # slow to import, and most tasks do not need it

    info = ImageNetInfo()
    wnids = tuple(info.label_names())
    synonyms = tuple(tuple(w.strip() for w in info.label_name_to_description(n).split(",")) for n in wnids)
    return ClassNames(tuple(words[0] for words in synonyms), synonyms, wnids)


def class_names(given: str | Sequence[str] | None) -> ClassNames | None:
    """Classes as the option `task.classes` gives them: names, "imagenet", or a file with one name a line."""
    if given is None:
        return None
    if given == "imagenet":
        return imagenet_classes()
    if isinstance(given, str):
        lines = [line.strip() for line in read_text(given, "task.classes").splitlines()]
        names = tuple(line for line in lines if line)
        where = f"task.classes={given}"
    else:
        names, where = tuple(given), "task.classes"
    if not names:
        raise UserError(f"{where} holds no names")
    if twice := [n for n, k in Counter(names).items() if k > 1]:
        raise UserError(f'{where}: the name "{twice[0]}" is there twice; labels are positions in this list')
    return ClassNames(names)


# -- tables --------------------------------------------------------------------------------------------------------


def csv_table(
    path: str | Path, option: str, required: Sequence[str], optional: Sequence[str], strict: bool = True
) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, each with its place in words; cells are stripped, empty lines skipped.

    Raises UserError for a column that is missing, doubled or (with `strict`) unknown, for a row of another length,
    for an empty cell of a required column, and for a file without rows.
    """
    file = existing_file(Path(path).expanduser(), option)
    reader = csv.reader(io.StringIO(read_text(file, option), newline=""), strict=True)
    known, rows = (*required, *optional), []
    try:
        header = [c.strip() for c in next(reader, [])]
        for name in header:
            if header.count(name) > 1 and name:
                raise UserError(f'{file}, line 1: the column "{name}" is there twice')
            if strict and name not in known:
                raise UserError(f'{file}, line 1: unknown column "{name}"; {nearest(name, known, "columns")}')
        if missing := [name for name in required if name not in header]:
            there = ", ".join(header) or "none"
            raise UserError(f'{file}, line 1: the column "{missing[0]}" is missing; found {there}')
        line = reader.line_num + 1
        for cells in reader:
            where, line = f"{file}, line {line}", reader.line_num + 1
            if not any(c.strip() for c in cells):
                continue
            if len(cells) != len(header):
                raise UserError(f"{where}: {len(cells)} cells for {len(header)} columns")
            row = {k: c.strip() for k, c in zip(header, cells, strict=True) if k in known}
            if empty := [k for k in required if not row[k]]:
                raise UserError(f'{where}: "{empty[0]}" is empty')
            rows.append((where, row))
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: not valid CSV ({error})") from error
    if not rows:
        raise UserError(f"{file} holds no rows below its header")
    return rows


def read_label(text: str, classes: ClassNames | None, where: str) -> int:
    """A label as a table gives it: an index, or a name where the classes are known."""
    if classes is not None:
        return classes.index(text, f'{where}: "label"')
    if not re.fullmatch(r"\d+", text):
        raise UserError(
            f'{where}: "label" must be an index from 0, not "{text}"; for names of classes give task.classes=FILE, too'
        )
    return int(text)


def file_beside(base: Path, name: str, column: str, where: str) -> Path:
    """The file that a cell names, relative to the table's folder."""
    path = base / Path(name).expanduser()
    if not path.is_file():
        around = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            f'{where}: "{column}": there is no file {path}; {nearest(path.name, around, f"in {path.parent}")}'
        )
    return path


def name_beside(base: Path, name: str) -> str:
    """The name of a file that a cell names: its path relative to the table's folder, however the cell spells it.

    A file outside of the folder keeps the cell's spelling.
    """
    root = posixpath.normpath(base.absolute().as_posix())
    place = posixpath.normpath((base.absolute() / Path(name).expanduser()).as_posix())
    return place.removeprefix(f"{root}/") if place.startswith(f"{root}/") else name


def same_size(sizes: Mapping[str, Path], where: str) -> tuple[int, int]:
    """The one size (height, width) that files have, from their headers; UserError if they differ. Keys name them."""
    found = {name: image_size(path) for name, path in sizes.items()}
    (first, size), *others = found.items()
    for name, other in others:
        if other != size:
            raise UserError(
                f"{where}: {name} is {other[1]} x {other[0]} pixels, {first} is {size[1]} x {size[0]}; "
                "they must have the same size"
            )
    return size
