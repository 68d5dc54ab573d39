"""A run as read back from its folder, and how to find one. Imports no torch. See `folder` for what a folder holds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from edit_robust.core.data import Column, Record
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.images import Key
from edit_robust.runs.files import read_json, read_lines, whole_lines
from edit_robust.runs.status import read_status

if TYPE_CHECKING:
    from edit_robust.core.delta import Delta
    from edit_robust.core.editable import Editable

#: Arrays of a measure are kept as `measure:name`; runs of older versions have no measure before the name.
_MEASURE = re.compile(r"^([a-z][a-z0-9-]*):(.*)$", re.DOTALL)


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
    def evaluations(self) -> list[Run]:
        """What the finished run was asked later (`edit-robust evaluate`), oldest first; folders like a run's."""
        found = [p.parent for p in (self.path / "evaluations").glob("*/summary.json") if "~" not in p.parent.name]
        return [Run(p) for p in sorted(found, key=lambda p: ((p / "config.yaml").stat().st_mtime, p.name))]

    @cached_property
    def records(self) -> pd.DataFrame:
        """The run's own records, then those of its evaluations; a number that was measured twice stands there once."""
        rows = [json.loads(line) for line in whole_lines(self.path / "records.jsonl")]
        columns = list(Record.__dataclass_fields__)
        found = pd.DataFrame(rows, columns=columns)
        found = found.assign(request=found["request"].fillna(""))
        later = [one.records for one in self.evaluations]
        if not later:
            return found
        whole = pd.concat([found, *later], ignore_index=True)
        return whole.drop_duplicates([c for c in columns if c not in ("value", "n")], ignore_index=True)

    @property
    def summary(self) -> dict[str, Any]:
        """Flat; what evaluations found stands behind the run's own numbers."""
        found = read_json(self.path / "summary.json")
        for one in self.evaluations:
            found |= {k: v for k, v in one.summary.items() if k not in found}
        return found

    @property
    def autopsy(self) -> dict[str, Any]:
        """What an autopsy of the run has found; {} where there was none."""
        return read_json(self.path / "autopsy.json")

    @property
    def columns(self) -> list[Column]:
        """The summary with how tables show it; empty for runs of older versions."""
        file = self.path / "columns.json"
        try:
            found = [Column(**c) for c in json.loads(file.read_text())] if file.is_file() else []
        except (ValueError, TypeError):  # of a newer version
            return []
        for one in self.evaluations if found else ():
            known = {c.key for c in found}
            found += [c for c in one.columns if c.key not in known]
        return found

    @property
    def status(self) -> dict[str, Any]:
        """running, complete, failed or interrupted (a run whose process is gone is interrupted), and on what."""
        return read_status(self.path)

    @property
    def points(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "points.jsonl")

    @property
    def complete(self) -> bool:
        return read_json(self.path / "status.json").get("status") == "complete"

    # -- what single examples got ----------------------------------------------------------------------------------

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Every question: id, probe, group (request), x, choices, target; measure, where several asked questions."""
        found = pd.DataFrame([json.loads(line) for line in whole_lines(self.path / "examples.jsonl")])
        for one in self.evaluations:
            later = one.examples
            if len(later):
                asked = set(found["measure"]) if "measure" in found else set()
                found = pd.concat([found, later[~later["measure"].isin(asked)]], ignore_index=True)
        return found

    def examples_of(self, measure: str) -> pd.DataFrame:
        """The questions of one measure, numbered from 0."""
        found = self.examples
        return found[found.measure == measure].reset_index(drop=True) if "measure" in found else found

    def arrays(self, step: int, measure: str) -> dict[str, np.ndarray]:
        """What a measure kept at a point, by name; {} where it kept nothing."""
        path = self.path / "outcomes" / f"{step:06d}.npz"
        found: dict[str, np.ndarray] = {}
        if path.is_file():
            with np.load(path, allow_pickle=False) as f:
                for key in f.files:
                    known = _MEASURE.match(key)
                    if known is None or known[1] == measure:
                        found[known[2] if known else key] = f[key]
        return found or next((a for one in self.evaluations if (a := one.arrays(step, measure))), {})

    def outcomes(self, step: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """scope -> (rows of the questions, logp [n, k], hits [n, k]) at a point; see `evaluate.answers`."""
        found = self.arrays(step, "answers")
        scopes = sorted({k.partition("|")[0] for k in found if k.endswith("|index")})
        return {s: (found[f"{s}|index"], found[f"{s}|logp"], found[f"{s}|hits"]) for s in scopes}

    def _of_images(self, step: int, *kinds: str) -> list[dict[Key, np.ndarray]]:
        """For each kind (right, pred, logp, logits), key -> what was kept of it of a set's images at a point."""
        found: dict[str, dict[Key, np.ndarray]] = {kind: {} for kind in kinds}
        for name, array in self.arrays(step, "image-answers").items():
            key, _, its = name.rpartition("|")
            if its in found:
                probe, rest = key.split("|", 1)
                request, shift, severity = rest.rsplit("|", 2)
                found[its][probe, request, shift, int(severity)] = array
        return list(found.values())

    def predictions(self, step: int) -> dict[Key, tuple[np.ndarray, np.ndarray]]:
        """Key -> (predicted class [n], log-probability of the right one [n]) at a point, for the images of which they
        were kept (`keep` of the measure): classes of images without corruption always are; NaN where no probability is.
        """
        found: dict[Key, tuple[np.ndarray, np.ndarray]] = {}
        for run in (*reversed(self.evaluations), self):
            logp, predicted = run._of_images(step, "logp", "pred")
            for key, pred in predicted.items():
                if key in logp or key not in found:
                    found[key] = pred, logp.get(key, np.full(len(pred), np.nan, np.float32))
        return found

    @cached_property
    def _targets(self) -> dict[Any, np.ndarray]:
        """(probe, request, natural shift) -> the right class of each image."""
        examples = self.examples_of("image-answers")
        if "shift" not in examples:
            return {}
        return {k: x.target.to_numpy() for k, x in examples.groupby(["probe", "group", "shift"], sort=False)}

    def right(self, step: int) -> dict[Key, np.ndarray]:
        """Key -> bool [n], whether each image is answered right at a point; {} for runs without images."""
        found = {}
        classes, bits = self._of_images(step, "pred", "right")
        for key in {**classes, **bits}:
            probe, request, shift, severity = key
            target = self._targets[probe, request, "none" if severity else shift]
            if key in bits:
                found[key] = np.unpackbits(bits[key], count=len(target)).astype(bool)
            else:  # earlier versions kept classes alone
                found[key] = classes[key] == target
        return found

    def pictures(self, probe: str, request: str) -> list[str]:
        """The picture that each clean image of a set shows: its name without the style that stands behind an @."""
        return self._pictures.get((probe, request), [])

    @cached_property
    def _pictures(self) -> dict[Any, list[str]]:
        examples = self.examples_of("image-answers")
        if "shift" not in examples:
            return {}
        clean = examples[examples["shift"] == "none"]
        names = clean.id.astype(str).str.partition("@")[0]
        return {k: list(x) for k, x in names.groupby([clean.probe, clean.group], sort=False)}

    # -- changes of the weights ------------------------------------------------------------------------------------

    def deltas(self) -> list[Delta]:
        """The kept changes in the order they were made (dense ones are kept as one, the whole walk's)."""
        from edit_robust.runs import ledger

        return ledger.deltas(self.path)

    def delta(self) -> Delta:
        """The whole change of a sequential walk: add it to the unedited model to get the edited one."""
        from edit_robust.runs import ledger

        return ledger.whole(self.path)

    def replay(self, model: Editable) -> None:
        """Bring the unedited model to where a sequential walk ended, to the bit.

        Adding `delta()` comes as close as one rounding; here every step is rounded as the walk rounded it.
        """
        from edit_robust.runs import ledger

        ledger.replay(self.path, model, str(self.config["model"].get("path")))


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
