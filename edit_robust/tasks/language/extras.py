"""What a record may say beyond the edit itself: how to ask it, what to write about, and what follows from it."""

from __future__ import annotations

import re
from typing import Any, TypedDict

from edit_robust.core.data import Ripple
from edit_robust.core.errors import nearest
from edit_robust.tasks.reading import Row, kind_of

#: Fields of a record in any of the formats.
FIELDS = ("question", "generation_prompts", "references", "ripple")
RIPPLE_FIELDS = ("kind", "prompt", "target", "target_true")
_KIND = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Extras(TypedDict):
    """The fields of a `TextRequest` of the same names."""

    question: str | None
    generation: tuple[str, ...]
    references: tuple[str, ...]
    ripple: tuple[Ripple, ...]


def read_extras(row: Row, subject: str) -> Extras:
    """The optional fields of a record, `{}` in a prompt being the subject. Raises UserError with place and field."""

    def texts(field: str) -> tuple[str, ...]:
        given = row.data.get(field)
        return tuple(t.replace("{}", subject) for t in row.as_texts(field, [] if given is None else given))

    question = row.data.get("question")
    if question is not None:
        question = row.as_text("question", question).strip().replace("{}", subject)
    return {
        "question": question,
        "generation": texts("generation_prompts"),
        "references": texts("references"),
        "ripple": _ripple(row, subject),
    }


def _ripple(row: Row, subject: str) -> tuple[Ripple, ...]:
    """The field `ripple`: a list of objects with kind, prompt, target and, optionally, target_true."""
    given = row.data.get("ripple")
    values = [] if given is None else given
    if not isinstance(values, list):
        raise row.error("ripple", f"must be a list, not {kind_of(values)}")
    return tuple(_question(row, f"ripple[{i}]", value, subject) for i, value in enumerate(values))


def _question(row: Row, place: str, value: Any, subject: str) -> Ripple:
    if not isinstance(value, dict):
        raise row.error(place, f"must be an object, not {kind_of(value)}")
    for key in value:
        if key not in RIPPLE_FIELDS:
            raise row.error(f"{place}.{key}", f"is unknown; {nearest(key, RIPPLE_FIELDS, 'fields')}")
    for key in RIPPLE_FIELDS[:3]:
        if key not in value:
            raise row.error(f"{place}.{key}", "is missing")
    kind = row.as_text(f"{place}.kind", value["kind"]).strip().lower().replace(" ", "-").replace("_", "-")
    if not _KIND.fullmatch(kind):
        raise row.error(f"{place}.kind", f'must be a word of letters and digits, such as alias: "{value["kind"]}"')
    prompt = row.as_text(f"{place}.prompt", value["prompt"]).rstrip().replace("{}", subject)
    right = row.as_text(f"{place}.target", value["target"]).strip()
    other = value.get("target_true")
    if other is not None:
        other = row.as_text(f"{place}.target_true", other).strip()
    if other == right:
        raise row.error(f"{place}.target", f'is the same as target_true: "{right}"')
    return Ripple(kind, prompt, right, other)
