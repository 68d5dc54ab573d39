"""The original task's own images: validation, second moments, and natural shifts such as ImageNet-R."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from edit_robust.core.errors import UserError
from edit_robust.core.images import ImageSet
from edit_robust.tasks.selection import check_counts
from edit_robust.tasks.vision.folders import Listing, listing, sample
from edit_robust.tasks.vision.photographs import ClassNames, class_names


class Originals:
    """What a model could do before the edit, measured on photographs of one's own.

    original:   class folders, a .tar or .zip of them, or a .csv file with the columns path and label.
    classes:    names of the model's classes: a list, a file with one a line, "imagenet"; None: as folders say.
    n_original: images to validate on, drawn with `seed` (None: all).
    moments:    other images for second moments, like `original`; None: those of `original` that are not validated on.
    n_moments:  how many of them.
    natural:    name of a shift -> class folders, such as {"imagenet-r": PATH}; a None is left out.
    n_natural:  images of each (None: all).
    """

    def __init__(
        self,
        original: str,
        classes: str | Sequence[str] | None,
        n_original: int | None,
        moments: str | None,
        n_moments: int,
        natural: Mapping[str, str | None] | None,
        n_natural: int | None,
        seed: int,
    ) -> None:
        if seed < 0:
            raise UserError(f"task.seed={seed} must be 0 or more")
        check_counts(0, n_original=n_original, n_moments=n_moments, n_natural=n_natural)
        self._path, self._given, self._seed = original, classes, seed
        self._n_original, self._n_natural = n_original, n_natural
        self._moments, self._n_moments = moments, n_moments
        self._natural = {k: v for k, v in (natural or {}).items() if v is not None}

    @cached_property
    def class_names(self) -> ClassNames | None:
        """The model's classes as far as they were given."""
        return class_names(self._given)

    @cached_property
    def every(self) -> Listing:
        """All images of the original task."""
        return listing(self._path, self.class_names, "task.original")

    @cached_property
    def _chosen(self) -> list[int]:
        return sample(len(self.every), self._n_original, self._seed)

    def validation(self) -> ImageSet:
        """The images that tell what an edit breaks."""
        return self.every.take(self._chosen).images("original")

    def moment_images(self) -> ImageSet:
        """Images for second moments: of `moments`, else those left over by `validation`, else, with none, those."""
        if self._moments is not None:
            pool = listing(self._moments, self.class_names, "task.moments")
        else:
            taken = set(self._chosen)
            rest = [i for i in range(len(self.every)) if i not in taken]
            pool = self.every.take(rest or self._chosen)
        return pool.take(sample(len(pool), self._n_moments, self._seed + 1)).images("original")

    def natural_sets(self) -> list[ImageSet]:
        """Each natural shift; one that covers only some classes once among these, once ("-unmasked") among all."""
        found = []
        for shift, path in self._natural.items():
            option = f"task.natural.{shift}"
            names = self.class_names
            every = listing(path, names, option)
            covered = tuple(sorted(set(every.labels)))
            some = every.take(sample(len(every), self._n_natural, self._seed))
            partial = len(covered) < self._n_classes(names, covered)
            found.append(some.images("original", shift=shift, classes=covered if partial else None))
            if partial:
                found.append(some.images("original", shift=f"{shift}-unmasked"))
        return found

    def _n_classes(self, names: ClassNames | None, covered: Sequence[int]) -> int:
        """How many classes the model tells apart, as far as is known."""
        return len(names) if names is not None else max(*self.every.labels, *covered) + 1
