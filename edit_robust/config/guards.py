"""`editor.guard=...`: a word for one of conf/guard, or the guard itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edit_robust.config.compose import choices, own_nodes
from edit_robust.config.nodes import kind_of
from edit_robust.core.errors import UserError, nearest

GUARD = "edit_robust.editors.helpers.guard.Guard"


def with_guard(editor: Mapping[str, Any]) -> dict[str, Any]:
    """The editor's node with its guard spelled out, and without one where there is none.

    So a word and what it stands for make the same run, and no guard the same as before there were any.
    """
    rest = {key: value for key, value in editor.items() if key != "guard"}
    guard = editor.get("guard")
    if guard is None or guard == "none":
        return rest
    if isinstance(guard, str):
        if guard not in choices("guard"):
            raise UserError(f"editor.guard={guard}: {nearest(guard, choices('guard'), 'guards')}")
        return {**rest, "guard": own_nodes("guard", guard)[0]}
    if not isinstance(guard, dict):
        raise UserError(f"editor.guard={guard} is {kind_of(guard)}; a guard's name or {{sign: ...}} is needed")
    return {**rest, "guard": {"_target_": GUARD, **guard}}
