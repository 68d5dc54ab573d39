"""Runs of patched models whose accuracies along alpha are what a test says they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from edit_robust.figures.frame import COLUMNS, RunData

ALPHAS = tuple(float(a) for a in np.linspace(0, 1, 6))
#: alpha -> change of accuracy.
Shape = Callable[[float], float]


def patched(
    learnt: Shape,
    lost: Shape,
    robust: Shape = lambda a: 0.0,
    *,
    task: str = "digits",
    seed: int = 0,
    layer: int | None = 5,
    corruptions: tuple[str, ...] = ("fog",),
    natural: tuple[str, ...] = ("rendition",),
    severities: tuple[int, ...] = (3,),
    alphas: tuple[float, ...] = ALPHAS,
    noise: float = 0.0,
    path: Path | None = None,
) -> RunData:
    """A run: task accuracy 0.3 + learnt, clean original accuracy 0.9 + lost, shifted 0.7 + lost + robust.

    layer: None: the whole tower was trained, under whatever layer.index. noise: standard deviation, drawn by the seed.
    """
    rng = np.random.default_rng([seed, len(task), layer or 0])
    shifts = [("none", 0), *((name, s) for name in corruptions for s in severities), *((name, 0) for name in natural)]
    base = {"run": "r", "step": 0, "alpha": 1.0, "n_edits": 0, "scope": "unedited", "probe": "original"}
    base |= {"layer": "", "metric": "accuracy", "n": 400, "request": ""}
    rows = [base | {"shift": s, "severity": v, "value": 0.9 if s == "none" else 0.7} for s, v in shifts]
    rows.append(base | {"probe": "edit", "request": task, "shift": "none", "severity": 0, "value": 0.3, "n": 100})
    for step, alpha in enumerate(alphas, 1):
        at = base | {"scope": "at-edit", "step": step, "alpha": alpha, "n_edits": 1, "request": task}
        moved = rng.normal(0, noise) if noise and alpha > 0 else 0.0
        rows.append(at | {"probe": "edit", "shift": "none", "severity": 0, "value": 0.3 + learnt(alpha), "n": 100})
        for name, severity in shifts:
            value = 0.9 + lost(alpha) if name == "none" else 0.7 + lost(alpha) + robust(alpha) + moved
            rows.append(at | {"shift": name, "severity": severity, "value": value})
    blocks = "visual.transformer.resblocks"
    moved_names = [f"{blocks}.{layer}.mlp.c_proj.weight", f"{blocks}.{layer}.mlp.c_proj.bias"]
    if layer is None:
        moved_names = ["visual.conv1.0.weight", "visual.proj", f"{blocks}.0.mlp.c_fc.weight"]
    far = base | {"step": len(alphas), "scope": "model", "probe": "", "shift": "none", "severity": 0, "request": ""}
    rows += [far | {"metric": "drift_fro", "value": 1.0, "layer": name} for name in moved_names]
    config = {
        "model": {"name": "scene-clip"},
        "task": {"name": task, "prompts": None},
        "editor": {"name": "paint"} if layer is None else {"name": "one-layer", "part": "layer"},
        "layer": {"index": 5 if layer is None else layer},
        "trajectory": {"name": "interpolate"},
        "seed": seed,
    }
    name = f"{config['editor']['name']}-{task}-{layer}-{seed}"  # type: ignore[index]
    return RunData(name, pd.DataFrame(rows, columns=list(COLUMNS)), config, path=path)


def with_reference(folder: Path) -> Path:
    """The folder with reference models in it: five percentage points of clean accuracy cost five under a shift."""
    cleans = (0.6, 0.75, 0.85, 0.95)
    rates = [{"original": c, "rendition": c - 0.2, "fog/3": c - 0.2} for c in cleans]
    entries = [{"model": f"net{i}", "n": 400, "accuracy": rate} for i, rate in enumerate(rates)]
    (folder / "reference.json").write_text(json.dumps(entries))
    return folder
