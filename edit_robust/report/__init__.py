"""What a run came to: one sentence, one table for the terminal, one page of HTML.

Names are imported when they are first used: a list of runs needs no matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edit_robust.report.html import Drawn, write_report
    from edit_robust.report.sentence import verdict
    from edit_robust.report.table import summary_table

_WHERE = {"Drawn": "html", "summary_table": "table", "verdict": "sentence", "write_report": "html"}
__all__ = ["Drawn", "summary_table", "verdict", "write_report"]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _WHERE:
        return getattr(importlib.import_module(f"edit_robust.report.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
