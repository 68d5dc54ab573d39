"""The formats by name, and which of them suits a model: each is asked what the model lacks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edit_robust.core import UserError, nearest
from edit_robust.exports import adapter, change, hugging_face, open_clip_folder, state, timm_folder
from edit_robust.exports.edited import Edited
from edit_robust.models.base import Model


@dataclass(frozen=True)
class Format:
    """A format. lacks: what a model has to have for it and has not, in words; "" where it can be written.

    write: puts the files into an empty folder; -> what a reader of the card has to know to load them.
    library: as model cards name it.
    """

    library: str
    lacks: Callable[[Model], str]
    write: Callable[[Edited, Path, int | None], str]


FORMATS: Mapping[str, Format] = {
    "hf": Format("transformers", hugging_face.lacks, hugging_face.write),
    "open_clip": Format("open_clip", open_clip_folder.lacks, open_clip_folder.write),
    "timm": Format("timm", timm_folder.lacks, timm_folder.write),
    "weights": Format("pytorch", state.lacks, state.write),
    "peft": Format("peft", adapter.lacks, adapter.write),
    "safetensors": Format("edit-robust", change.lacks, change.write),
}


def format_for(model: Model, name: str | None) -> tuple[str, Format]:
    """The format of a name, or without one the first that suits the model. UserError where it does not suit."""
    if name is None:
        return next((n, f) for n, f in FORMATS.items() if not f.lacks(model))
    found = format_named(name)
    if lacking := found.lacks(model):
        fitting = [n for n, f in FORMATS.items() if not f.lacks(model)]
        raise UserError(f"--to {name}: {model.name} {lacking}; {nearest(name, fitting, 'formats for it')}")
    return name, found


def format_named(name: str) -> Format:
    """UserError with the nearest format for a name that is none."""
    if name not in FORMATS:
        raise UserError(f"--to {name}: there is no such format; {nearest(name, FORMATS, 'formats')}")
    return FORMATS[name]
