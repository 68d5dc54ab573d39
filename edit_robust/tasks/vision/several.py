"""Several tasks of labelled images, each told in words of its own: to be patched together, or one after the other."""

# No `from __future__ import annotations`: see `labelled`.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from edit_robust.core.data import ImageRequest, Request
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.images import ImageSet
from edit_robust.core.options import DataFile
from edit_robust.tasks.vision.digits import Digits, SceneDigits
from edit_robust.tasks.vision.image_folder import ImageFolder
from edit_robust.tasks.vision.kitti_distance import KittiDistance
from edit_robust.tasks.vision.labelled import BesideOriginal, LabelledImages
from edit_robust.tasks.vision.mnist import Mnist
from edit_robust.tasks.vision.svhn import Svhn

#: Tasks that can be united, by the names of their choices.
KINDS: dict[str, type[LabelledImages]] = {
    "digits": Digits,
    "scene-digits": SceneDigits,
    "mnist": Mnist,
    "svhn": Svhn,
    "kitti-distance": KittiDistance,
    "image-folder": ImageFolder,
}
DEFAULT = ("digits", "scene-digits")
#: Probe of every task's images at every point of a walk, before it is taught and long after.
TASK = "task"
#: Options of a member that are said once for all of them.
SHARED = ("original", "original_classes", "original_prompts", "n_original", "natural", "n_natural", "n_held_out")


@dataclass(kw_only=True, eq=False)
class Several(BesideOriginal):
    """Tasks of labelled images, an edit each, in their order; the original task is one for all.

    tasks: names (of KINDS), or names with options, where `task` is one of KINDS if the name is none itself:
        {mnist: {path: FOLDER}, scene-svhn: {task: scene-digits, kind: svhn}}. None: DEFAULT.
    n_train, n_test: of each task; None: its own number. The other options are those of `LabelledImages`.
    With trajectory=sequential they are patched in a row, with batch and interpolate together, each image under the head
    of its own task, and with combine apart.
    """

    needs: ClassVar[str] = "what its tasks need: task.tasks=[digits,scene-digits] needs nothing"

    name: str = "several"
    tasks: list[str] | dict[str, dict[str, DataFile | int | float | bool | list[str] | None] | None] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks = DEFAULT if self.tasks is None else self.tasks
        given = dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
        if len(given) < len(tasks):
            raise UserError("task.tasks names a task twice; give {NAME: {task: ..., ...}, ...} to tell them apart")
        if not given:
            raise UserError("task.tasks is empty: give at least one, such as [digits,scene-digits]")
        self.members = [self._member(name, dict(options or {})) for name, options in given.items()]

    def _member(self, name: str, options: dict[str, Any]) -> LabelledImages:
        kind = options.pop("task", name)
        if kind not in KINDS:
            raise UserError(f"task.tasks: there is no task {kind!r}; {nearest(str(kind), KINDS, 'tasks')}")
        known = [f.name for f in fields(KINDS[kind]) if f.name not in (*SHARED, "name")]
        for option in options:
            if option in SHARED:
                raise UserError(f"task.tasks: {option} is said once for all tasks: task.{option}=...")
            if option not in known:
                raise UserError(f"task.tasks: {kind} has no option {option!r}; {nearest(option, known, 'options')}")
        shared = {"corrupt": self.corrupt, "seed": self.seed, "n_train": self.n_train, "n_test": self.n_test}
        if "world_seed" in known:
            shared["world_seed"] = self.seed
        said = {k: v for k, v in shared.items() if v is not None}
        try:
            return KINDS[kind](name=name, n_held_out=self.n_held_out, **{**said, **options})
        except TypeError as error:
            raise UserError(f"task.tasks: {kind}: {error}") from error

    # -- edits -------------------------------------------------------------------------------------------------------

    def requests(self) -> list[ImageRequest]:
        """One edit a task, each with its own words."""
        return [r for member in self.members for r in member.requests()]

    # -- images ------------------------------------------------------------------------------------------------------

    @cached_property
    def _named(self) -> dict[str, LabelledImages]:
        return {member.name: member for member in self.members}

    def image_sets(self, requests: Sequence[Request]) -> list[ImageSet]:
        """The original task's images, those of the tasks, shifts of the original, held-out images of all; and every
        task's images once more, clean, to be asked whatever has been taught (probe `task`)."""
        first, *natural = self._original.sets()
        mine = [self._named[r.id] for r in requests]
        found = [first, *(m.judged() for m in mine), *natural]
        held = [x for m in mine for x in m.held_out()]
        found += [*held, *(self._original.held_out() if held else [])]
        return [*found, *(replace(m.judged(), probe=TASK, corrupted=False) for m in mine)]
