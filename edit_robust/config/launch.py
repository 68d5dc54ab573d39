"""From a checked config to a run, and the entry of the command line into Hydra."""

from __future__ import annotations

import os
import sys
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_robust.config.check import check
from edit_robust.config.compose import compose, conf_dir, jobs
from edit_robust.config.identity import run_id
from edit_robust.config.nodes import build
from edit_robust.config.objective import value_of
from edit_robust.config.outcomes import COMMAND, FAILURES, journal
from edit_robust.config.plugins import ours_first
from edit_robust.config.side_by_side import jobs_at_once
from edit_robust.core.errors import BusyError, UserError
from edit_robust.core.threads import Threads, prepare_environment
from edit_robust.messages import Ui, exit_code, explain, present
from edit_robust.sweeps.jobs import Job, Outcome
from edit_robust.sweeps.schedule import BUSY
from edit_robust.trackers.wandb import import_early

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from edit_robust.runner import Experiment
    from edit_robust.runs.reader import Run


def experiment(cfg: DictConfig) -> Experiment:
    """Everything of a run but the weights."""
    from edit_robust.runner import Experiment

    values = check(cfg)
    outputs = Path(values["paths"]["outputs"])
    stored = {k: v for k, v in values.items() if k not in ("hydra", "force", "objective")}
    return Experiment(
        run_id=run_id(values),
        config=stored,
        model=lambda: build(values["model"], "model"),
        task=build(values["task"], "task"),
        editor=build(values["editor"], "editor"),
        layer=values["layer"]["index"],
        trajectory=build(values["trajectory"], "trajectory"),
        tracker=lambda: build(values["tracker"], "tracker"),
        seed=values["seed"],
        outputs=outputs,
        force=values["force"],
        figures=values["figures"],
        device=values["device"],
        threads=Threads.of(values["threads"], jobs_at_once()),
        measures={name: build(node, f"measure.{name}") for name, node in values["measure"].items()},
    )


def run_config(cfg: DictConfig, ui: Ui | None = None) -> Run:
    """Run what a composed config asks for."""
    from edit_robust.runner import execute

    return execute(experiment(cfg), ui)


# -- the command line's entry --------------------------------------------------------------------------------------


#: Jobs of this process whose runs another process was at, to be done when all others are.
_later: list[tuple[Job, DictConfig]] = []


def _job(cfg: DictConfig) -> float | None:
    """One job, at module level because launchers pickle it. -> the number that `objective` names"""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return _alone(cfg)
    if "BasicLauncher" in str(hydra.launcher._target_):
        return _in_turn(Job.of(int(hydra.job.num), list(hydra.overrides.task), COMMAND), cfg)
    try:
        return _made(cfg)[1]
    except Exception as e:
        if not isinstance(e, BusyError):
            explain(e)
        raise  # in another process: its launcher must know


def _made(cfg: DictConfig) -> tuple[Run, float | None]:
    """A job's run, shown, and the number that `objective` names."""
    run = run_config(cfg)
    present(run)
    return run, value_of(run.summary, cfg.get("objective"))


def _alone(cfg: DictConfig) -> float | None:
    """The job of a command that is no sweep."""
    try:
        return _made(cfg)[1]
    except Exception as e:
        explain(e)
        FAILURES.append(e)
        return None


def _in_turn(job: Job, cfg: DictConfig, patient: bool = False) -> float | None:
    """One job of a sweep that does one after the other; a failed one does not stop the others.

    patient: wait for a run that another process is at, as a search must, too; else it comes again at the end.
    """
    kept = journal(cfg)
    kept.begin([job])
    while True:
        try:
            run, value = _made(cfg)
        except BusyError as e:
            if not (patient or cfg.get("objective")):
                Ui().say(f"{e}; it comes again at the end of this sweep")
                _later.append((job, cfg))
                return None
            time.sleep(BUSY)
            continue
        except Exception as e:
            explain(e)
            FAILURES.append(e)
            kept.ended(Outcome(job, "failed", error=" ".join(str(e).split())[:400], code=exit_code(e)))
            return None
        kept.ended(Outcome(job, "done", value=value, run=run.id))
        return value


def _parse(argv: Sequence[str]) -> Any:
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> typing.NoReturn:
        raise UserError(f"{message}; options are written GROUP=CHOICE or GROUP.OPTION=VALUE, -m makes a sweep")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(argv))


def main(argv: Sequence[str]) -> list[BaseException]:
    """Hand a command line to Hydra. Returns what went wrong in its jobs.

    Overrides are checked first, all values of a sweep too, so that a typing error costs a line and not a sweep.
    """
    import hydra

    prepare_environment()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # modules of one's own are named by `_target_`
    args = _parse(argv)
    if not (args.help or args.hydra_help or args.shell_completion):
        if args.config_dir and not Path(args.config_dir).is_dir():
            raise UserError(f"--config-dir {args.config_dir} is not a folder")
        if args.cfg or args.info:
            compose(args.overrides, args.config_dir)
        else:
            for overrides in jobs(args.overrides, args.config_dir, args.multirun):
                cfg = compose(overrides, args.config_dir)
                import_early(cfg.tracker)
                check(cfg)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come here whole; how to show them is decided here
    ours_first(conf_dir())
    FAILURES.clear()
    _later.clear()
    COMMAND[:] = args.overrides
    before = sys.argv
    # Hydra wants all overrides side by side; `run editor=rome -m layer.index=0,1` is just as clear
    sys.argv = ["edit-robust run", *args.overrides, *(a for a in argv if a not in args.overrides)]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)()
    finally:
        sys.argv = before
    for job, cfg in _later:
        _in_turn(job, cfg, patient=True)
    return list(FAILURES)
