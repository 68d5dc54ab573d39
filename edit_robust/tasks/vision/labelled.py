"""Tasks of labelled images, which a model is patched for: what they share once they know where their images are."""

# No `from __future__ import annotations`: the options' types stand in the signatures of all subclasses, where names of
# this file are not known. They must be types here, not text.

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from edit_robust.core.data import ImageRequest, Request
from edit_robust.core.errors import UserError
from edit_robust.core.images import ImageSet, Triples
from edit_robust.core.options import DataFile
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.tasks.selection import check_counts
from edit_robust.tasks.vision.folders import Listing, sample
from edit_robust.tasks.vision.original import Original, original_task
from edit_robust.tasks.vision.textures import Lazy
from edit_robust.tasks.vision.words import vocabulary

log = logging.getLogger(__name__)
#: Probe of the task's images that an alpha may be chosen by, and that no result is told of.
HELD_OUT = "edit-held-out"
SHARE = 0.2  # of images that come in one piece, for each of held-out and test at most


@dataclass(frozen=True)
class Splits:
    """Labelled images to train on, to choose an alpha by, and to judge by; no image is in two of them."""

    train: Listing
    held_out: Listing
    test: Listing


@dataclass(kw_only=True, eq=False)
class BesideOriginal:
    """What tasks of labelled images share: how many images, and the original task that a patch must not break.

    The fields are options; `LabelledImages` says what they mean.
    """

    gives: ClassVar[type[Request]] = ImageRequest

    n_train: int | None = None
    n_test: int | None = None
    n_held_out: int = 256
    original: Literal["scene-world"] | DataFile = "scene-world"
    original_classes: Literal["imagenet"] | DataFile | list[str] | None = None
    original_prompts: DataFile | list[str] | None = None
    n_original: int | None = None
    natural: list[str] | dict[str, DataFile | None] | None = None
    n_natural: int | None = 128
    corrupt: Literal["refuse", "skip"] = "refuse"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"task.seed={self.seed} must be 0 or more")
        check_counts(0, n_train=self.n_train, n_test=self.n_test)
        self._original: Original = original_task(
            self.original, self.original_classes, self.original_prompts, self.n_original, self.n_held_out,
            self.natural, self.n_natural, self.seed,
        )  # fmt: skip

    def training_requests(self) -> list[ImageRequest]:
        """[]: images that are left over are held out for choosing an alpha."""
        return []

    def moment_images(self) -> ImageSet:
        """Images of the original task for second moments."""
        return self._original.moment_images()

    def reference_accuracies(self) -> list[dict[str, Any]] | None:
        """Accuracies of reference models on the original task; None: there are none."""
        return self._original.reference_accuracies()


@dataclass(kw_only=True, eq=False)
class LabelledImages(BesideOriginal, ABC):
    """A task of labelled images in words; its fields are its options, and subclasses say where the images are.

    n_train, n_test: images to train on and to judge by, drawn with `seed` (None: all).   n_held_out: images of this
        task, and of the original one, that an alpha may be chosen by; 0: none.
    names, prompts: names of the classes and templates with {} for a name, in place of the task's own: a list, or a
        file with one a line.
    original: `scene-world`, or photographs of the original task: class folders, an archive of them, a table.
    original_classes, original_prompts: their names (`imagenet`, a file, a list), and templates for a head of them;
        None: the model's own classes are asked.
    n_original: images of the original task to judge by (None: 256 scenes, or all photographs).
    natural, n_natural: shifts of the original task, see `SceneWorldTask` and `Originals`.
    corrupt: what becomes of a file that cannot be read: `refuse` ends the run where it is met; `skip` opens every file
        before the run begins, the original task's too, and leaves out those that cannot be read, with a warning that
        names the first.
    """

    needs: ClassVar[str] = "nothing"
    may_lack: ClassVar[bool] = False  # whether a class without training images is in order

    name: str
    names: list[str] | DataFile | None = None
    prompts: list[str] | DataFile | None = None

    def check_given(self, path: object) -> None:
        """UserError, with what the task needs, where no path was given."""
        if path is None:
            raise UserError(f"task.path must be given: the task needs {self.needs}")

    @abstractmethod
    def own_words(self) -> tuple[Sequence[str], Sequence[str]]:
        """The task's own names of classes and templates."""

    @abstractmethod
    def splits(self) -> Splits:
        """Where the images are; `held_out` and `train` are cut to size afterwards."""

    # -- words -------------------------------------------------------------------------------------------------------

    @cached_property
    def words(self) -> Vocabulary:
        """Names of classes and templates. UserError for names that collide, and for templates without {}."""
        return vocabulary(self.names, self.prompts, *self.own_words())

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; labels are positions in them."""
        return list(self.words.class_names)

    @property
    def templates(self) -> list[str]:
        """Sentences with one {} for a name."""
        return list(self.words.templates)

    @property
    def classes(self) -> tuple[str, ...]:
        """The same as `class_names`."""
        return self.words.class_names

    # -- images ------------------------------------------------------------------------------------------------------

    @cached_property
    def _splits(self) -> Splits:
        found = self.splits()
        if self.corrupt == "skip":
            found = Splits(readable(found.train), readable(found.held_out), readable(found.test))
        train = found.train.take(sample(len(found.train), self.n_train, self.seed))
        held_out = found.held_out.take(sample(len(found.held_out), self.n_held_out, self.seed + 1))
        test = found.test.take(sample(len(found.test), self.n_test, self.seed + 2))
        for kind, part in (("to train on", train), ("to judge by", test)):
            if not len(part):
                raise UserError(f"{self.name}: there are no images {kind} in {part.where}")
        there = set(train.labels)
        lacking = [name for k, name in enumerate(self.class_names) if k not in there]
        if lacking and not self.may_lack and len(found.train) == len(train):
            raise UserError(f'{self.name}: the class "{lacking[0]}" has no images to train on in {train.where}')
        if lacking:
            log.warning('%s: %d classes have no images to train on, "%s" first', self.name, len(lacking), lacking[0])
        return Splits(train, held_out, test)

    def requests(self) -> list[ImageRequest]:
        """The one edit, from the training images; they have no counterpart, so that x is x'. Decoded when asked for."""
        train = self._splits.train
        shown = Lazy(len(train), lambda i: train.load(train.ids[i]))
        labels = np.array(train.labels, dtype=np.int64)
        pairs = Triples(train.ids, shown, shown, labels)
        return [
            ImageRequest(
                self.name, pairs, None,
                validation=self.judged, concept=self.name, style="", words=self.words,
            )
        ]  # fmt: skip

    def judged(self) -> ImageSet:
        """The images that the edit is judged by."""
        return self._splits.test.images("edit", request=self.name, words=self.words)

    def held_out(self) -> list[ImageSet]:
        """Those of this task that an alpha may be chosen by; [] where there are none. They are asked clean: an alpha is
        chosen by what the edit is worth on clean images of it."""
        held = self._splits.held_out if self.n_held_out else None
        if held is None or not len(held):
            return []
        return [held.images(HELD_OUT, request=self.name, words=self.words, corrupted=False)]

    def image_sets(self, requests: Sequence[Request]) -> list[ImageSet]:
        """The original task's images, this task's, shifts of the original; then both tasks' held-out images."""
        first, *natural = self._original_sets
        found = [first, *([self.judged()] if requests else []), *natural]
        held = self.held_out() if requests else []
        theirs = self._original.held_out() if held else []
        return [*found, *held, *(readable_set(x) if self.corrupt == "skip" else x for x in theirs)]

    @cached_property
    def _original_sets(self) -> list[ImageSet]:
        """The original task's images and its shifts, without files that cannot be read where that was asked for."""
        return [readable_set(x) if self.corrupt == "skip" else x for x in self._original.sets()]


def divided(every: Listing, n_held_out: int, n_test: int | None, seed: int) -> Splits:
    """One listing in three parts, drawn with `seed`: for test and held-out what is asked for, a fifth at most."""
    order = np.random.default_rng(seed).permutation(len(every)).tolist()
    most = max(1, int(SHARE * len(order)))
    n_test, n_held_out = min(n_test or most, most), min(n_held_out, most)
    ends = len(order) - n_test, len(order) - n_test - n_held_out
    parts = order[: ends[1]], order[ends[1] : ends[0]], order[ends[0] :]
    train, held_out, test = (every.take(sorted(rows)) for rows in parts)
    return Splits(train, held_out, test)


def with_test(every: Listing, test: Listing, n_held_out: int, seed: int) -> Splits:
    """A listing in two parts, drawn with `seed`, beside one to judge by: a fifth at most is held out."""
    order = np.random.default_rng(seed).permutation(len(every)).tolist()
    n = min(n_held_out, int(SHARE * len(order)))
    return Splits(every.take(sorted(order[n:])), every.take(sorted(order[:n])), test)


def readable(listing: Listing) -> Listing:
    """The images of a listing that can be read; all of them are opened. A warning names the first of the others."""
    return listing.take(_rows(len(listing), lambda i: listing.load(listing.ids[i]), listing.where))


def readable_set(images: ImageSet) -> ImageSet:
    """The images of a set that can be read; as `readable`."""
    rows = _rows(len(images), images.load, images.source or images.probe)
    if len(rows) == len(images):
        return images
    clean = images.clean
    return replace(
        images,
        ids=tuple(images.ids[i] for i in rows),
        labels=np.asarray(images.labels)[rows],
        load=lambda i: images.load(rows[i]),
        clean=None if clean is None else lambda i: clean(rows[i]),
    )


def _rows(n: int, load: Callable[[int], object], where: str) -> list[int]:
    """Which of n images can be read."""
    kept, bad = [], list[str]()
    for i in range(n):
        try:
            load(i)
        except UserError as error:
            bad.append(str(error))
        else:
            kept.append(i)
    if bad:
        log.warning("%s: %d images are left out: %s", where, len(bad), bad[0])
    return kept
