"""What a run's status.json says: how far it got, on what, with which versions, and whether its process still lives."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edit_robust.core.errors import BusyError
from edit_robust.core.locks import explained, hard_lock
from edit_robust.runs.files import read_json

PACKAGES = (
    *("torch", "transformers", "tokenizers", "timm", "torchvision", "pillow"),
    *("hydra-core", "omegaconf", "numpy", "safetensors", "edit-robust"),
)
LOCK = ".lock"


def lock(path: Path) -> FileLock:
    """The lock of a run's folder, taken. It goes with the process that holds it, however that ends.

    Raises BusyError where another process holds it.
    """
    held = hard_lock(path / LOCK)
    try:
        with explained(path):
            held.acquire(timeout=0.2)  # who reads the status holds it for an instant
    except Timeout:
        raise BusyError(f"{path.name} is being run by another process") from None
    return held


def read_status(path: Path) -> dict[str, Any]:
    """The status as it is now: `interrupted` where the file says running and no process holds the run's lock."""
    found = read_json(path / "status.json")
    if found.get("status") == "running" and not _held(path):
        again = read_json(path / "status.json")  # it may have ended in between
        found = {**again, "status": "interrupted"} if again.get("status") == "running" else again
    return found


def _held(path: Path) -> bool:
    """Whether a process holds the run's lock; where that cannot be tried, whether its process number is alive here."""
    if not (path / LOCK).exists():
        return False
    probe = hard_lock(path / LOCK)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written to
        about = read_json(path / "status.json")
        return about.get("host") != socket.gethostname() or _alive(int(about.get("pid", 0)))
    probe.release()
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid > 0


def began(before: Mapping[str, Any], seed: Any, device: str) -> dict[str, Any]:
    """The status of a run that begins or goes on now; `before` is what its folder said.

    `began_with` are the versions of its first process, `versions` those of this one. What differs between any of its
    processes stands in `versions_changed`: such a run's numbers were not all made by the same program.
    """
    versions, git = _versions(), _git()
    changed = list(before.get("versions_changed", []))
    if earlier := before.get("versions"):
        changed += differences(earlier, before.get("git") or {}, versions, git)
    return {
        "status": "running",
        "started": before.get("started") or now(),
        "resumed": int(before.get("resumed", -1)) + 1,
        "command": " ".join(sys.argv),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": device,
        "seed": seed,
        "versions": versions,
        "git": git,
        "began_with": before.get("began_with") or before.get("versions") or versions,
        **({"versions_changed": list(dict.fromkeys(changed))} if changed else {}),
    }


def differences(
    earlier: Mapping[str, str], earlier_git: Mapping[str, Any], versions: Mapping[str, str], git: Mapping[str, Any]
) -> list[str]:
    """`torch 2.14.0 -> 2.15.0` for every library that is not the same, and the program's commits where they differ."""
    names = sorted({*earlier, *versions})
    found = [
        f"{n} {earlier.get(n, 'absent')} -> {versions.get(n, 'absent')}"
        for n in names
        if earlier.get(n) != versions.get(n)
    ]
    if earlier_git.get("sha") != git.get("sha") and earlier_git.get("sha") and git.get("sha"):
        found.append(f"edit-robust {earlier_git['sha'][:8]} -> {git['sha'][:8]}")
    return found


def now() -> str:
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
    here = Path(__file__).parents[1]
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


def forget_peak() -> None:
    """Count peaks of memory from now on, so that a job of a sweep does not show an earlier job's (Linux; GPUs)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)


def peak_memory() -> dict[str, float]:
    """Peak memory of this process in MiB, and of its GPU when it used one."""
    import resource

    unit = 1024 if sys.platform == "darwin" else 1
    found = {"process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / unit, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = round(
            max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / 2**20, 1
        )
    return found
