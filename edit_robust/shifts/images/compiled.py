"""How the loops of the corruptions are compiled.

Results are floored to 8 bits in the end, so that one unit in the last place can flip a pixel: no loop reorders or
contracts an operation of the library call that it stands for (named in its docstring), or does it in another precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """njit, kept on disk where some folder can be written to. No fastmath: the order of operations is the result."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder for compiled code: compile in every process
        return numba.njit(nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
