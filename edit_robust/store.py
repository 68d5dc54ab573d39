"""A run's folder: what it asked, what it measured, how far it got. Written so that a kill costs one point at most.

    config.yaml       the resolved config                 examples.jsonl  every question, once
    records.jsonl     tidy numbers, appended a point      points.jsonl    a line a finished point: the commit mark
    outcomes/         what every example got at a point   deltas/         each edit's change, as factors
    state/            what editors carry; kept weights    status.json     running, complete or failed, and on what
    summary.json      final values, flat                  contexts.json   the context templates used

A point is measured when its line stands in points.jsonl. The line holds the length of records.jsonl after the point,
so that an unfinished tail is cut off when the run goes on.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import yaml
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edit_robust.core import Delta, Editable, LowRank, Record, UserError, nearest
from edit_robust.core.editable import Snapshot
from edit_robust.core.files import atomic_path, write_text
from edit_robust.editors.base import Edit, State

if TYPE_CHECKING:
    from edit_robust.figures.frame import RunData

TOTAL, WEIGHTS = "total.safetensors", "weights.safetensors"
STATUS_EVERY = 10.0  # seconds: how stale the status of a running experiment may be
PACKAGES = ("torch", "transformers", "tokenizers", "hydra-core", "omegaconf", "numpy", "safetensors", "edit-robust")


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
        rows = [json.loads(line) for line in _whole_lines(self.path / "records.jsonl")]
        columns = list(Record.__dataclass_fields__)
        found = pd.DataFrame(rows, columns=columns)
        return found.assign(request=found["request"].fillna(""))

    @property
    def summary(self) -> dict[str, Any]:
        return _json(self.path / "summary.json")

    @property
    def status(self) -> dict[str, Any]:
        return _json(self.path / "status.json")

    @property
    def points(self) -> list[dict[str, Any]]:
        return _points(self.path / "points.jsonl")

    @property
    def complete(self) -> bool:
        return self.status.get("status") == "complete"

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Every question: id, probe, group (request), x, choices, target."""
        return pd.DataFrame([json.loads(line) for line in _whole_lines(self.path / "examples.jsonl")])

    def data(self) -> RunData:
        """What figures and reports are drawn from."""
        from edit_robust.figures.frame import RunData

        return RunData(self.id, self.records, self.config, self.summary, self.path)

    def outcomes(self, step: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """scope -> (rows of `examples`, logp [n, k], hits [n, k]) at a point."""
        with np.load(self.path / "outcomes" / f"{step:06d}.npz", allow_pickle=False) as f:
            scopes = sorted({k.split("|")[0] for k in f.files})
            return {s: (f[f"{s}|index"], f[f"{s}|logp"], f[f"{s}|hits"]) for s in scopes}

    def predictions(self, step: int) -> dict[tuple[str, str, str, int], tuple[np.ndarray, np.ndarray]]:
        """(probe, request, shift, severity) -> (predicted class [n], log-probability of the right one [n]); images."""
        found = {}
        with np.load(self.path / "outcomes" / f"{step:06d}.npz", allow_pickle=False) as f:
            for key in {k.rpartition("|")[0] for k in f.files}:
                probe, request, shift, severity = key.split("|")
                found[probe, request, shift, int(severity)] = (f[f"{key}|pred"], f[f"{key}|logp"])
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
        weights = _kept_weights(self.path)
        deltas = [] if weights else self._stacked()
        if (weights["base"] if weights else deltas[0].base) != model.position:
            raise UserError(
                f"this is not the model that {self.id} edited ({self.config['model']['path']}): other weights"
            )
        for delta in deltas:
            model.add(delta)
        if weights:
            _put_weights(self.path, model, weights)

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


class RunStore:
    """The writing side of a run's folder. keep_dense: independent changes are kept even where they are no factors:
    few edits of small networks, unlike thousands of large ones."""

    def __init__(self, path: Path, run_id: str, keep_dense: bool = False) -> None:
        self.path, self.run_id, self.keep_dense = path, run_id, keep_dense
        self.done: dict[int, dict[str, Any]] = {}
        self.phases: dict[str, float] = {}
        self._status: dict[str, Any] = {}
        self._status_written = 0.0

    # -- opening and closing ---------------------------------------------------------------------------------------

    @contextmanager
    def session(self, config: Mapping[str, Any], device: str) -> Iterator[RunStore]:
        """Own the folder. The status says running, then complete, failed (with its traceback) or interrupted."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = _lock(self.path)
        try:
            for folder in ("outcomes", "deltas", "state"):
                (self.path / folder).mkdir(exist_ok=True)
            if not (self.path / "config.yaml").exists():
                write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
            self._recover()
            before = _json(self.path / "status.json")
            self.phases = dict(before.get("seconds", {}))
            self._status = {
                "status": "running",
                "started": before.get("started") or _now(),
                "resumed": int(before.get("resumed", -1)) + 1,
                "command": " ".join(sys.argv),
                "device": device,
                "seed": config.get("seed"),
                "versions": _versions(),
                "git": _git(),
            }
            self._write_status()
            try:
                yield self
            except KeyboardInterrupt:
                self._write_status(status="interrupted", ended=_now())
                raise
            except BaseException as e:
                trace = "".join(traceback.format_exception(e))
                try:
                    self._write_status(status="failed", ended=_now(), error=str(e), traceback=trace)
                except OSError:  # a full disk: what was measured is safe, and the first error is the one to show
                    raise e from None
                raise
            self._write_status(status="complete", ended=_now())
        finally:
            lock.release()

    def _recover(self) -> None:
        """Cut off what a killed process left half written."""
        points = _points(self.path / "points.jsonl")
        self.done = {p["step"]: p for p in points}
        records = self.path / "records.jsonl"
        end = points[-1]["records_end"] if points else 0
        if records.exists() and records.stat().st_size < end:
            raise UserError(
                f"{records} is shorter than points.jsonl says: it was changed; use force=true to start anew"
            )
        _cut(records, end)
        _cut(self.path / "points.jsonl", sum(len(_line(p)) for p in points))
        known = self.path / "state" / "edits.jsonl"
        _cut(known, sum(len(_line(p)) for p in _points(known)))

    def _write_status(self, **more: Any) -> None:
        self._status |= more
        self._status["seconds"] = {k: round(v, 3) for k, v in self.phases.items()}
        self._status["peak_memory_mb"] = self.peak_memory()
        self._status["points"] = len(self.done)
        write_text(self.path / "status.json", json.dumps(self._status, indent=1))
        self._status_written = time.monotonic()

    def note(self, **facts: Any) -> None:
        """Put what became known while running into the status."""
        self._write_status(**facts)

    @staticmethod
    def peak_memory() -> dict[str, float]:
        """Peak memory of this process in MiB, and of its GPU when it used one."""
        return _peak_memory()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - start

    # -- what was measured -----------------------------------------------------------------------------------------

    def write_examples(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Keep every question once."""
        path = self.path / "examples.jsonl"
        if not path.exists():
            write_text(path, "".join(json.dumps(dict(line), ensure_ascii=False) + "\n" for line in lines))

    def write_point(
        self, step: int, records: Sequence[Record], outcomes: Mapping[str, np.ndarray], **meta: Any
    ) -> None:
        """Outcomes (arrays by name) first, then the records, then the line that says the point is measured."""
        with atomic_path(self.path / "outcomes" / f"{step:06d}.npz") as temporary, temporary.open("wb") as f:
            np.savez_compressed(f, **outcomes)  # type: ignore[arg-type]
        end = _append(self.path / "records.jsonl", "".join(_line(_strict(r.to_dict())) for r in records))
        line = {"step": step, "records_end": end, **meta}
        _append(self.path / "points.jsonl", _line(line))
        self.done[step] = line
        if time.monotonic() - self._status_written > STATUS_EVERY:
            self._write_status()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_text(self.path / "summary.json", json.dumps(dict(summary), indent=1))

    # -- the ledger of edits ---------------------------------------------------------------------------------------

    def measured(self, step: int) -> bool:
        return step in self.done

    def _delta_path(self, step: int) -> Path:
        return self.path / "deltas" / f"{step:06d}.safetensors"

    def _kept(self, step: int, state: State) -> Edit | None:
        path = self._delta_path(step)
        if not path.exists():
            return None
        delta = Delta.load(path)
        carried = self.path / "state" / f"{step:06d}.safetensors"
        if carried.exists():
            state = replace(state, carried=load_file(carried))
        return Edit(delta, list(delta.info["edits"]), state)

    def _keep(self, step: int, edit: Edit) -> None:
        if edit.state.carried:
            with atomic_path(self.path / "state" / f"{step:06d}.safetensors") as temporary:
                save_file(dict(edit.state.carried), temporary)
        Delta(edit.delta.terms, edit.delta.base, {**edit.delta.info, "edits": edit.info}).save(self._delta_path(step))

    def independent(self, steps: Sequence[int], make: Callable[[], list[Edit]], state: State) -> list[Edit]:
        kept = [self._kept(step, state) for step in steps]
        if all(e is not None for e in kept):
            return [e for e in kept if e is not None]
        with self.phase("edit"):
            edits = make()
        for step, edit in zip(steps, edits, strict=True):
            if _factored(edit.delta) or self.keep_dense:
                self._keep(step, edit)
        return edits

    def advance(self, model: Editable, step: int, make: Callable[[], Edit], state: State) -> Edit:
        at = self._position()
        if at is not None and step <= at["step"]:
            return self._jumped(model, at, step, state)
        edit = self._kept(step, state)
        if edit is not None:
            if edit.delta.terms and edit.delta.base != model.position:
                raise UserError(
                    f"{self._delta_path(step)} was made at other weights than this run's: the model or its files have "
                    "changed since; use force=true to start anew"
                )
            model.add(edit.delta)
            return edit
        with self.phase("edit"):
            edit = make()
        if _factored(edit.delta):
            self._keep(step, edit)
            model.add(edit.delta)
        else:
            model.add(edit.delta)
            self._keep_weights(model, step, edit)
        return edit

    # A dense change (fine-tuning) of every step would fill the disk: the weights after the last one are kept instead,
    # and what is known about every edit as a line of its own.

    def _position(self) -> dict[str, Any] | None:
        if not hasattr(self, "_at"):
            self._at = _kept_weights(self.path)
            lines = _points(self.path / "state" / "edits.jsonl")
            self._infos: dict[int, list[dict[str, float]]] = {line["step"]: line["info"] for line in lines}
        return self._at

    def _keep_weights(self, model: Editable, step: int, edit: Edit) -> None:
        _append(self.path / "state" / "edits.jsonl", _line({"step": step, "info": edit.info}))
        about = {"step": step, "base": model.base, "position": model.position, "norms": edit.delta.norms()}
        tensors = {name: model.param(name).detach().cpu().contiguous() for name in edit.delta.terms}
        with atomic_path(self.path / "state" / WEIGHTS) as temporary:
            save_file(tensors, temporary, metadata={"edit-robust": json.dumps(about)})

    def _jumped(self, model: Editable, at: dict[str, Any], step: int, state: State) -> Edit:
        """An edit up to the kept weights: the last one brings the model there, those before it change nothing."""
        kept = self._kept(step, state)  # a refused one
        info = kept.info if kept else self._infos[step]
        if step < at["step"]:
            return Edit(Delta({}, model.position), info, state)
        _put_weights(self.path, model, at)
        return Edit(Delta({}, model.position, {"norms": at["norms"]}), info, state)

    def keep_total(self, before: Snapshot, model: Editable) -> None:
        """Of a walk of dense changes, keep the whole change as one."""
        weights = self.path / "state" / WEIGHTS
        total = self.path / "deltas" / TOTAL
        if weights.exists() and not total.exists():
            now = model.snapshot(before.values)
            try:
                _put_weights(self.path, model, {"position": ""})
                model.difference(before).save(total)
            finally:
                model.restore(now)


def _kept_weights(path: Path) -> dict[str, Any] | None:
    """What is known about the weights that a run of dense changes keeps: step, base, position, norms."""
    if not (path / "state" / WEIGHTS).exists():
        return None
    with safe_open(str(path / "state" / WEIGHTS), framework="pt") as f:
        return dict(json.loads(f.metadata()["edit-robust"]))


def _put_weights(path: Path, model: Editable, about: Mapping[str, Any]) -> None:
    with torch.no_grad():
        for name, value in load_file(path / "state" / WEIGHTS).items():
            model.param(name).copy_(value)
    model.position = about["position"]


def _factored(delta: Delta) -> bool:
    return all(isinstance(t, LowRank) for t in delta.terms.values())


def _lock(path: Path) -> FileLock:
    """The lock of a run's folder, taken. It goes with the process that holds it, however that ends."""
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{path.name} is being run by another process") from None
    return lock


def set_aside(path: Path) -> Path | None:
    """Move a run's folder out of the way, so that the run starts anew and nothing measured is lost."""
    if not path.exists():
        return None
    n = 1
    while (aside := path.with_name(f"{path.name}~{n}")).exists():
        n += 1
    lock = _lock(path)
    try:
        path.rename(aside)
    finally:
        lock.release()
    return aside


def _strict(record: dict[str, Any]) -> dict[str, Any]:
    """JSON knows neither NaN nor infinity; both become null, and NaN when read back."""
    return record if math.isfinite(record["value"]) else {**record, "value": None}


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(dict(entry)) + "\n"


def _append(path: Path, text: str) -> int:
    """Append and force to disk; the file's length afterwards, in bytes."""
    with path.open("ab") as f:
        f.write(text.encode())
        f.flush()
        os.fsync(f.fileno())
        return f.tell()


def _cut(path: Path, end: int) -> None:
    if path.exists() and path.stat().st_size > end:
        with path.open("rb+") as f:
            f.truncate(end)


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]


def _points(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in _whole_lines(path):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError):
        return {}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any]:
    """Commit and cleanliness of the program's own repository, where there is one."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():  # installed: a repository around it is somebody else's
        return {}
    try:
        sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
        if sha.returncode:
            return {}
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=5)
        return {"sha": sha.stdout.strip(), "dirty": bool(dirty.stdout.strip())}
    except (OSError, subprocess.SubprocessError):
        return {}


def _peak_memory() -> dict[str, float]:
    """Peak memory of this process in MiB, and of its GPU when it used one."""
    import resource

    unit = 1024 if sys.platform == "darwin" else 1
    found = {"process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / unit, 1)}
    if torch.cuda.is_available():
        found["gpu"] = round(
            max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / 2**20, 1
        )
    return found
