"""Errors that a user sees, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from edit_robust.core.errors import UserError


def fails(words: str, make: Any) -> str:
    """The one-line message of the UserError that `make` raises; it holds every one of `words`, split at " & "."""
    with pytest.raises(UserError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words.split(" & "):
        assert word in message, f"{word!r} is not in {message!r}"
    return message
