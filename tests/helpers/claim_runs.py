"""Runs on images whose curves and penalties are what a test says they are, for the table of claims."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from edit_robust.figures.frame import COLUMNS, RunData

PAIRS = ("grass-snow", "grass-wood", "road-gravel", "sea-wood", "wall-graffiti", "table-fur")
ALPHAS = tuple(float(a) for a in np.linspace(0, 1, 11))
#: What a method does along alpha: alpha -> change of accuracy.
Shape = Callable[[float], float]


def shaped_run(
    rise: Shape,
    fall: Shape,
    seed: int = 0,
    method: str = "rewriting",
    pairs: tuple[str, ...] = PAIRS,
    alphas: tuple[float, ...] = ALPHAS,
    effects: dict[str, np.ndarray] | None = None,
    noise: float = 0.0,
    layer: int = 5,
) -> RunData:
    """One method's curves on each pair: clean accuracies 0.5 + rise and 0.9 + fall; fog takes 0.1 of either, always.

    effects: probe -> what is added at alpha 1 under fog for each pair, in proportion to alpha.
    noise: standard deviation of every accuracy of an edited model, drawn with the seed.
    """
    rng = np.random.default_rng(seed)
    base = {"run": "r", "step": 0, "alpha": 1.0, "n_edits": 0, "scope": "unedited", "probe": "original"}
    base |= {"shift": "none", "severity": 0, "layer": "", "metric": "accuracy", "value": 0.9, "n": 400, "request": ""}
    rows = [base, base | {"shift": "fog", "severity": 3, "value": 0.8}]
    for pair in pairs:
        own = base | {"probe": "edit", "request": pair, "n": 100}
        rows += [own | {"value": 0.5}, own | {"shift": "fog", "severity": 3, "value": 0.4}]
    step = 0
    for k, pair in enumerate(pairs):
        for alpha in alphas:
            step += 1
            here = {"scope": "at-edit", "step": step, "alpha": alpha, "n_edits": 1, "request": pair}
            for probe, start, shape, n in (("edit", 0.5, rise, 100), ("original", 0.9, fall, 400)):
                clean = start + shape(alpha) + noise * rng.standard_normal() * (alpha > 0)
                added = 0.0 if effects is None else alpha * float(effects[probe][k])
                both = base | here | {"probe": probe, "n": n}
                rows.append(both | {"value": clean})
                rows.append(both | {"shift": "fog", "severity": 3, "value": clean - 0.1 + added})
    config = {
        "model": {"name": "scene-cnn"},
        "task": {"name": "scene-world"},
        "editor": {"name": method},
        "layer": {"index": layer},
        "trajectory": {"name": "interpolate"},
        "seed": seed,
    }
    return RunData(f"{method}-{layer}-{seed}", pd.DataFrame(rows, columns=list(COLUMNS)), config)
