"""From the command line of `edit-robust evaluate` to what is asked of a finished run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_robust.config.compose import as_plain, compose
from edit_robust.config.fit import check_fit
from edit_robust.config.identity import evaluation_name
from edit_robust.config.nodes import bind, build
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.threads import Threads

if TYPE_CHECKING:
    from edit_robust.revisit import Revisit, Steps
    from edit_robust.runs.reader import Run

#: What can be said of an evaluation; everything else was said when the run was begun.
OPTIONS = ("measure", "steps", "text_tokens", "corruption", "shifts", "device", "threads", "figures", "force")
#: Options of the config that measures read; where they are not given they are those of the run.
_SHARED = ("text_tokens", "shifts", "seed")


def asking(run: Run, overrides: Sequence[str], outputs: Path, config_dir: str | None = None) -> Revisit:
    """What `overrides` ask of a run: measure=[...], their options, steps=... Loads no weights.

    Raises UserError for an option that an evaluation does not have, and for a measure that does not fit the run.
    """
    from edit_robust.revisit import Revisit

    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # modules of one's own are named by `_target_`
    given = {o.lstrip("+~").partition("=")[0].partition(".")[0].partition("@")[0] for o in overrides}
    for option in sorted(given - set(OPTIONS)):
        raise UserError(f"evaluate has no option {option!r}; {nearest(option, OPTIONS, 'options')}")
    if not any(o.startswith("measure=") for o in overrides):
        raise UserError(f"say what to ask {run.id}: measure=[...] (`edit-robust ls measures` lists them)")
    values = _values([o for o in overrides if not o.startswith("steps=")], run.config, given, config_dir)
    measures = values["measure"]
    for name, node in measures.items():
        bind(node, f"measure.{name}")
    check_fit({**run.config, "measure": measures, "corruption": values["corruption"]})
    steps = _steps([o.partition("=")[2] for o in overrides if o.startswith("steps=")])
    config, seed = run.config, int(run.config.get("seed") or 0)
    model = {**config["model"], **({"device": values["device"]} if "device" in given else {})}
    return Revisit(
        run=run,
        name=evaluation_name(measures, steps),
        config={"run": run.id, "measure": measures, "steps": steps, "seed": seed},
        model=lambda: build(model, "model"),
        task=build(config["task"], "task"),
        editor=build(config["editor"], "editor"),
        trajectory=build(config["trajectory"], "trajectory"),
        measures={name: build(node, f"measure.{name}") for name, node in measures.items()},
        steps=steps,
        outputs=outputs,
        seed=seed,
        device=str(model.get("device", "")),
        force=values["force"],
        figures=values["figures"],
        threads=Threads.of(values["threads"]),
    )


def _values(
    overrides: Sequence[str], config: dict[str, Any], given: set[str], config_dir: str | None
) -> dict[str, Any]:
    """The config that the overrides make, with the run's own values of what measures read and was not given."""
    from omegaconf import OmegaConf

    cfg = compose(overrides, config_dir)
    OmegaConf.set_struct(cfg, False)
    for name in _SHARED:
        if name not in given and name in config:
            cfg[name] = config[name]
    if "corruption" not in given:
        cfg["corruption"] = config.get("corruption") or {}
    return as_plain(cfg)


def _steps(given: Sequence[str]) -> Steps:
    """`steps=` as it was written: a word, a number, or a list of numbers."""
    text = given[-1].strip() if given else "points"
    parts = [p.strip() for p in text.strip("[]").split(",")]
    if not all(p.isdigit() for p in parts):
        return text
    numbers = [int(p) for p in parts]
    return numbers if text.startswith("[") or len(numbers) > 1 else numbers[0]


def told_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of runs, and overrides: what has a = in it, or begins as an option does. UserError without any name."""
    overrides = [w for w in words if "=" in w or w.startswith(("+", "~", "-"))]
    names = [w for w in words if w not in overrides]
    if not names:
        raise UserError("say which runs to ask: edit-robust evaluate RUN RUN measure=[...]")
    return names, overrides
