"""What stands between Hydra and the pools of `sweeps`: jobs as Hydra wants them run, and what became of them.

The classes that configs name stand in `hydra_plugins/edit_robust_sweeps.py`, where Hydra looks for them.
"""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from edit_robust.sweeps.jobs import Job, Lent, Reply

if TYPE_CHECKING:
    from edit_robust.sweeps.jobs import Outcome, Pool


@dataclass(frozen=True)
class HydraTask:
    """Runs one job of a sweep as Hydra's own launcher would, in a process of its own. It is pickled.

    environment, folder: of the command: what it noted about threads, and where it stands.
    """

    context: HydraContext
    config: DictConfig
    function: TaskFunction
    singletons: dict[Any, Any]
    environment: dict[str, str]
    folder: str

    def __call__(self, job: Job, lent: Lent) -> Reply:
        os.environ.update({**lent.environment, **self.environment, "TTY_COMPATIBLE": "0"})  # no bars across each other
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        if self.folder not in sys.path:
            sys.path.append(self.folder)  # modules of one's own are named by `_target_`
        setup_globals()
        Singleton.set_state(self.singletons)
        config = self.context.config_loader.load_sweep_config(self.config, list(job.overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{job.number}", job.number
        done = run_job(
            hydra_context=self.context,
            task_function=self.function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if done.status == JobStatus.COMPLETED:
            return Reply("done", done.return_value, _name(done.cfg))
        return _failed(done._return_value)


def _name(cfg: DictConfig | None) -> str:
    """The id of the run that a job has made."""
    from edit_robust.config.check import resolved
    from edit_robust.config.identity import run_id

    return "" if cfg is None else run_id(resolved(cfg))


def _failed(error: BaseException) -> Reply:
    """An error as a reply: in one line, since its own class may not be there where the reply is read."""
    from edit_robust.core.errors import BusyError, UserError
    from edit_robust.messages import exit_code

    text = " ".join(str(error).split())[:400]
    line = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    return Reply("busy" if isinstance(error, BusyError) else "failed", error=line, code=exit_code(error))


class SweepLauncher(Launcher):
    """Runs the jobs of a sweep in a pool, keeps account of them, and says at the end what went wrong.

    retries: how often a job whose process was killed is begun again.
    """

    def __init__(self, retries: int = 1) -> None:
        self.retries = retries
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    @abstractmethod
    def pool(self, n: int) -> tuple[Pool, str]:
        """The pool for a batch of n jobs, and a line about it."""

    @property
    def on_gpus(self) -> bool:
        """Whether jobs may compute on GPUs: not where the config says device=cpu."""
        assert self.config is not None
        return str(self.config.get("device", "auto")) != "cpu"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs -> for each what it returned; None for one that failed, which is told of here."""
        from edit_robust.config.outcomes import COMMAND, FAILURES, failure, journal
        from edit_robust.core.threads import given_threads
        from edit_robust.messages import Ui
        from edit_robust.sweeps.schedule import check_retries, run_jobs, told

        assert self.config is not None and self.hydra_context is not None and self.task_function is not None
        check_retries(self.retries)
        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        environment = {**given_threads(), "HYDRA_FULL_ERROR": "1"}
        context, function, state = self.hydra_context, self.task_function, Singleton.get_state()
        task = HydraTask(context, self.config, function, state, environment, str(Path.cwd()))
        jobs = [Job.of(initial_job_idx + i, overrides, COMMAND) for i, overrides in enumerate(job_overrides)]
        ui = Ui()
        pool, about = self.pool(len(jobs))
        kept = journal(self.config)
        kept.begin(jobs)
        if initial_job_idx == 0:
            ui.say(f"A sweep: {about}.")
        outcomes = run_jobs(jobs, task, pool, self.retries, ui.say, lambda outcome: self._ended(kept, outcome, ui))
        for line in told(outcomes):
            ui.say(line)
        FAILURES.extend(failure(o) for o in outcomes if o.state != "done")
        return [_returned(o) for o in outcomes]

    def _ended(self, kept: Any, outcome: Outcome, ui: Any) -> None:
        kept.ended(outcome)
        if outcome.state == "done":
            ui.say(f"[{kept.done} of {kept.total}] {outcome.job.title}: {outcome.run}")


def _returned(outcome: Outcome) -> JobReturn:
    """As Hydra's sweepers read it; without a number where there is none, for an exception would end the sweep."""
    made = JobReturn(overrides=list(outcome.job.overrides), status=JobStatus.COMPLETED)
    made.return_value = outcome.value if outcome.state == "done" else None
    return made


def plain(node: Any) -> dict[str, Any]:
    """A node of the config as a dict."""
    found: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return dict(found or {})
