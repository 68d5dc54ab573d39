"""A run as read back from its folder, and how to find one. See `store` for what the folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from edit_robust.core import Delta, Editable, Record, UserError, nearest
from edit_robust.evaluate.statistics.paired import Key

if TYPE_CHECKING:
    from edit_robust.figures.frame import RunData

TOTAL, WEIGHTS = "total.safetensors", "weights.safetensors"


@dataclass(frozen=True)
class Run:
    """A run as read back from its folder. `records` is a tidy DataFrame, see `core.data.Record`."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @cached_property
    def config(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.path / "config.yaml").read_text()))

    @cached_property
    def records(self) -> pd.DataFrame:
        rows = [json.loads(line) for line in whole_lines(self.path / "records.jsonl")]
        columns = list(Record.__dataclass_fields__)
        found = pd.DataFrame(rows, columns=columns)
        return found.assign(request=found["request"].fillna(""))

    @property
    def summary(self) -> dict[str, Any]:
        return read_json(self.path / "summary.json")

    @property
    def status(self) -> dict[str, Any]:
        return read_json(self.path / "status.json")

    @property
    def points(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "points.jsonl")

    @property
    def complete(self) -> bool:
        return self.status.get("status") == "complete"

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Every question: id, probe, group (request), x, choices, target."""
        return pd.DataFrame([json.loads(line) for line in whole_lines(self.path / "examples.jsonl")])

    def data(self) -> RunData:
        """What figures and reports are drawn from."""
        from edit_robust.figures.frame import RunData

        return RunData(self.id, self.records, self.config, self.summary, self.path)

    def outcomes(self, step: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """scope -> (rows of `examples`, logp [n, k], hits [n, k]) at a point."""
        with np.load(self.path / "outcomes" / f"{step:06d}.npz", allow_pickle=False) as f:
            scopes = sorted({k.split("|")[0] for k in f.files})
            return {s: (f[f"{s}|index"], f[f"{s}|logp"], f[f"{s}|hits"]) for s in scopes}

    def predictions(self, step: int) -> dict[Key, tuple[np.ndarray, np.ndarray]]:
        """Key -> (predicted class [n], log-probability of the right one [n]); images."""
        found = {}
        with np.load(self.path / "outcomes" / f"{step:06d}.npz", allow_pickle=False) as f:
            for key in {k.rpartition("|")[0] for k in f.files}:
                probe, request, shift, severity = key.split("|")
                found[probe, request, shift, int(severity)] = (f[f"{key}|pred"], f[f"{key}|logp"])
        return found

    @cached_property
    def _targets(self) -> dict[Any, np.ndarray]:
        """(probe, request, natural shift) -> the right class of each image."""
        return {k: x.target.to_numpy() for k, x in self.examples.groupby(["probe", "group", "shift"], sort=False)}

    def right(self, step: int) -> dict[Key, np.ndarray]:
        """Key -> bool [n], whether each image is answered right at a point; images."""
        found = {}
        for key, (pred, _) in self.predictions(step).items():
            probe, request, shift, severity = key
            found[key] = pred == self._targets[probe, request, "none" if severity else shift]
        return found

    def deltas(self) -> list[Delta]:
        """The kept changes in the order they were made (dense ones are kept as one, the whole walk's)."""
        return [Delta.load(p) for p in sorted((self.path / "deltas").glob("[0-9]*.safetensors"))]

    def delta(self) -> Delta:
        """The whole change of a sequential walk: add it to the unedited model to get the edited one."""
        total = self.path / "deltas" / TOTAL
        return Delta.load(total) if total.exists() else Delta.chain(self._stacked())

    def replay(self, model: Editable) -> None:
        """Bring the unedited model to where a sequential walk ended, to the bit.

        Adding `delta()` comes as close as one rounding; here every step is rounded as the walk rounded it.
        """
        weights = kept_weights(self.path)
        deltas = [] if weights else self._stacked()
        if (weights["base"] if weights else deltas[0].base) != model.position:
            raise UserError(
                f"this is not the model that {self.id} edited ({self.config['model']['path']}): other weights"
            )
        for delta in deltas:
            model.add(delta)
        if weights:
            put_weights(self.path, model, weights)

    def _stacked(self) -> list[Delta]:
        """The changes of a walk that stacked them. Raises UserError where each was made at the unedited model."""
        deltas = self.deltas()
        if not deltas:
            raise UserError(f"{self.id} has kept no change of the weights")
        if len(deltas) > 1 and len({d.base for d in deltas}) == 1:
            raise UserError(f"{self.id} made {len(deltas)} independent edits; take one of `deltas()`")
        return deltas


def find_run(name: str, outputs: Path) -> Run:
    """A run by its id, the beginning or end of its id, or its folder. Raises UserError with the nearest id."""
    direct = Path(name)
    if (direct / "config.yaml").is_file():
        return Run(direct.resolve())
    runs = list_runs(outputs)
    matches = [r for r in runs if r.id == name] or [r for r in runs if r.id.startswith(name) or r.id.endswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{name!r} could be {', '.join(r.id for r in matches)}")
    raise UserError(f"no run {name!r} in {outputs / 'runs'}; {nearest(name, [r.id for r in runs], 'runs')}")


def list_runs(outputs: Path) -> list[Run]:
    """Runs in an outputs folder, oldest first; those set aside by `force` are left out."""
    found = [p.parent for p in (outputs / "runs").glob("*/config.yaml") if "~" not in p.parent.name]
    return [Run(p.resolve()) for p in sorted(found, key=lambda p: (p.stat().st_mtime, p.name))]


def kept_weights(path: Path) -> dict[str, Any] | None:
    """What is known about the weights that a run of dense changes keeps: step, base, position, norms."""
    if not (path / "state" / WEIGHTS).exists():
        return None
    with safe_open(str(path / "state" / WEIGHTS), framework="pt") as f:
        return dict(json.loads(f.metadata()["edit-robust"]))


def put_weights(path: Path, model: Editable, about: Mapping[str, Any]) -> None:
    with torch.no_grad():
        for name, value in load_file(path / "state" / WEIGHTS).items():
            model.param(name).copy_(value)
    model.position = about["position"]


def whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]


def read_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in whole_lines(path):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError):
        return {}
