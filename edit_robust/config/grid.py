"""All jobs of a sweep, as Hydra's own sweeper makes them, without running any."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any

from edit_robust.config.check import resolved
from edit_robust.config.compose import compose
from edit_robust.config.identity import run_id
from edit_robust.core.errors import UserError


def grid(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """The overrides of every job of a command line, in the order in which they are run.

    An experiment's swept values count; what the command line says of the same option stands in their place.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    own = [o for o in overrides if o.startswith("experiment=")]
    lines = [*_params(tuple(own), config_dir), *overrides]
    try:
        parsed = OverridesParser.create().parse_overrides(lines)
    except HydraException as e:
        raise UserError(" ".join(str(e).split())[:240]) from e
    values: dict[str, list[str]] = {}
    for text, one in zip(lines, parsed, strict=True):
        key = one.get_key_element()
        values[key] = [f"{key}={v}" for v in one.sweep_string_iterator()] if one.is_sweep_override() else [text]
    return [list(job) for job in itertools.product(*values.values())]


@cache
def _params(experiment: tuple[str, ...], config_dir: str | None) -> tuple[str, ...]:
    """The values that an experiment sweeps over, as overrides; none where no experiment is named."""
    if not experiment:
        return ()
    params: Any = compose(experiment, config_dir, with_hydra=True).hydra.sweeper.get("params") or {}
    return tuple(f"{k}={v}" for k, v in params.items())


def id_of(job: Sequence[str], config_dir: str | None = None) -> str:
    """What the run of a job is called; loads no weights. Raises UserError for options that there are not."""
    return run_id(resolved(compose([o for o in job if not o.startswith("hydra")], config_dir)))
