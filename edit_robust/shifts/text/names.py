"""The shifts of text by name."""

from __future__ import annotations

TYPOS, CASING, CONTEXT, DISTRACTOR, PREFIX = "typos", "casing", "context", "distractor", "prefix"
NEIGHBOUR_EDIT = "neighbour-edit"
#: Those that any question can be put under.
OF_ANY_PROMPT: tuple[str, ...] = (TYPOS, CASING, CONTEXT, DISTRACTOR, PREFIX)
ALL: tuple[str, ...] = (*OF_ANY_PROMPT, NEIGHBOUR_EDIT)
