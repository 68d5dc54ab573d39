"""The runs behind a name: of a run, of a sweep, of a folder, or a pattern."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from edit_robust.core.errors import UserError, nearest
from edit_robust.runs.reader import Run, find_run, list_runs
from edit_robust.sweeps.journal import FOLDER, read


def runs_named(names: list[str], outputs: Path) -> list[Run]:
    """The runs of these names, each once, in their order.

    A name is a run's id, its beginning or end, its folder; a pattern of ids; a sweep's name, or its beginning, as it
    stands in outputs/sweeps; or a folder that holds runs: an outputs folder, or one with runs side by side. Of sweeps
    and folders the complete runs count. Raises UserError for a name that is none of these, and where none is complete.
    """
    found: dict[Path, Run] = {}
    for name in names:
        for run in _named(name, outputs):
            found[run.path] = run
    return list(found.values())


def _named(name: str, outputs: Path) -> list[Run]:
    if any(c in name for c in "*?[") and (some := [r for r in list_runs(outputs) if fnmatch(r.id, name)]):
        return some
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.yaml").is_file():
        return _complete(_inside(folder), name)
    sweep = _sweep(name, outputs)
    if sweep is not None:
        jobs = read(sweep).get("jobs", [])
        ids = list(dict.fromkeys(str(job.get("run")) for job in jobs if job.get("run")))
        at = sweep.parent.parent / "runs"
        return _complete([Run((at / i).resolve()) for i in ids if (at / i / "config.yaml").is_file()], name)
    try:
        return [find_run(name, outputs)]
    except UserError as e:
        sweeps = [p.stem for p in (outputs / FOLDER).glob("*.json")]
        raise UserError(f"{e}; {nearest(name, sweeps, 'sweeps')}" if sweeps else str(e)) from e


def _inside(folder: Path) -> list[Run]:
    """The runs of an outputs folder, or of one with runs side by side."""
    beside = [p.parent for p in folder.glob("*/config.yaml") if "~" not in p.parent.name]
    order = sorted(beside, key=lambda p: ((p / "config.yaml").stat().st_mtime, p.name))
    return list_runs(folder) or [Run(p.resolve()) for p in order]


def _sweep(name: str, outputs: Path) -> Path | None:
    """The journal of that name, or the only one that begins with it; None where a run is meant."""
    direct = Path(name)
    if direct.suffix == ".json" and direct.is_file():
        return direct
    journals = sorted((outputs / FOLDER).glob("*.json"))
    exact = [p for p in journals if p.stem == name]
    if exact or any(r.id == name for r in list_runs(outputs)):
        return exact[0] if exact else None
    begun = [p for p in journals if p.stem.startswith(name)]
    if len(begun) > 1:
        raise UserError(f"{name!r} could be any of the sweeps {', '.join(p.stem for p in begun)}")
    return begun[0] if begun else None


def _complete(runs: list[Run], name: str) -> list[Run]:
    done = [run for run in runs if run.complete]
    if not done:
        raise UserError(f"{name}: none of its {len(runs)} runs is complete" if runs else f"there are no runs in {name}")
    return done
