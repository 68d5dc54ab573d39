"""Launchers on this machine: killed processes, two nodes of a Ray cluster, two sweeps at once, an interrupted sweep."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import CommandLine

from edit_robust.config import outcomes
from edit_robust.sweeps import submitted
from edit_robust.sweeps.jobs import Job, Lent, Pool, Reply
from edit_robust.sweeps.on_ray import OnRay, share
from edit_robust.sweeps.processes import Processes
from edit_robust.sweeps.schedule import run_jobs
from edit_robust.sweeps.submitted import Submitted

#: Where ray's workers and submitit's logs may take a while on busy cores.
SECONDS = 600
JOBS = [Job(i, (f"seed={i}",), f"seed={i}") for i in range(4)]
LENT = [Lent(1), Lent(1)]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes on this machine, with one processor each."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'edit-robust[ray]'")
    from ray.cluster_utils import Cluster

    nodes = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=nodes)
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(
    params=["joblib", pytest.param("submitit", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)]
)
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Pool]:
    """Makes a pool for two jobs at once."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    if request.param == "joblib":
        return lambda: Processes(LENT)
    if request.param == "submitit":
        return lambda: Submitted("local", str(tmp_path / "%j"), {"timeout_min": 5}, LENT)
    address = request.getfixturevalue("ray_cluster")
    return lambda: OnRay({"address": address, "log_to_driver": False}, {})


def calls(folder: Path) -> Callable[[Job, Lent], Reply]:
    """A job that notes each of its calls; number 1 is killed in the first of them, number 2 in all, 3 fails."""

    def call(job: Job, lent: Lent) -> Reply:  # within a function it is pickled by value: no process need find this file
        with (folder / f"calls-{job.number}").open("a") as f:
            f.write("x")
        times = len((folder / f"calls-{job.number}").read_text())
        if job.number == 2 or (job.number == 1 and times == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if job.number == 3:
            raise ValueError("job 3 cannot be done")
        return Reply("done", 10.0 * job.number, run=f"run-{job.number}")

    return call


def test_a_killed_process_costs_its_own_job_alone(pool: Callable[[], Pool], tmp_path: Path) -> None:
    said: list[str] = []
    found = run_jobs(JOBS, calls(tmp_path), pool(), retries=1, say=said.append)
    assert [o.state for o in found] == ["done", "done", "lost", "failed"], found
    assert [o.value for o in found[:2]] == [0.0, 10.0] and [o.tries for o in found] == [1, 2, 2, 1]
    assert [len((tmp_path / f"calls-{i}").read_text()) for i in range(4)] == [1, 2, 2, 1]
    assert "was killed" in found[2].error and "job 3 cannot be done" in found[3].error, found
    assert len(said) == 2 and all("begun again" in line for line in said)


@pytest.mark.thorough
def test_a_job_whose_time_is_over_is_queued_again_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")

    def slow_once(job: Job, lent: Lent) -> Reply:
        with (tmp_path / "calls").open("a") as f:
            f.write("x")
        if (tmp_path / "calls").read_text() == "x":
            time.sleep(SECONDS)
        return Reply("done", lent.cores)

    made = Submitted("local", str(tmp_path / "%j"), {"timeout_min": 1}, [Lent(2)], max_num_timeout=3)
    made.executor._executor.parameters["signal_delay_s"] = 50  # told after ten seconds of its minute
    (found,) = run_jobs(JOBS[:1], slow_once, made, retries=0)
    assert (found.state, found.value, found.tries) == ("done", 2, 1) and (tmp_path / "calls").read_text() == "xx"


def test_processes_are_lent_what_they_compute_with(tmp_path: Path) -> None:
    pytest.importorskip("joblib", reason="joblib is not installed")

    def look(job: Job, lent: Lent) -> Reply:
        names = ("CUDA_VISIBLE_DEVICES", "EDIT_ROBUST_CORES", "OPENBLAS_NUM_THREADS")
        return Reply("done", (os.getpid(), *(os.environ.get(n) for n in names)))

    os.environ.pop("OPENBLAS_NUM_THREADS", None)
    found = [o.value for o in run_jobs(JOBS, look, Processes([Lent(3, "1")]))]
    assert found == [(found[0][0], "1", "3", "3")] * 4, "one process does one job after the other"
    assert found[0][0] != os.getpid()


def test_rays_machines_are_shared_out() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 32.0, "GPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 12.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 64.0}},
        {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 8.0}},
    ]
    assert share(nodes, None, 1, True) == (6, 1.0) and share(nodes, None, 2, True) == (3, 0.5)
    assert share(nodes, None, 1, False) == (1, 0.0) and share(nodes, 9, 1, True) == (9, 1.0)
    with pytest.raises(submitted.UserError, match="cpus_per_job=65: no machine"):
        share(nodes, 65, 1, True)


# -- SLURM: its commands stand in a folder, and run what they are given on this machine ----------------------------

#: SLURM never gives a number twice, and submitit relies on it.
NUMBERS = itertools.count(100, 100)
SBATCH = """#!/bin/sh
count=$(($(cat "$SLURM_FAKE/count" 2>/dev/null || echo 0) + 1)); echo $count > "$SLURM_FAKE/count"
cp "$1" "$SLURM_FAKE/$count.sh"
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
(for i in $(seq 0 ${array:-0}); do
  if [ -n "$array" ]; then export SLURM_ARRAY_JOB_ID=$count SLURM_ARRAY_TASK_ID=$i; id=${count}_$i; else id=$count; fi
  SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 \\
    SUBMITIT_EXECUTOR=slurm sh "$SLURM_FAKE/$count.sh"
  echo "$id|OUT_OF_MEMORY|here" >> "$SLURM_FAKE/states"
done) > "$SLURM_FAKE/$count.log" 2>&1 &
echo "Submitted batch job $count"
"""
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do case "$1" in --output|--error) shift;; esac; shift; done
exec "$@"
"""
SACCT = '#!/bin/sh\necho "JobID|State|NodeList"\ncat "$SLURM_FAKE/states" 2>/dev/null; true\n'


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with SLURM's commands and what they were given."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "count").write_text(str(next(NUMBERS)))
    # submitit waits so long for a job's answer after SLURM says that it has ended
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 1)
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("SLURM_FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.slow
def test_slurm_gets_an_array_and_killed_jobs_come_again(slurm: Path, tmp_path: Path) -> None:
    settings = {"slurm_partition": "gpu", "gpus_per_node": 1, "cpus_per_task": 4, "timeout_min": 60}
    made = Submitted("slurm", str(tmp_path / "%j"), {**settings, "slurm_array_parallelism": 2}, [Lent(4)], 3)
    found = run_jobs(JOBS[:3], calls(tmp_path), made, retries=1)
    assert [o.state for o in found] == ["done", "done", "lost"] and [o.tries for o in found] == [1, 2, 2]
    first = next(slurm.glob("?01.sh")).read_text()
    for line in ("--array=0-2%2", "--partition=gpu", "--gpus-per-node=1", "--cpus-per-task=4", "--time=60", "--signal"):
        assert f"#SBATCH {line}" in first, line
    assert "killed for want of memory" in found[2].error and "its log is" in found[2].error


@pytest.mark.slow
def test_jobs_that_share_a_gpu_of_slurm(slurm: Path, tmp_path: Path) -> None:
    made = Submitted("slurm", str(tmp_path / "%j"), {}, [Lent(4)], together=2, retries=1)
    found = run_jobs([JOBS[0], JOBS[1], JOBS[3]], calls(tmp_path), made)
    assert [o.state for o in found] == ["done", "done", "failed"] and found[1].value == 10.0
    assert len(list(slurm.glob("*.sh"))) == 1 and "--array=0-1" in next(slurm.glob("?01.sh")).read_text()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (partial(Submitted, "slurm", "x", {}, LENT), "srun"),
        (partial(Submitted, "local", "x", {"nodez": 2}, LENT), "nodez"),
        (partial(Submitted, "local", "x", {"timeout_min": 0.5}, LENT), "timeout_min"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    make: Callable[[], Pool], says: str, tmp_path: Path, monkeypatch: Any
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(submitted.UserError, match=says):
        make()


# -- whole sweeps --------------------------------------------------------------------------------------------------


def sweep(launcher: Sequence[str], given: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "edit_robust.cli", "run", "-m", *launcher, *given]
    environment = {**os.environ, "COLUMNS": "200"}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **streams)  # type: ignore[call-overload,no-any-return]


def ended(process: subprocess.Popen[str]) -> str:
    """What a sweep that ends well says."""
    try:
        _, said = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, said
    return said


def records(outputs: Path) -> dict[str, bytes]:
    """Run -> its records; all of them complete."""
    statuses = {p.parent: json.loads(p.read_text())["status"] for p in outputs.glob("runs/*/status.json")}
    assert set(statuses.values()) == {"complete"}, statuses
    return {path.name: (path / "records.jsonl").read_bytes() for path in statuses}


def kill_a_run(outputs: Path, process: subprocess.Popen[str]) -> str:
    """Kill the process of the first run that has measured something -> the run."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and process.poll() is None:
        for points in outputs.glob("runs/*/points.jsonl"):
            status = json.loads((points.parent / "status.json").read_text())
            if status["status"] == "running" and points.stat().st_size:
                os.kill(status["pid"], signal.SIGKILL)
                return points.parent.name
        time.sleep(0.02)
    raise AssertionError(f"no run was found at work: {process.communicate()}")


@pytest.fixture(scope="module")
def given(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three small runs, long enough to be killed."""
    from helpers.runs import options, override
    from helpers.tiny import tiny_facts, write_json

    folder = tmp_path_factory.mktemp("sweep")
    facts = write_json(folder / "facts.json", tiny_facts(10))
    longer = ["editor.v_num_grad_steps=20", "trajectory.every=1", "task.n_requests=10", "seed=0,1"]
    made = override(options(checkpoint("gpt2"), facts, folder), *longer)
    return [o for o in made if not o.startswith("paths.outputs")]


@pytest.fixture(scope="module")
def undisturbed(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The records of the sweep, one job after the other in one process."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    ended(sweep([], [*given, f"paths.outputs={outputs}"], outputs))
    return records(outputs)


@pytest.mark.thorough
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_run_whose_process_is_killed_is_gone_on_with(
    launcher: str, given: list[str], undisturbed: dict[str, bytes], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip(launcher.partition("_")[0], reason=f"{launcher} is not installed")
    more = ["hydra.launcher.n_jobs=2"]
    if launcher == "ray":
        more = [f"hydra.launcher.init.address={request.getfixturevalue('ray_cluster')}"]
    process = sweep([f"hydra/launcher={launcher}", *more], [*given, f"paths.outputs={tmp_path}"], tmp_path)
    killed = kill_a_run(tmp_path, process)
    said = ended(process)
    assert "it is begun again" in said and records(tmp_path) == undisturbed
    assert json.loads((tmp_path / "runs" / killed / "status.json").read_text())["resumed"] == 1
    (journal,) = (tmp_path / "sweeps").glob("*.json")
    jobs = json.loads(journal.read_text())["jobs"]
    assert {j["run"] for j in jobs} == set(undisturbed) and sorted(j["tries"] for j in jobs) == [1, 2]


@pytest.mark.thorough
def test_two_sweeps_at_once_then_one_that_is_interrupted(
    given: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Both end well, and no run was begun twice, whoever made it. Then a command is killed, and given once more."""
    pytest.importorskip("joblib", reason="joblib is not installed")
    options = [*given, f"paths.outputs={tmp_path / 'both'}"]
    both = [
        sweep(["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"], options, tmp_path),
        sweep([], options, tmp_path),
    ]
    for process in both:
        ended(process)
    assert records(tmp_path / "both") == undisturbed
    statuses = [json.loads(p.read_text()) for p in (tmp_path / "both").glob("runs/*/status.json")]
    assert [s["resumed"] for s in statuses] == [0, 0]

    options = [*given, f"paths.outputs={tmp_path / 'killed'}"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "hydra.launcher.retries=0"]
    process = sweep(launcher, options, tmp_path)
    kill_a_run(tmp_path / "killed", process)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and "of 2 jobs 1 are done, 1 lost" in said and "the same command" in said
    ended(sweep(launcher, options, tmp_path))
    assert records(tmp_path / "killed") == undisturbed


@pytest.mark.thorough
def test_a_command_that_is_killed_leaves_nothing_in_the_way(
    given: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Its workers may still be at their runs when the same command is given again."""
    pytest.importorskip("joblib", reason="joblib is not installed")
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    options = [*given, f"paths.outputs={tmp_path}"]
    process = sweep(launcher, options, tmp_path)
    until = time.monotonic() + SECONDS
    while not list(tmp_path.glob("runs/*/points.jsonl")) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    ended(sweep(launcher, options, tmp_path))
    assert records(tmp_path) == undisturbed


# -- searches and exit codes, in this process ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_through_the_command_line(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'edit-robust[optuna]'")
    from helpers.runs import options
    from helpers.tiny import tiny_facts, write_json

    monkeypatch.chdir(tmp_path)
    facts = write_json(tmp_path / "facts.json", tiny_facts(10))
    made = options(checkpoint("gpt2"), facts, tmp_path / "outputs", "ft", "task.n_requests=1", "editor.num_steps=1")
    search = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "editor.lr=tag(log,interval(1e-6,1e-2))"]
    say = CommandLine(monkeypatch, capsys)
    said = say("run", *search, *made, "objective=final_ESS")
    assert said.code == 2 and 'did you mean "final_ES"' in said.err and "the search ends here" in said.err
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 1, "it ends with the first"
    said = say("run", *search, *made)
    assert said.code == 2 and "a search needs a number to go by: objective=" in said.line
    for _ in range(2):
        said = say("run", *search, *made, "objective=drift", "hydra.sweeper.direction=minimize")
        assert said.code == 0 and "The best of 3 trials is number" in said.err, said.err
        assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 3, "the second time finds the runs of the first"
    (table,) = (tmp_path / "outputs" / "sweeps").glob("*.csv")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    assert lines[0] == ["trial", "value", "editor.lr"] and len(lines) == 4
    best = min(lines[1:], key=lambda line: float(line[1]))
    assert f"number {best[0]}: drift" in said.err and f"editor.lr={best[2]}" in said.err


@pytest.mark.slow
def test_a_wrong_launcher_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    say = CommandLine(monkeypatch, capsys)
    said = say("run", "-m", "hydra/launcher=joblibb", "seed=0,1")
    assert said.code == 2 and "launcher/joblib" in said.line
    for option, says in {"n_jobs=0": "give how many jobs run at once", "retries=-1": "must be 0 or more"}.items():
        said = say("run", "-m", "hydra/launcher=joblib", f"hydra.launcher.{option}", "seed=0,1", "device=cpu")
        assert said.code == 2 and says in said.line
    assert outcomes.FAILURES == []
