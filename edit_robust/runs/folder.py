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
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file

from edit_robust.core import Delta, Editable, LowRank, Record, UserError
from edit_robust.core.editable import Snapshot
from edit_robust.core.files import atomic_path, write_text
from edit_robust.editors.base import Edit, State
from edit_robust.runs.reader import TOTAL, WEIGHTS, kept_weights, put_weights, read_json, read_lines

STATUS_EVERY = 10.0  # seconds: how stale the status of a running experiment may be
PACKAGES = (
    *("torch", "transformers", "tokenizers", "timm", "torchvision", "pillow"),
    *("hydra-core", "omegaconf", "numpy", "safetensors", "edit-robust"),
)


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
            before = read_json(self.path / "status.json")
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
        """Cut off what a killed process left half written, and remove its unfinished files: the lock is ours."""
        for litter in self.path.rglob(".*.part"):
            litter.unlink(missing_ok=True)
        points = read_lines(self.path / "points.jsonl")
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
        _cut(known, sum(len(_line(p)) for p in read_lines(known)))

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
            self._at = kept_weights(self.path)
            lines = read_lines(self.path / "state" / "edits.jsonl")
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
        put_weights(self.path, model, at)
        return Edit(Delta({}, model.position, {"norms": at["norms"]}), info, state)

    def keep_total(self, before: Snapshot, model: Editable) -> None:
        """Of a walk of dense changes, keep the whole change as one."""
        weights = self.path / "state" / WEIGHTS
        total = self.path / "deltas" / TOTAL
        if weights.exists() and not total.exists():
            now = model.snapshot(before.values)
            try:
                put_weights(self.path, model, {"position": ""})
                model.difference(before).save(total)
            finally:
                model.restore(now)


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
