"""Locks go with the process that holds them, even where a child of it lives on; what it was at is then done once."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edit_robust.core import UserError
from edit_robust.core.errors import BusyError
from edit_robust.core.locks import hard_lock, held
from edit_robust.core.work import Workspace
from edit_robust.editors.helpers.cache import learned
from edit_robust.runs.status import lock
from edit_robust.shifts.images.store import CorruptedStore

FORK = multiprocessing.get_context("fork")


def until(there: Callable[[], bool]) -> None:
    """Wait for it, a minute at most."""
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def killed_at_work(work: Callable[[Path], None], folder: Path) -> None:
    """Kill a process that does `work` as soon as it has written `begun` into the folder."""
    process = FORK.Process(target=work, args=(folder,))
    process.start()
    until((folder / "begun").exists)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def hold(folder: Path) -> None:
    """Hold two locks; a child is made meanwhile, which lives on."""
    with held(folder / "a.lock"), lock(folder):
        if os.fork() == 0:
            (folder / "child").write_text(str(os.getpid()))
            (folder / "begun").touch()
            time.sleep(60)
            os._exit(0)
        time.sleep(60)


def test_a_killed_process_holds_nothing_even_where_its_child_lives_on(tmp_path: Path) -> None:
    killed_at_work(hold, tmp_path)
    child = int((tmp_path / "child").read_text())
    try:
        os.kill(child, 0)  # it is there
        hard_lock(tmp_path / "a.lock").acquire(timeout=1)
        lock(tmp_path).release()
    finally:
        os.kill(child, signal.SIGKILL)


def make_tensors(folder: Path) -> None:
    """Learn something, for a minute."""

    def make() -> dict[str, torch.Tensor]:
        with (folder / "calls").open("a") as f:
            f.write("x")
        if not (folder / "begun").exists():
            (folder / "begun").touch()
            time.sleep(60)
        return {"x": torch.ones(3)}

    assert torch.equal(learned(Workspace(folder), "projectors", {"of": 1}, make)["x"], torch.ones(3))


def make_images(folder: Path) -> None:
    """Corrupt something, for a minute."""
    import numpy as np

    def make() -> Any:
        with (folder / "calls").open("a") as f:
            f.write("x")
        if not (folder / "begun").exists():
            (folder / "begun").touch()
            time.sleep(60)
        return np.ones((1, 4, 4, 3), np.uint8)

    assert CorruptedStore(folder / "store", 1.0).get("key", make).sum() == 48


@pytest.mark.parametrize("work", [make_tensors, make_images])
def test_what_a_killed_process_was_at_is_made_once_by_those_that_wait(
    work: Callable[[Path], None], tmp_path: Path
) -> None:
    killed_at_work(work, tmp_path)
    others = [FORK.Process(target=work, args=(tmp_path,)) for _ in range(3)]
    for process in others:
        process.start()
    for process in others:
        process.join(60)
    assert [p.exitcode for p in others] == [0, 0, 0] and (tmp_path / "calls").read_text() == "xx"


def test_a_run_that_is_being_made_is_busy(tmp_path: Path) -> None:
    mine = lock(tmp_path)
    queue = FORK.SimpleQueue()

    def other() -> None:
        try:
            lock(tmp_path)
        except BusyError as e:
            queue.put(str(e))

    process = FORK.Process(target=other)
    process.start()
    process.join(60)
    assert queue.get() == f"{tmp_path.name} is being run by another process"
    mine.release()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the place of a lock would outlive a killed process."""

    def missing(*args: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    for take in (lambda: held(tmp_path / "a.lock").__enter__(), lambda: lock(tmp_path)):
        with pytest.raises(UserError, match=r"this file system has no locks.*paths.outputs=FOLDER"):
            take()
