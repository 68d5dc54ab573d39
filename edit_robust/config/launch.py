"""From a checked config to a run, and the entry of the command line into Hydra."""

from __future__ import annotations

import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_robust.config.check import check
from edit_robust.config.compose import compose, conf_dir, jobs
from edit_robust.config.identity import run_id
from edit_robust.config.nodes import build
from edit_robust.config.side_by_side import jobs_at_once
from edit_robust.core.errors import UserError
from edit_robust.core.threads import Threads, prepare_environment

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from edit_robust.messages import Ui
    from edit_robust.runner import Experiment
    from edit_robust.runs.reader import Run


def experiment(cfg: DictConfig) -> Experiment:
    """Everything of a run but the weights."""
    from edit_robust.runner import Experiment

    values = check(cfg)
    outputs = Path(values["paths"]["outputs"])
    stored = {k: v for k, v in values.items() if k not in ("hydra", "force")}
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


#: What went wrong in jobs of this process (a failed job does not stop the others of its sweep).
_failures: list[BaseException] = []


def _job(cfg: DictConfig) -> None:
    """One job, at module level because launchers pickle it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from edit_robust.messages import explain, present

    try:
        present(run_config(cfg))
    except Exception as e:
        explain(e)
        _failures.append(e)
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN and "BasicLauncher" not in str(hydra.launcher._target_):
            raise  # in another process: its launcher must know


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
                check(compose(overrides, args.config_dir))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come here whole; how to show them is decided here
    _failures.clear()
    before = sys.argv
    # Hydra wants all overrides side by side; `run editor=rome -m layer.index=0,1` is just as clear
    sys.argv = ["edit-robust run", *args.overrides, *(a for a in argv if a not in args.overrides)]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)()
    finally:
        sys.argv = before
    return list(_failures)
