"""Where a walk stands, so that it can be gone on with: kept weights, and a hash that a replay is compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edit_robust.core.editable import Editable
from edit_robust.core.errors import UserError
from edit_robust.core.files import atomic_path, write_text
from edit_robust.runs.files import WEIGHTS, read_json

CHECK = "check.json"
#: Why edits that are replayed or made again can come out as others.
ELSEWHERE = (
    "On another device, with other libraries or another number of threads, edits differ in their last digits: go on "
    "where the run was begun, or use force=true to start anew"
)


def kept_weights(path: Path) -> dict[str, Any] | None:
    """What is known about the weights that a run of dense changes keeps: step, base, position, norms."""
    if not (path / "state" / WEIGHTS).exists():
        return None
    with safe_open(str(path / "state" / WEIGHTS), framework="pt") as f:
        return dict(json.loads(f.metadata()["edit-robust"]))


def keep_weights(path: Path, model: Editable, names: Iterable[str], about: Mapping[str, Any]) -> None:
    """Keep the values of some parameters in a run's folder, in the place of those kept before."""
    tensors = {name: model.param(name).detach().cpu().contiguous() for name in names}
    with atomic_path(path / "state" / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"edit-robust": json.dumps(dict(about))})


def put_weights(path: Path, model: Editable, about: Mapping[str, Any]) -> set[str]:
    """Copy a run's kept weights into the model. -> the names of their parameters"""
    kept = load_file(path / "state" / WEIGHTS)
    with torch.no_grad():
        for name, value in kept.items():
            model.param(name).copy_(value)
    model.position = about["position"]
    return set(kept)


def digest(model: Editable, names: Iterable[str]) -> str:
    """Hash of the exact bits of some parameters."""
    h = hashlib.sha256()
    for name in sorted(names):
        p = model.param(name).detach()
        h.update(f"{name}:{tuple(p.shape)}:{p.dtype}:".encode())
        h.update(p.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()[:32]


class Check:
    """The hash of a walk's weights after one of its edits, kept so that a replay can be seen to have come there."""

    def __init__(self, path: Path) -> None:
        self.run, self.path = path.name, path / "state" / CHECK
        self._known = read_json(self.path)

    def at(self, model: Editable, step: int, names: Iterable[str]) -> None:
        """Keep the hash after an edit; at the edit at which one was kept before, compare it.

        names: of the parameters that have changed so far. UserError where the replayed weights are not the same.
        """
        known = self._known.get("step", 0)
        if step == known and digest(model, self._known["parameters"]) != self._known["weights"]:
            raise UserError(
                f"{self.run}: the weights after edit {step} are not those that this run had there. {ELSEWHERE}"
            )
        if step > known:
            names = sorted(names)
            self._known = {"step": step, "parameters": names, "weights": digest(model, names)}
            write_text(self.path, json.dumps(self._known))
