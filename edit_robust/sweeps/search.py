"""Optuna chooses the options of the next jobs by what came of the last ones; in this process, seeded, offline."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_robust.core.errors import UserError, nearest
from edit_robust.core.files import atomic_path

SAMPLERS = ("tpe", "random")
DIRECTIONS = ("maximize", "minimize")


@dataclass(frozen=True)
class Span:
    """Numbers from low to high. log: searched by their logarithm.   whole: integers.   step: apart."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    step: float | None = None


#: Option -> the numbers, or the values, that it may have.
Space = Mapping[str, Span | tuple[Any, ...]]


@dataclass(frozen=True)
class Found:
    """trials: number, value (NaN where there was none) and options of each.   best: the one that came out best."""

    trials: list[tuple[int, float, dict[str, Any]]]
    best: tuple[int, float, dict[str, Any]] | None


def search(
    space: Space,
    run: Callable[[list[dict[str, Any]], int], Sequence[float | None]],
    n_trials: int,
    at_once: int = 1,
    direction: str = "maximize",
    sampler: str = "tpe",
    seed: int = 0,
    n_startup_trials: int = 10,
) -> Found:
    """Ask for options, run them, tell what came of it, `n_trials` times.

    run: options of some trials, and the first one's number -> the number that each of them got; None where a trial
    failed.   at_once: trials that are chosen before any of them has been run.   n_startup_trials: drawn at random
    before TPE (Bergstra et al. 2011) chooses.
    The same seed and the same results make the same choices, so that a search that was interrupted finds its runs
    again. Raises UserError for names that are none, for numbers that make no sense, and where Optuna is not installed.
    """
    optuna = _optuna()
    if direction not in DIRECTIONS:
        raise UserError(f"hydra.sweeper.direction={direction} is no direction; {nearest(direction, DIRECTIONS)}")
    for name, many in {"n_trials": n_trials, "n_jobs": at_once}.items():
        if many < 1:
            raise UserError(f"hydra.sweeper.{name}={many} must be at least 1")
    if not space:
        raise UserError("nothing to search: give an option as an interval, editor.v_lr='interval(0.1,1)', or as values")
    study = optuna.create_study(direction=direction, sampler=_sampler(optuna, sampler, seed, n_startup_trials))
    distributions = {name: _distribution(optuna, name, one) for name, one in space.items()}
    found: list[tuple[int, float, dict[str, Any]]] = []
    while len(found) < n_trials:
        asked = [study.ask(distributions) for _ in range(min(at_once, n_trials - len(found)))]
        options = [{name: _short(value) for name, value in trial.params.items()} for trial in asked]
        values = run(options, len(found))
        for trial, chosen, value in zip(asked, options, values, strict=True):
            number = math.nan if value is None else float(value)
            if math.isfinite(number):
                study.tell(trial, number)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            found.append((trial.number, number, chosen))
    good = [one for one in found if math.isfinite(one[1])]
    best = (max if direction == "maximize" else min)(good, key=lambda one: one[1]) if good else None
    return Found(found, best)


def write_trials(found: Found, path: Path) -> Path:
    """All trials as a table in a .csv file: number, value, options."""
    import pandas as pd

    rows = [{"trial": n, "value": value, **options} for n, value, options in found.trials]
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    return path


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as e:
        raise UserError('hydra/sweeper=optuna needs Optuna: pip install "edit-robust[optuna]"') from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler(optuna: Any, name: str, seed: int, n_startup_trials: int) -> Any:
    if name not in SAMPLERS:
        raise UserError(f"hydra.sweeper.sampler={name} is no sampler; {nearest(name, SAMPLERS)}")
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that several options are looked at together is new in Optuna
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=n_startup_trials, multivariate=True, constant_liar=True
        )


def _distribution(optuna: Any, name: str, values: Span | tuple[Any, ...]) -> Any:
    make = optuna.distributions
    try:
        if not isinstance(values, Span):
            return make.CategoricalDistribution(values)
        if values.whole:
            return make.IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
        return make.FloatDistribution(values.low, values.high, log=values.log, step=values.step)
    except ValueError as e:
        raise UserError(f"{name} cannot be searched: {' '.join(str(e).split())}") from e


def _short(value: Any) -> Any:
    """Numbers to six digits: they stand in the names of options."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
