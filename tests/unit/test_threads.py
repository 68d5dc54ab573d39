"""How many threads a run computes with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import CommandLine

from edit_robust.config.compose import compose
from edit_robust.config.identity import run_id
from edit_robust.config.launch import experiment
from edit_robust.config.side_by_side import jobs_at_once, of_launcher
from edit_robust.core import UserError, threads
from edit_robust.core.threads import Threads, prepare_environment

JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
LOCAL = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, and nothing said in the environment."""
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr("edit_robust.config.side_by_side.cores", lambda: 8)
    for name in ("OMP_NUM_THREADS", "EDIT_ROBUST_OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("policy", "useful", "count"),
    [
        (Threads(), None, 8),
        (Threads(jobs=2), None, 4),
        (Threads(jobs=3), None, 2),
        (Threads(jobs=20), None, 1),
        (Threads(), 1, 1),
        (Threads(jobs=4), 3, 2),
        (Threads(wanted=5, jobs=4), 1, 5),
    ],
)
def test_cores_are_shared_by_jobs_and_small_models_take_few(policy: Threads, useful: int | None, count: int) -> None:
    assert policy.count(useful)[0] == count


def test_what_the_user_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert Threads(jobs=2).count(1) == (3, "OMP_NUM_THREADS")
    assert Threads(wanted=2).count(1) == (2, "threads")
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert Threads().count()[0] == 8


def test_what_a_launcher_says_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """joblib sets OMP_NUM_THREADS in its processes: what the user had said is remembered from before."""
    prepare_environment()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    prepare_environment()
    assert Threads(jobs=2).count(1)[0] == 1 and Threads(jobs=2).count()[0] == 4
    monkeypatch.setenv("EDIT_ROBUST_OMP_NUM_THREADS", "6")
    assert Threads(jobs=2).count(1) == (6, "OMP_NUM_THREADS")


@pytest.mark.parametrize(
    ("launcher", "jobs"),
    [
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 1),
        ({"_target_": JOBLIB, "n_jobs": 2}, 2),
        ({"_target_": JOBLIB, "n_jobs": -1}, 8),
        ({"_target_": JOBLIB, "n_jobs": -3}, 6),
        ({"_target_": JOBLIB, "n_jobs": None}, 8),
        ({"_target_": LOCAL, "array_parallelism": 4}, 4),
        ({"_target_": SLURM, "array_parallelism": 4}, 1),
    ],
)
def test_jobs_at_once(launcher: dict[str, Any], jobs: int) -> None:
    assert of_launcher(launcher) == jobs
    assert jobs_at_once() == 1, "outside of a sweep"


def test_the_number_is_as_before_when_the_run_is_over() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), Threads(wanted=before + 2).applied():
        assert torch.get_num_threads() == before + 2
        assert Threads().use(useful=1) == "1 (small model)" and torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", ["many", "0", "-1", "true", "1.5", "null"])
def test_numbers_of_threads_that_make_no_sense(wrong: str) -> None:
    with pytest.raises(UserError, match=r"threads=.* must be auto or a number of at least 1"):
        experiment(compose([f"threads={wrong}", "tracker=none"]))


def test_the_option_is_no_part_of_a_runs_identity() -> None:
    a, b = (experiment(compose([f"threads={n}", "tracker=none"])) for n in ("auto", "3"))
    assert a.run_id == b.run_id == run_id(dict(b.config)) and (a.threads, b.threads) == (Threads(), Threads(3))


@pytest.mark.slow
def test_jobs_of_a_sweep_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two jobs at once under joblib: each takes its share, one thread on the built-in model, and says so."""
    options = ["hydra.launcher.n_jobs=2", "seed=0,1", "task.n_requests=1", "editor=ft", "editor.num_steps=1"]
    options += ["tracker=none", "figures=false", "text_tokens=50", f"paths.outputs={tmp_path}"]
    for name in ("OMP_WAIT_POLICY", "EDIT_ROBUST_OMP_NUM_THREADS"):  # set by the command: taken back after the test
        monkeypatch.setenv(name, "")
        os.environ.pop(name)
    said = CommandLine(monkeypatch, capsys)("run", "-m", "hydra/launcher=joblib", *options)
    assert said.code == 0, said.err[-2000:]
    statuses = sorted(p.read_text() for p in tmp_path.glob("runs/*/status.json"))
    assert len(statuses) == 2 and all('"threads": "1 (' in s for s in statuses)
