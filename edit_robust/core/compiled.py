"""How loops are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """njit, kept on disk where some folder can be written to. options: further ones of njit.

    No fastmath unless it is asked for: corruptions are floored to 8 bits in the end, so that one unit in the last place
    can flip a pixel, and no loop of theirs may reorder or contract an operation of the library call that it stands for,
    or do it in another precision.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder for compiled code: compile in every process
        return numba.njit(nogil=True, error_model="numpy", **options)(function)  # type: ignore[no-any-return]
