"""Sweeps without processes: who is begun again, who waits, what is shared out, what a sweep is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edit_robust.core import UserError
from edit_robust.sweeps import machine, schedule
from edit_robust.sweeps.jobs import Job, Lent, Lost, Outcome, Reply, Task
from edit_robust.sweeps.journal import Journal, sweep_name
from edit_robust.sweeps.machine import Gpu, gpus, slots
from edit_robust.sweeps.schedule import run_jobs, told

JOBS = [Job(i, (f"seed={i}",), f"seed={i}") for i in range(4)]


def never(job: Job, lent: Lent) -> Reply:
    raise AssertionError("the pool here calls nothing")


class Scripted:
    """A pool of two places whose jobs end as it was told, in the order in which they began."""

    def __init__(self, answers: Callable[[Job, int], Reply | Lost]) -> None:
        self.answers, self.running, self.begun, self.closed = answers, [], [], None  # type: ignore[var-annotated]

    def room(self) -> int:
        return 2 - len(self.running)

    def start(self, jobs: Sequence[Job], task: Task) -> None:
        assert 0 < len(jobs) <= self.room()
        self.running += jobs
        self.begun += [job.number for job in jobs]

    def finished(self, seconds: float) -> list[tuple[Job, Reply | Lost]]:
        job = self.running.pop(0)
        return [(job, self.answers(job, self.begun.count(job.number)))]

    def close(self, now: bool) -> None:
        self.closed = now


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "BUSY", 0.01)


def test_a_killed_job_comes_again_at_the_end_and_is_lost_then() -> None:
    pool = Scripted(lambda job, n: Lost("it was killed") if job.number == 1 else Reply("done", 10.0 * job.number))
    said: list[str] = []
    found = run_jobs(JOBS, never, pool, retries=2, say=said.append)
    assert [o.job for o in found] == JOBS and pool.begun == [0, 1, 2, 3, 1, 1] and pool.closed is False
    assert [o.state for o in found] == ["done", "lost", "done", "done"] and found[2].value == 20.0
    assert (found[1].tries, found[1].code) == (3, 1) and len(said) == 2 and "begun again" in said[0]
    assert told(found) == [
        "The sweep has ended: of 4 jobs 3 are done, 1 lost.",
        "  seed=1: it was killed (3 times)",
        "What was measured is kept; the same command completes what is missing.",
    ]


def test_one_that_fails_by_itself_does_not_come_again() -> None:
    pool = Scripted(
        lambda job, n: Reply("failed", error="no such file", code=2) if job.number == 0 else Reply("done", run="r")
    )
    ended: list[Outcome] = []
    found = run_jobs(JOBS, never, pool, ended=ended.append)
    assert pool.begun == [0, 1, 2, 3] and (found[0].state, found[0].code, found[0].tries) == ("failed", 2, 1)
    assert sorted(o.job.number for o in ended) == [0, 1, 2, 3] and told(found[1:]) == []


def test_a_run_that_another_process_is_at_is_waited_for_while_others_go_on() -> None:
    pool = Scripted(
        lambda job, n: Reply("busy", error="r is being run") if (job.number, n < 4) == (0, True) else Reply("done")
    )
    said: list[str] = []
    found = run_jobs(JOBS, never, pool, retries=0, say=said.append)
    assert {o.state for o in found} == {"done"} and pool.begun[:4] == [0, 1, 2, 3] and pool.begun[4:] == [0, 0, 0]
    assert said == ["seed=0: r is being run; waiting for it"], "said once; it counts as no try"


def test_an_interrupt_ends_what_is_at_work() -> None:
    def stop(job: Job, n: int) -> Reply:
        raise KeyboardInterrupt

    pool = Scripted(stop)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(JOBS, never, pool)
    assert pool.closed is True
    with pytest.raises(UserError, match="retries=-1 must be 0 or more"):
        run_jobs(JOBS, never, pool, retries=-1)


@pytest.mark.parametrize(
    ("found", "options", "shared"),
    [
        ([], (-1,), [(1, None)] * 8),
        ([], (3,), [(2, None)] * 3),
        ([], (-7,), [(4, None)] * 2),
        ([], (20,), [(1, None)] * 20),
        ([Gpu("0"), Gpu("1")], (-1,), [(4, "0"), (4, "1")]),
        ([Gpu("0"), Gpu("1")], (1,), [(8, "0")]),
        ([Gpu("0"), Gpu("1")], (9,), [(4, "0"), (4, "1")]),
        ([Gpu("0"), Gpu("1")], (3, 2), [(2, "0"), (2, "1"), (2, "0")]),
        ([Gpu("0", 24.0), Gpu("1", 80.0)], (-1, 1, 20.0), [(1, g) for g in ("0", "1", "1", "1", "1")]),
    ],
)
def test_cores_and_gpus_are_shared_out(
    found: list[Gpu], options: Any, shared: list[tuple[int, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    lent, about = slots(found, *options)
    assert [(one.cores, one.gpus) for one in lent] == shared
    assert f"{len(shared)} job" in about and ("places" in about) == (options[0] == 9)
    assert len(slots(found, *options, at_most=1)[0]) == 1


@pytest.mark.parametrize(
    ("gpu", "options", "says"),
    [
        (Gpu("0", 8.0), (-1, 1, 10.0), "gpu_memory_gb=10 is more than GPU 0 has, 8.0 GiB"),
        (Gpu("0"), (-1, 1, 10.0), "how much memory GPU 0 has is not known"),
        (Gpu("0"), (-1, 0), "jobs_per_gpu=0 must be at least 1"),
        (Gpu("0"), (0,), "n_jobs=0: give how many jobs run at once"),
    ],
)
def test_shares_that_make_no_sense(gpu: Gpu, options: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        slots([gpu], *options)


def test_gpus_are_those_that_may_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-aa, 24576'\necho '1, GPU-bb, 81920'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == [Gpu("0", 24.0), Gpu("1", 80.0)]
    for visible, names in {"1": ["1"], "GPU-bb,0": ["GPU-bb", "0"], "": [], "-1": [], "7": ["7"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [g.name for g in gpus()] == names
    tool.write_text("#!/bin/sh\nexit 9\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus() == []


def test_what_is_lent_stands_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    told_so = Lent(3, "1").environment
    assert (told_so["CUDA_VISIBLE_DEVICES"], told_so["EDIT_ROBUST_CORES"]) == ("1", "3")
    assert told_so["OPENBLAS_NUM_THREADS"] == "3" and Lent().environment == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Lent(3).environment["OMP_NUM_THREADS"] == "5", "what the user says counts"


def test_a_title_says_what_differs() -> None:
    command = ["editor=rome,ft", "task.n_requests=1", "hydra/launcher=joblib", "seed=range(0,2)"]
    overrides = ["editor=ft", "task.n_requests=1", "hydra.launcher.n_jobs=2", "seed=1"]
    assert Job.of(3, overrides, command).title == "editor=ft seed=1"
    assert Job.of(3, ["task.n_requests=1"], command).title == "job 3"


def test_a_sweep_has_one_name_however_it_is_done(tmp_path: Path) -> None:
    given = ["editor=rome,ft", "seed=0,1"]
    name = sweep_name(given)
    assert name.startswith("sweep-") and name == sweep_name(
        ["seed=0,1", "hydra/launcher=ray", "editor=rome,ft", "+hydra.launcher.x=1", "paths.outputs=/x", "device=cpu"]
    )
    assert name != sweep_name(["editor=rome,ft", "seed=0,2"]) != sweep_name(["seed=0,2", "hydra/sweeper=optuna"])
    assert sweep_name(["experiment=layers", "seed=1"]).startswith("layers-")
    journal = Journal.of(given, tmp_path)
    journal.begin(JOBS)
    journal.ended(Outcome(JOBS[2], "done", value=1.5, run="r2"))
    journal.ended(Outcome(JOBS[3], "lost", 2, error="it was killed", code=1))
    again = Journal.of(list(reversed(given)), tmp_path)
    assert (again.done, again.total) == (1, 4) and again.jobs[3]["error"] == "it was killed"
    again.begin(JOBS)
    assert again.done == 0 and Journal.of(given, tmp_path).jobs[2]["run"] == "r2", "its run is still known"
    (tmp_path / "sweeps" / f"{name}.json").write_text("{")
    assert Journal.of(given, tmp_path).jobs == {}
