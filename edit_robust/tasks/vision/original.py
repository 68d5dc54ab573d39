"""What a model could do before it was taught a task: the scene world's classes, or photographs of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

from edit_robust.core.errors import UserError
from edit_robust.core.images import ImageSet
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.tasks.selection import check_counts
from edit_robust.tasks.vision.folders import sample
from edit_robust.tasks.vision.natural import Originals
from edit_robust.tasks.vision.scene_world import SceneWorldTask
from edit_robust.tasks.vision.words import PHOTO, lines_of
from edit_robust.tasks.worlds.scenes import world

SCENES = "scene-world"
#: Probe of the original task's images that an alpha may be chosen by, and that no result is told of.
HELD_OUT = "original-held-out"


class Original(Protocol):
    """The original task's images."""

    def sets(self) -> list[ImageSet]:
        """What an edit is judged by: clean images first, then natural shifts."""
        ...

    def held_out(self) -> list[ImageSet]:
        """Others that an alpha may be chosen by; [] where none are asked for."""
        ...

    def moment_images(self) -> ImageSet:
        """Others for second moments."""
        ...

    def reference_accuracies(self) -> list[dict[str, Any]] | None:
        """Accuracies of reference models; None: there are none."""
        ...


class SceneOriginal:
    """The 16 classes of the scene world; see `SceneWorldTask`. Held-out scenes are a stream of their own."""

    def __init__(
        self, n_original: int, n_held_out: int, natural: list[str] | None, n_natural: int, world_seed: int
    ) -> None:
        self._n_held_out, self._seed = n_held_out, world_seed
        self._task = SceneWorldTask(
            n_validation=n_original, natural=natural, n_natural=n_natural, world_seed=world_seed
        )

    def sets(self) -> list[ImageSet]:
        return self._task.image_sets([])

    def held_out(self) -> list[ImageSet]:
        if not self._n_held_out:
            return []
        scenes = world.render("search", range(self._n_held_out), self._seed)
        ids = tuple(f"search/{i}" for i in range(self._n_held_out))
        return [ImageSet(HELD_OUT, ids, scenes.labels, lambda i: scenes.images[i], source="scene world")]

    def moment_images(self) -> ImageSet:
        return self._task.moment_images()

    def reference_accuracies(self) -> list[dict[str, Any]] | None:
        return self._task.reference_accuracies()


class FolderOriginal:
    """Photographs of one's own, such as ImageNet's validation images; see `Originals`.

    templates: sentences for a head of the classes' names; None: the model's own classes are asked.
    """

    def __init__(
        self,
        path: str,
        classes: str | Sequence[str] | None,
        templates: str | Sequence[str] | None,
        n_original: int | None,
        n_held_out: int,
        natural: Mapping[str, str | None] | None,
        n_natural: int | None,
        seed: int,
    ) -> None:
        self._originals = Originals(path, classes, n_original, None, 512, natural, n_natural, seed)
        self._templates, self._n_held_out, self._seed = templates, n_held_out, seed

    @cached_property
    def _words(self) -> Vocabulary | None:
        if self._templates is None:
            return None
        names = self._originals.class_names
        if names is None:
            raise UserError("task.original_prompts goes with task.original_classes, whose names fill the sentences")
        return Vocabulary.of(names.names, lines_of(self._templates, "task.original_prompts") or PHOTO)

    def sets(self) -> list[ImageSet]:
        found = [self._originals.validation(), *self._originals.natural_sets()]
        return [replace(x, words=self._words) for x in found]

    def held_out(self) -> list[ImageSet]:
        every, judged = self._originals.every, set(self._originals.validation().ids)
        rest = [i for i, name in enumerate(every.ids) if name not in judged]
        rows = [rest[i] for i in sample(len(rest), self._n_held_out, self._seed + 2)] if self._n_held_out else []
        return [every.take(rows).images(HELD_OUT, words=self._words)] if rows else []

    def moment_images(self) -> ImageSet:
        return self._originals.moment_images()

    def reference_accuracies(self) -> list[dict[str, Any]] | None:
        return None


def original_task(
    original: str,
    classes: str | Sequence[str] | None,
    templates: str | Sequence[str] | None,
    n_original: int | None,
    n_held_out: int,
    natural: Sequence[str] | Mapping[str, str | None] | None,
    n_natural: int | None,
    seed: int,
) -> Original:
    """The original task that options describe.

    n_original: None is 256 scenes, or all photographs. natural: None is renditions of the scenes, or no shift of
    photographs; an empty list is none of either.
    """
    check_counts(0, n_original=n_original, n_natural=n_natural)
    if n_held_out < 0:
        raise UserError(f"task.n_held_out={n_held_out} must be 0 or more")
    if original == SCENES:
        if isinstance(natural, Mapping):
            raise UserError("task.natural names folders, which go with an original task from files; give a list")
        if classes is not None or templates is not None:
            raise UserError(f"task.original_classes and task.original_prompts do not go with original={SCENES}")
        shifts = ["rendition"] if natural is None else list(natural)
        return SceneOriginal(n_original or 256, n_held_out, shifts, n_natural or 128, seed)
    if natural is not None and not isinstance(natural, Mapping):
        if natural:
            raise UserError("task.natural names shifts of the scene world; for other images give NAME: FOLDER pairs")
        natural = None
    return FolderOriginal(original, classes, templates, n_original, n_held_out, natural, n_natural, seed)
