"""Walks of edits upon edits whose curves are what a test says they are, for the scaling paper's claims."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.figures.frame import COLUMNS, RunData

N, EVERY = 120, 10
#: Three orders on two models: six units, the fewest of which an exact interval of a share excludes a half.
UNITS = tuple((model, order) for model in ("fact-gpt", "fact-gpt-b") for order in range(3))
Curve = Callable[[float], float]


def flat(level: float) -> Curve:
    """The same level at every number of edits."""
    return lambda n: level


NOTHING = flat(0.0)


def walk_run(
    editor: str = "rome",
    model: str = "fact-gpt",
    order: int = 0,
    *,
    forgotten: Curve = NOTHING,
    at: int | None = None,
    jump: float = 0.6,
    takes: float | None = None,
    skill: Curve | None = None,
    noise: float = 0.01,
    length: int = N,
    autopsy: dict[str, Any] | None = None,
    folder: Path | None = None,
    config: dict[str, Any] | None = None,
) -> RunData:
    """One walk. forgotten: share of past edits forgotten by the number of edits.   noise: standard deviation of it.

    at: the edit from which on perplexity is broken, and forgetting higher by `jump`; None: nothing breaks.
    takes: share of the newest edits that take, evenly spread; None: they were not asked.
    skill: downstream F1 by the number of edits.
    autopsy: what autopsy.json holds, in a run folder inside of `folder`; its kind stands in the summary, too.
    config: what is otherwise in the config.
    """
    rng = np.random.default_rng([order, len(editor), model == "fact-gpt"])
    base = {"run": "r", "step": 0, "alpha": 1.0, "n_edits": 0, "scope": "model", "probe": "text", "shift": "none"}
    base |= {"severity": 0, "layer": "", "metric": "perplexity", "value": 5.0, "n": 100, "request": ""}
    rows: list[dict[str, Any]] = [base]
    for n in range(1, length + 1):
        here = base | {"step": n, "n_edits": n}
        broken = at is not None and n >= at
        if at is not None and abs(n - at) < 2 * EVERY:
            size = {"metric": "relative_norm", "value": 40.0 if n == at else 1.0, "n": 1, "request": f"id{n}"}
            rows.append(here | {"scope": "at-edit", "probe": ""} | size)
        for metric in ("success", "accuracy") if takes is not None else ():
            took = float(int(takes * n) > int(takes * (n - 1)))  # type: ignore[operator]
            rows.append(here | {"scope": "at-edit", "probe": "edit", "metric": metric, "value": took, "n": 1})
        if n % EVERY == 0:
            rows.append(here | {"value": 4000.0 if broken else 5 + 0.001 * n})
            share = forgotten(n) + (jump if broken else 0.0) + noise * rng.standard_normal()
            for metric in ("forgotten", "forgotten_sticky"):
                rows.append(here | {"scope": "retention", "probe": "edit", "metric": metric, "value": share, "n": n})
    for n in range(0, length + 1, 2 * EVERY) if skill else ():
        value = skill(n) + noise * rng.standard_normal()  # type: ignore[misc]
        own = {"step": n, "n_edits": n, "probe": "facts:world-2", "metric": "f1_generated", "value": value}
        rows.append(base | own)
    run_id = f"{editor}-{model}-{order}"
    path = None
    if autopsy is not None and folder is not None:
        path = folder / run_id
        path.mkdir(parents=True)
        (path / "autopsy.json").write_text(json.dumps(autopsy))
    given = {
        "model": {"name": model},
        "task": {"name": "world", "order": order, "n_requests": length},
        "editor": {"name": editor, "guard": None},
        "trajectory": {"name": "sequential", "batch_size": 1},
        "seed": 0,
    }
    summary = {"culprit_kind": (autopsy or {}).get("culprit_kind")}
    return RunData(run_id, pd.DataFrame(rows, columns=list(COLUMNS)), given | (config or {}), summary, path)


def walk_runs(editor: str = "rome", units: tuple[tuple[str, int], ...] = UNITS, **what: Any) -> list[RunData]:
    """The same walk in every unit; values that are lists hold one for each unit."""
    return [
        walk_run(editor, *unit, **{key: value[i] if isinstance(value, list) else value for key, value in what.items()})
        for i, unit in enumerate(units)
    ]
