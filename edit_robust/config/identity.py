"""What a run is called: a hash of everything that can change a result."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from edit_robust.config.nodes import hints_of, model_name, target_of
from edit_robust.core.options import ASIDE as NO_RESULT
from edit_robust.core.options import FILE, says, words_of

#: Options that say how or where a run is done, not what it is; and those that measures hold as options of their own.
ASIDE = (
    "paths",
    "tracker",
    "hydra",
    "force",
    "figures",
    "threads",
    "experiment",
    "objective",
    "text_tokens",
    "shifts",
    "corruption",
)
#: What the layer of an editor that asks for none counts as, so that the same run has one name.
NO_LAYER = {"index": "last"}
#: Raised when results of the same config change, so that older runs are not taken for today's.
RESULTS_VERSION = 5


def run_id(values: dict[str, Any]) -> str:
    """A run is named by what it does: its parts, and a hash of everything that can change a result.

    Choices count by their names and their options' values, never by where their code lies. Options that name files
    (`DataFile` in the constructor's signature) count by the files' content: moved files make the same run, changed
    files another one. Options marked `Aside` do not count, nor does the layer of an editor that trains the same
    whatever layer it is given (`any_layer`).
    """
    if getattr(target_of(values["editor"], "editor"), "any_layer", False):
        values = {**values, "layer": NO_LAYER}
    about = {k: _by_content(v, part=k) for k, v in values.items() if k not in ASIDE}
    text = json.dumps({"version": RESULTS_VERSION, **about}, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = [
        values["editor"]["name"],
        model_name(values),
        values["task"]["name"],
        values["trajectory"]["name"],
        digest,
    ]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(str(p) for p in parts))


def evaluation_name(measures: dict[str, Any], steps: Any) -> str:
    """What is asked of a finished run is named by its measures, and by a hash of their options and of the steps."""
    about = {"version": RESULTS_VERSION, "measure": _by_content(measures, part="measure"), "steps": steps}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return "-".join([*list(measures)[:3], digest])


def _by_content(node: Any, hint: Any = None, part: str = "") -> Any:
    """An option's value as it counts for a run's id. hint: its type, as the constructor's signature has it."""
    if isinstance(node, dict) and "_target_" in node:
        target = target_of(node, part)
        hints = hints_of(target)
        found = {
            k: _by_content(v, hints.get(k))
            for k, v in node.items()
            if k[:1] != "_" and not says(hints.get(k), NO_RESULT)
        }
        named = "name" in found or part in ("", "measure")  # a measure's name is its key
        return found if named else {"name": target.__name__, **found}
    if isinstance(node, dict):
        return {k: _by_content(v, hint, part) for k, v in node.items()}
    if isinstance(node, list):
        return [_by_content(v, hint) for v in node]
    if isinstance(node, str) and says(hint, FILE) and node not in words_of(hint):
        return _content(node)
    return node


def _content(name: str) -> str:
    """Hash of what a file, a folder or a shipped model holds; the name itself where there is no such file."""
    from edit_robust.core.files import content_digest

    if name.startswith("builtin:"):
        from edit_robust.assets import asset_dir

        return content_digest(asset_dir(name.removeprefix("builtin:")))
    path = Path(name).expanduser()
    return content_digest(path) if name and path.exists() else name
