"""A sweep whose next jobs are chosen by what came of the last ones: Hydra's side of `sweeps.search`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from edit_robust.core.errors import UserError

if TYPE_CHECKING:
    from edit_robust.sweeps.search import Span


class SearchSweeper(Sweeper):
    """Options that are searched: `params` of the config, and those of the command line that are intervals or lists.

    See `sweeps.search.search` for the others.
    """

    def __init__(
        self,
        params: Any = None,
        direction: str = "maximize",
        n_trials: int = 20,
        n_jobs: int = 1,
        sampler: str = "tpe",
        seed: int = 0,
        n_startup_trials: int = 10,
    ) -> None:
        self.params = dict(params or {})
        self.n_trials, self.n_jobs, self.direction = n_trials, n_jobs, direction
        self.settings: dict[str, Any] = {"sampler": sampler, "seed": seed, "n_startup_trials": n_startup_trials}
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> Any:
        """Run the search; its trials are written beside the sweep's journal, and the best one is told."""
        from edit_robust.config.outcomes import FAILURES, journal
        from edit_robust.messages import Ui
        from edit_robust.sweeps.search import search, write_trials

        assert self.config is not None and self.launcher is not None
        name = self.config.get("objective")
        if not name:
            raise UserError("a search needs a number to go by: objective=S, or any other name in summary.json")
        space, fixed = space_of([*(f"{k}={v}" for k, v in self.params.items()), *arguments])
        launcher = self.launcher

        def run(trials: list[dict[str, Any]], first: int) -> list[float | None]:
            jobs = [[*fixed, *(f"{k}={v}" for k, v in options.items())] for options in trials]
            values = [done.return_value for done in launcher.launch(jobs, initial_job_idx=first)]
            wrong = [e for e in FAILURES if isinstance(e, UserError)]
            if wrong and not any(isinstance(v, int | float) for v in values):
                raise UserError(f"the search ends here, as no trial of it would do better: {wrong[-1]}")
            return [float(v) if isinstance(v, int | float) else None for v in values]

        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        found = search(space, run, self.n_trials, self.n_jobs, self.direction, **self.settings)
        kept = write_trials(found, journal(self.config).path.with_suffix(".csv"))
        if found.best is None:
            Ui().say(f"None of the {len(found.trials)} trials gave a number for {name}; they stand in {kept}")
        else:
            number, value, options = found.best
            words = " ".join(f"{k}={v}" for k, v in options.items())
            Ui().say(f"The best of {len(found.trials)} trials is number {number}: {name} = {value:.6g} with {words}")
            Ui().say(f"All of them stand in {kept}")
        return found.best


def space_of(overrides: Sequence[str]) -> tuple[dict[str, Span | tuple[Any, ...]], list[str]]:
    """Options of the command line -> those that are searched, and the others as they are. The last word counts.

    interval(a,b): numbers; int(interval(a,b)): whole ones; tag(log,interval(a,b)): by their logarithm; range(a,b,step);
    a,b,c.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    space: dict[str, Span | tuple[Any, ...]] = {}
    fixed: dict[str, str] = {}
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        key = one.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if one.is_sweep_override():
            space[key] = _values(one)
        else:
            fixed[key] = f"{key}={one.get_value_element_as_str()}"
    return space, list(fixed.values())


def _values(override: Any) -> Span | tuple[Any, ...]:
    """What a swept override allows."""
    from edit_robust.sweeps.search import Span

    value = override.value()
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return Span(value.start, value.end, log="log" in value.tags, whole=whole)
    if override.is_range_sweep() and not value.shuffle:
        numbers = list(value.range())
        whole = all(isinstance(n, int) for n in numbers)
        if numbers:
            return Span(numbers[0], numbers[-1], whole=whole, step=value.step)
    return tuple(override.sweep_string_iterator())
