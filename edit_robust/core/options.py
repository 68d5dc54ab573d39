"""Types that tell what an option means for the identity of a run: it names a file, or it only says how work is done."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, get_args

Value = TypeVar("Value")


class _Mark:
    """What an annotation says of an option beyond its type."""

    def __init__(self, about: str) -> None:
        self.about = about

    def __repr__(self) -> str:
        return self.about


FILE = _Mark("names a file")
ASIDE = _Mark("does not change results")

#: An option that names a file or folder. A run's id depends on what it holds, not on where it lies.
DataFile = Annotated[str, FILE]
#: An option that says how work is done (memory, processes, folders of caches) and changes no result.
Aside = Annotated[Value, ASIDE]


def says(hint: Any, mark: _Mark) -> bool:
    """Whether a type hint, or any part of it, carries a mark."""
    if any(m is mark for m in getattr(hint, "__metadata__", ())):
        return True
    return any(says(part, mark) for part in get_args(hint) if not isinstance(part, _Mark))


def words_of(hint: Any) -> list[str]:
    """The words that a hint names in a Literal, at any depth: `computed` of `Literal["computed"] | DataFile`."""
    found = [part for part in get_args(hint) if isinstance(part, str)]
    return found + [word for part in get_args(hint) if not isinstance(part, str | _Mark) for word in words_of(part)]
