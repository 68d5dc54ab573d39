"""Classes in words: the names and templates that the head of an open-vocabulary model is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edit_robust.core.errors import UserError

PLACE = "{}"  # of the class's name in a template


@dataclass(frozen=True)
class Vocabulary:
    """Names of classes, whose positions are the labels, and templates such as `a photo of a {}.`.

    UserError where there are fewer than two classes, where a name is empty, where two are alike but for capitals and
    spaces, and where a template has no {} for the name.
    """

    class_names: tuple[str, ...]
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise UserError(f"class names: there are {len(self.class_names)}, and a choice is made among two or more")
        known: dict[str, str] = {}
        for name in self.class_names:
            plain = " ".join(name.casefold().split())
            if not plain:
                raise UserError("class names: one is empty")
            if plain in known:
                raise UserError(f'class names: "{known[plain]}" and "{name}" are the same to a model that reads them')
            known[plain] = name
        if not self.templates:
            raise UserError("templates: there is none; give one such as a photo of a {}.")
        for template in self.templates:
            if PLACE not in template:
                raise UserError(f'templates: "{template}" has no {PLACE} where the name of a class would stand')

    @staticmethod
    def of(class_names: Sequence[str], templates: Sequence[str]) -> Vocabulary:
        """The same from any sequences of words."""
        return Vocabulary(tuple(class_names), tuple(templates))

    def prompts(self, label: int) -> list[str]:
        """Every template with the name of a class in it."""
        return [t.replace(PLACE, self.class_names[label]) for t in self.templates]
