"""Cores, memory, and whether results can be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edit_robust.core.threads import Threads, cores
from edit_robust.doctor.finding import Finding
from edit_robust.report.numbers import gigabytes

ABOUT = "machine"
#: Free memory (bytes) below which the built-in runs do not fit, and below which other models will not.
LITTLE_MEMORY, SOME_MEMORY = 1.2e9, 4e9
#: Free disk below which a run would fill it, and below which second moments of a large model will.
LITTLE_DISK, SOME_DISK = 1e8, 5e9


def of_machine(outputs: Path) -> Iterator[Finding]:
    """Threads, memory, disk."""
    yield threads()
    yield memory(available_memory())
    yield disk(outputs)


def threads(given: str | None = None, seen: int = 0, load: float | None = None) -> Finding:
    """How many threads a run would use here, and whether these have cores of their own."""
    given = os.environ.get("OMP_NUM_THREADS", "") if given is None else given
    seen = seen or cores()
    load = _load() if load is None else load
    if given.isdigit() and int(given) > seen:
        text = f"OMP_NUM_THREADS={given}, and there are {seen} cores: threads wait for each other"
        return Finding(ABOUT, "threads", "note", text, f"unset OMP_NUM_THREADS, or set it to {seen}")
    n, why = (int(given), "OMP_NUM_THREADS") if given.isdigit() and int(given) else Threads().count()
    text = f"{n} ({why}), {seen} cores; small models use one"
    if load > 1.5 * seen:
        return Finding(
            ABOUT, "threads", "note", f"{text}; load {load:.1f}: others are computing here", "times will be longer"
        )
    return Finding(ABOUT, "threads", "ok", text)


def memory(free: float | None) -> Finding:
    """free: bytes, None where the system does not say."""
    if free is None:
        return Finding(ABOUT, "memory", "note", "how much is free is not known on this system")
    if free < LITTLE_MEMORY:
        mend = "close other programs: a built-in run takes about 1.2 GB"
        return Finding(ABOUT, "memory", "fault", f"{gigabytes(free)} free", mend)
    if free < SOME_MEMORY:
        return Finding(
            ABOUT, "memory", "note", f"{gigabytes(free)} free", "`edit-robust estimate` says what a config takes"
        )
    return Finding(ABOUT, "memory", "ok", f"{gigabytes(free)} free")


def available_memory() -> float | None:
    """Bytes that a process may still take: of the machine, or of its group where that has a limit."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit.isdigit():
            found.append(float(limit) - float((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    if not found and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        found.append(float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return min(found) if found else None


def disk(outputs: Path, free: float | None = None) -> Finding:
    """Whether the outputs folder, or the one it would be made in, can be written to and has room."""
    there = next(p for p in (outputs.absolute(), *outputs.absolute().parents) if p.exists())
    if not there.is_dir():
        return Finding(ABOUT, "disk", "fault", f"{there} is a file", "give another folder: paths.outputs=FOLDER")
    if not os.access(there, os.W_OK | os.X_OK):
        mend = "change its permissions, or give another folder: paths.outputs=FOLDER"
        return Finding(ABOUT, "disk", "fault", f"{there} cannot be written to", mend)
    free = float(shutil.disk_usage(there).free) if free is None else free
    text = f"{gigabytes(free)} free for {outputs}"
    if free < LITTLE_DISK:
        return Finding(ABOUT, "disk", "fault", text, "`edit-robust doctor --prune` removes what can be made again")
    if free < SOME_DISK:
        return Finding(ABOUT, "disk", "note", text, "second moments of a 6 B model alone take 13 GB: docs/scale.md")
    return Finding(ABOUT, "disk", "ok", text)


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
