"""Names of classes and templates as a task's options give them: lists, or files with one a line."""

from __future__ import annotations

from collections.abc import Sequence

from edit_robust.core.errors import UserError
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.tasks.reading import read_text

#: What a folder of photographs is asked with where nothing else is given.
PHOTO = ("a photo of a {}.",)
#: PAINT's sentence for MNIST and SVHN.
NUMBER = ('a photo of the number: "{}".',)
DIGITS = tuple(str(d) for d in range(10))


def lines_of(given: str | Sequence[str] | None, option: str) -> tuple[str, ...] | None:
    """A list as it is, or the lines of a file without empty ones; None: nothing was given."""
    if given is None or not isinstance(given, str):
        return None if given is None else tuple(given)
    found = tuple(line.strip() for line in read_text(given, option).splitlines() if line.strip())
    if not found:
        raise UserError(f"{option}={given} is empty; one a line is expected")
    return found


def vocabulary(
    class_names: str | Sequence[str] | None,
    templates: str | Sequence[str] | None,
    own_names: Sequence[str],
    own_templates: Sequence[str],
) -> Vocabulary:
    """The task's words: what is given, else its own. UserError as `Vocabulary` raises it, and for another number of
    names than classes."""
    names = lines_of(class_names, "task.class_names")
    if names is not None and len(names) != len(own_names):
        raise UserError(f"task.names has {len(names)} names, and the task has {len(own_names)} classes")
    try:
        return Vocabulary.of(names or own_names, lines_of(templates, "task.prompts") or own_templates)
    except UserError as error:
        raise UserError(f"task: {error}") from error
