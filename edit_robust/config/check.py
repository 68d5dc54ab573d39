"""Does a config fit? Every node is bound to its constructor: names, types, choices. No weight is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_robust.config.compose import as_plain
from edit_robust.config.fit import check_fit
from edit_robust.config.guards import with_guard
from edit_robust.config.nodes import bind, build, kind_of, wanted
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.threads import Threads

if TYPE_CHECKING:
    from omegaconf import DictConfig


PARTS = ("model", "task", "editor", "trajectory", "tracker")


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values. Raises UserError for a value that must be given and is not."""
    from omegaconf import OmegaConf

    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        hint = "a folder in the Hugging Face format or a hub id" if missing[0] == "model.path" else "a value"
        raise UserError(f"{missing[0]} must be given: {missing[0]}=... ({hint})")
    values = as_plain(cfg)
    return {**values, "editor": with_guard(values["editor"])} if "editor" in values else values


def check(cfg: DictConfig) -> dict[str, Any]:
    """Bind every composed node to its constructor: names, types, choices. Loads no weights."""
    values = resolved(cfg)
    for part in PARTS:
        bind(values[part], part)
    bind(values["shifts"], "shifts")
    for name, node in values["measure"].items():
        bind(node, f"measure.{name}")
    for name, kind in {"seed": int, "force": bool, "figures": bool, "text_tokens": int, "device": str}.items():
        if not isinstance(values[name], kind) or (kind is int and isinstance(values[name], bool)):
            raise UserError(f"{name}={values[name]} is {kind_of(values[name])}; {wanted(kind)} is needed")
    Threads.of(values["threads"])
    _check_layer(values["layer"].get("index"))
    _check_outputs(Path(str(values["paths"]["outputs"])))
    check_fit(values)
    for part in ("task", "editor", "trajectory"):  # light to make, and their constructors know which values make sense
        build(values[part], part)
    for name, node in values["measure"].items():
        build(node, f"measure.{name}")
    return values


def _check_layer(index: Any) -> None:
    """What can be said of `layer.index` before a model is there to say how many layers it has."""
    from edit_robust.editors.base import WORDS

    if isinstance(index, str) and index not in WORDS:
        raise UserError(f"layer.index={index} is neither a number nor a word for one; {nearest(index, WORDS, 'words')}")
    numbers = index if isinstance(index, list) else [index]
    if not isinstance(index, str) and (not numbers or any(type(i) is not int for i in numbers)):
        raise UserError(f"layer.index={index} must be a whole number, a list of them, or one of {', '.join(WORDS)}")


def _check_outputs(folder: Path) -> None:
    """Can results be written there? Found out before an hour of work, not after it."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise UserError(f"paths.outputs={folder}: {there} is a file, a folder is needed")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"paths.outputs={folder}: {there} cannot be written to; give another folder")
