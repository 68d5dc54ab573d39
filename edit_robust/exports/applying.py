"""A change that was exported, added to another copy of the model that it is a change of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edit_robust.config.compose import as_plain, choices, compose
from edit_robust.config.nodes import build
from edit_robust.core import Delta, UserError, nearest
from edit_robust.exports.change import FILE
from edit_robust.exports.edited import Edited
from edit_robust.exports.exporting import Exported, check_empty, check_options, write
from edit_robust.models.base import Model


def apply(
    delta: Path, to: str, folder: Path, alpha: float = 1.0, overrides: Sequence[str] = (), form: str | None = None
) -> Exported:
    """Add `alpha` times a change to the model `to`, and write the model to a new folder.

    delta:     the file, or the folder that it lies in.
    to:        a model's config by name (`fact-gpt`, `model=fact-gpt`), or a folder in the Hugging Face format.
    overrides: options of the model, as `model.path=...`.   form: as `to` of `export`; None: what suits the model.
    Raises UserError, and writes nothing, for a model that is not the one the change was made for.
    """
    check_empty(folder)
    check_options(form, alpha, None)
    change = Delta.load(delta / FILE if delta.is_dir() else delta)
    node = model_node(to, overrides, str(change.info.get("dtype") or ""))
    model: Model = build(node, "model")
    if change.base not in (model.base, *model.older_bases):
        raise UserError(
            f"{delta} is a change of another model than {model.name}: it was made at weights with the hash "
            f"{change.base}{_named(change)}, and those of {model.name} have {model.base}"
        )
    before = model.snapshot(change.terms)
    model.add(change.scale(alpha))
    edits = int(change.info.get("edits") or 1)
    found = Edited(model, change.base, before, node, alpha, edits, {**change.info, "alpha": alpha}, made=change)
    return write(found, folder, form)


def _named(change: Delta) -> str:
    about = [str(change.info[k]) for k in ("model", "dtype") if change.info.get(k)]
    return f" ({', '.join(about)})" if about else ""


def model_node(to: str, overrides: Sequence[str], dtype: str) -> dict[str, Any]:
    """The model's options. dtype: the type of number that the change was made in, where nothing else is said."""
    name = to.removeprefix("model=")
    folder = Path(name).expanduser()
    if name not in choices("model") and not (folder / "config.json").is_file():
        what = "has no config.json" if folder.exists() else "is neither a folder nor a model's config"
        raise UserError(f"--to {name} {what}; {nearest(name, choices('model'), 'configs')}")
    wrong = [o for o in overrides if not o.lstrip("+").startswith("model.")]
    if wrong:
        raise UserError(f"{wrong[0]}: only options of the model can be given, as model.path=FOLDER")
    given = [f"model={name}"] if name in choices("model") else ["model=hf", f"model.path={folder}"]
    if dtype and not any(o.startswith("model.dtype=") for o in overrides):
        given.append(f"model.dtype={dtype}")
    node = as_plain(compose([*given, *overrides]))["model"]
    missing = sorted(k for k, v in node.items() if v == "???")
    if missing:
        raise UserError(f"model.{missing[0]} must be given: model.{missing[0]}=...")
    return dict(node)
