"""Edits of the scene world judged apart on the classes that they were made with, and on classes that they never saw."""

# No `from __future__ import annotations`: options' types are read from the signature.

from typing import Literal

from edit_robust.core.errors import UserError
from edit_robust.tasks.vision.scene_world import VEHICLES_ON_SNOW, SceneWorldTask
from edit_robust.tasks.worlds.scenes import world


class ClassDisjoint(SceneWorldTask):
    """Its further options are those of `SceneWorldTask`.

    judged: labels of the edited images to validate on: `trained` (those that gave training pairs), `others` (those that
        gave none), or `all`. Whichever it is, learning rates are chosen by pairs of trained labels alone, so that runs
        that differ in nothing else make the same edit.
    UserError for vehicles-on-snow, whose images are not drawn by label, and where no label is left.
    """

    def __init__(
        self,
        name: str = "class-disjoint",
        pairs: str | list[str] = "grass-snow",
        n_train: int = 3,
        n_labels: int | None = 4,
        labels: list[str] | None = None,
        judged: Literal["trained", "others", "all"] = "others",
        n_search: int = 64,
        n_edit: int = 128,
        n_validation: int = 256,
        n_moments: int = 256,
        s_train: int = 1,
        leak_free: bool = True,
        natural: list[str] | None = None,
        n_natural: int = 128,
        world_seed: int = 0,
    ) -> None:
        super().__init__(
            name, pairs, n_train, n_labels, labels, n_search, n_edit, n_validation, n_moments, s_train, leak_free,
            natural, n_natural, world_seed,
        )  # fmt: skip
        self.judged = judged
        self._labels: dict[str, tuple[list[str], list[str]]] = {}
        if VEHICLES_ON_SNOW in self.pairs:
            raise UserError(f"task.pairs: {VEHICLES_ON_SNOW} cannot be judged by class here; give task=scene-world")

    def labels_of(self, pair: str) -> tuple[list[str], list[str]]:
        """Names of the classes that give training pairs, and of the others that show the concept often enough."""
        if pair not in self._labels:
            self._labels[pair] = self._found_labels(pair)
        return self._labels[pair]

    def _found_labels(self, pair: str) -> tuple[list[str], list[str]]:
        trained = sorted(set(world.label_of(self._train_scenes(pair)).tolist()))
        concept = self._parts(pair)[0]
        shown = set(world.label_of(world.with_concept("test", concept, self.n_edit, self.world_seed)).tolist())
        others = sorted(shown - set(trained))
        return [world.CLASSES[k] for k in trained], [world.CLASSES[k] for k in others]

    def _among(self, pair: str, split: Literal["search", "val"]) -> list[str] | None:
        trained, others = self.labels_of(pair)
        if split == "search":
            return trained
        if self.judged == "all":
            return None
        among = trained if self.judged == "trained" else others
        if not among:
            raise UserError(
                f"task.judged={self.judged}: every class that shows {self._parts(pair)[0]} gives training pairs; "
                "give a smaller task.n_labels"
            )
        return among
