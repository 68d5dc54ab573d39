"""Edits from pairs of images of one's own: a table of clean and edited photographs with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edit_robust.core.data import ImageRequest, Request
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.image_files import read_image, read_mask
from edit_robust.core.images import ImageSet, Triples
from edit_robust.core.options import DataFile
from edit_robust.tasks.vision.natural import Originals
from edit_robust.tasks.vision.photographs import (
    ClassNames,
    csv_table,
    file_beside,
    name_beside,
    read_label,
    same_size,
    search_requests,
)
from edit_robust.tasks.vision.textures import Lazy

SPLITS = ("train", "search", "val")


@dataclass(frozen=True)
class PairRow:
    """One pair as a table has it. `clean_id` and `edited_id` are paths relative to its folder (`name_beside`); `split`
    is "" where the table has none."""

    where: str
    clean_id: str
    edited_id: str
    clean: Path
    edited: Path
    mask: Path | None
    label: int
    split: str = ""

    @property
    def id(self) -> str:
        """clean image @ edited image: what stands before the @ tells whether two pairs share a photograph."""
        return f"{self.clean_id}@{self.edited_id}"


def read_pairs(path: str, classes: ClassNames | None, option: str) -> list[PairRow]:
    """The rows of a table with the columns path, edited_path, label and optionally mask_path, split.

    Files must exist, be images, and agree in size. Raises UserError that names the line and the column.
    """
    base = Path(path).expanduser().parent
    rows: list[PairRow] = []
    seen: dict[str, str] = {}
    for where, row in csv_table(path, option, ("path", "edited_path", "label"), ("mask_path", "split")):
        files = {c: file_beside(base, row[c], c, where) for c in ("path", "edited_path", "mask_path") if row.get(c)}
        same_size(files, where)
        split = row.get("split", "")
        if "split" in row and split not in SPLITS:
            raise UserError(f'{where}: "split" is "{split}"; {nearest(split, SPLITS, "splits")}')
        label = read_label(row["label"], classes, where)
        found = PairRow(
            where, name_beside(base, row["path"]), name_beside(base, row["edited_path"]),
            files["path"], files["edited_path"], files.get("mask_path"), label, split,
        )  # fmt: skip
        if found.id in seen:
            raise UserError(f"{where}: the same path and edited_path as in {seen[found.id]}")
        seen[found.id] = where
        rows.append(found)
    return rows


def split_rows(rows: Sequence[PairRow], search_share: float, val_share: float, seed: int) -> list[PairRow]:
    """The rows with a split each; pairs that share a clean image always share the split.

    Without splits, shares of the clean images, drawn with `seed`, go to val and to search and the rest to train, one
    at least to each while there are enough. With splits they are kept; where none is search, it gets its share of
    the train images. Raises UserError where a clean image stands in two splits, or train or val got nothing.
    """
    given = any(row.split for row in rows)
    if given:
        places: dict[str, PairRow] = {}
        for row in rows:
            first = places.setdefault(row.clean_id, row)
            if first.split != row.split:
                raise UserError(
                    f'{row.where}: "split" is {row.split}, but {row.clean_id} is in {first.split} '
                    f"({first.where}): an image must not be edited with and reported on"
                )
        if any(row.split == "search" for row in rows):
            return list(rows)
    pool = list(dict.fromkeys(row.clean_id for row in rows if row.split in ("", "train")))
    order = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))]
    n_val = 0 if given else _share(len(order), val_share, spare=2 if search_share and len(order) > 2 else 1)
    n_search = _share(len(order) - n_val, search_share, spare=1)
    drawn = dict.fromkeys(order[:n_val], "val") | dict.fromkeys(order[n_val : n_val + n_search], "search")
    return [row if row.split == "val" else replace(row, split=drawn.get(row.clean_id, "train")) for row in rows]


def _share(n: int, share: float, spare: int) -> int:
    """So many of n: at least one if a share is asked for, but `spare` stay."""
    return 0 if share == 0 else max(min(max(round(n * share), 1), n - spare), 0)


def triples(rows: Sequence[PairRow]) -> Triples:
    """Rows as training data; images are decoded when they are used, masks are checked then."""

    def mask(i: int) -> Any:
        path = rows[i].mask
        return None if path is None else read_mask(path)

    return Triples(
        ids=tuple(row.id for row in rows),
        clean=Lazy(len(rows), lambda i: read_image(rows[i].clean)),
        edited=Lazy(len(rows), lambda i: read_image(rows[i].edited)),
        labels=np.array([row.label for row in rows], dtype=np.int64),
        masks=Lazy(len(rows), mask),
    )


def check_masks(rows: Sequence[PairRow]) -> None:
    """UserError for the first mask that is none, or marks nothing; sizes were compared by `read_pairs`."""
    for row in rows:
        if row.mask is not None:
            try:
                read_mask(row.mask)
            except UserError as error:
                raise UserError(f'{row.where}: "mask_path": {error}') from error


def check_share(option: str, share: float) -> None:
    """UserError unless a share is at least 0 and less than 1."""
    if not 0 <= share < 1:
        raise UserError(f"task.{option}={share} must be at least 0 and less than 1")


class Pairs:
    """One edit from a table of pairs: the model shall answer the edited image as it answers the clean one.

    path:         .csv with path, edited_path, label and optionally mask_path, split (train, search, val); paths are
                  relative to its folder, labels are indices, or names where `classes` are given.
    original, classes, n_original, moments, n_moments, natural, n_natural: see `Originals`.
    val_share, search_share: shares of the clean images for validation and for choosing a learning rate, where the
                  table does not say (see `split_rows`).
    concept, style: what the edit is about, in words.
    seed:         draws the splits and the samples.
    """

    gives: ClassVar[type[Request]] = ImageRequest
    needs: ClassVar[str] = (
        "your own pairs: task.path=PAIRS.csv with path, edited_path, label (optional: mask_path, split), and your "
        "model's own validation images: task.original=FOLDER of class folders, or a .csv with path, label "
        "(task.classes=imagenet or a file of names)"
    )

    def __init__(
        self,
        path: DataFile | None,
        original: DataFile | None,
        name: str = "pairs",
        classes: Literal["imagenet"] | DataFile | list[str] | None = None,
        concept: str = "image",
        style: str = "edited",
        val_share: float = 0.5,
        search_share: float = 0.2,
        n_original: int | None = None,
        moments: DataFile | None = None,
        n_moments: int = 512,
        natural: dict[str, DataFile | None] | None = None,
        n_natural: int | None = None,
        seed: int = 0,
    ) -> None:
        if missing := [f"task.{k}" for k, v in {"path": path, "original": original}.items() if not v]:
            raise UserError(f"{' and '.join(missing)} must be given: the task needs {self.needs}")
        check_share("val_share", val_share)
        check_share("search_share", search_share)
        self.name, self.path, self.concept, self.style = name, str(path), concept, style
        self.val_share, self.search_share, self.seed = val_share, search_share, seed
        self.originals = Originals(str(original), classes, n_original, moments, n_moments, natural, n_natural, seed)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the model's classes, if they were given."""
        names = self.originals.class_names
        return None if names is None else names.names

    @cached_property
    def _rows(self) -> list[PairRow]:
        rows = read_pairs(self.path, self.originals.class_names, "task.path")
        check_masks(rows)
        given = any(row.split for row in rows)
        rows = split_rows(rows, self.search_share, self.val_share, self.seed)
        for split in ("train", "val"):
            if not any(row.split == split for row in rows):
                why = (
                    "no row says so in the column split" if given else "there are too few clean images, or val_share=0"
                )
                raise UserError(f"{self.path}: no pair is left for {split}: {why}")
        return rows

    def _of(self, split: str) -> list[PairRow]:
        return [row for row in self._rows if row.split == split]

    def requests(self) -> list[ImageRequest]:
        """The one edit, from the train pairs; its search pairs may be none."""
        return [
            ImageRequest(
                self.name, triples(self._of("train")), None,
                search=triples(self._of("search")), validation=partial(self._validation, self.name),
                concept=self.concept, style=self.style,
            )
        ]  # fmt: skip

    def training_requests(self) -> list[ImageRequest]:
        """The search pairs of `requests()`, which share no picture with the pairs to edit with or to judge by."""
        return search_requests(self.requests())

    def _validation(self, request: str) -> ImageSet:
        rows = self._of("val")
        return ImageSet(
            "edit",
            tuple(row.id for row in rows),
            np.array([row.label for row in rows], dtype=np.int64),
            lambda i: read_image(rows[i].edited),
            request=request,
            source=Path(self.path).name,
            clean=lambda i: read_image(rows[i].clean),
        )

    def image_sets(self, requests: Sequence[Request]) -> list[ImageSet]:
        """The original task's validation images, the val pairs' edited images, and the natural shifts."""
        edits = [self._validation(r.id) for r in requests]
        return [self.originals.validation(), *edits, *self.originals.natural_sets()]

    def moment_images(self) -> ImageSet:
        """Images of the original task for second moments (see `Originals.moment_images`)."""
        return self.originals.moment_images()

    def reference_accuracies(self) -> list[dict[str, Any]] | None:
        """None: no reference models were measured on data of one's own."""
        return None
