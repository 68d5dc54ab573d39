"""Edit a neural network and measure what the edit broke.

From Python: `run(["editor=rome", "task.n_requests=20"])` does what the command line does and returns the Run;
models, editors and deltas work alone too. Names are imported when they are first used, so that this is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edit_robust.runs.reader import Run

_WHERE = {
    "AlphaEdit": "edit_robust.editors.language.alphaedit",
    "CausalLM": "edit_robust.models.language.causal_lm",
    "Classifier": "edit_robust.models.vision.classifier",
    "Collision": "edit_robust.editors.vision.collision",
    "Delta": "edit_robust.core",
    "DirectLowRank": "edit_robust.editors.vision.low_rank",
    "Emmet": "edit_robust.editors.language.emmet",
    "Encore": "edit_robust.editors.language.encore",
    "Example": "edit_robust.core",
    "FactWorldTask": "edit_robust.tasks.language.fact_world",
    "FineTune": "edit_robust.editors.language.fine_tune",
    "Lora": "edit_robust.editors.language.lora",
    "Memit": "edit_robust.editors.language.memit",
    "MemitSeq": "edit_robust.editors.language.memit_seq",
    "Mend": "edit_robust.editors.language.mend",
    "Nse": "edit_robust.editors.language.nse",
    "Pmet": "edit_robust.editors.language.pmet",
    "Prune": "edit_robust.editors.language.prune",
    "Rect": "edit_robust.editors.language.rect",
    "Request": "edit_robust.core",
    "Rewriting": "edit_robust.editors.vision.rewriting",
    "Rome": "edit_robust.editors.language.rome",
    "Run": "edit_robust.runs.reader",
    "SceneWorldTask": "edit_robust.tasks.vision.scene_world",
    "Supervised": "edit_robust.editors.vision.supervised",
    "UserError": "edit_robust.core",
    "Workspace": "edit_robust.core.work",
}
__all__ = ["__version__", "load", "run", *_WHERE]


def run(overrides: Sequence[str] = (), quiet: bool = True) -> Run:
    """Run an experiment given as on the command line. Raises UserError where the command line ends with code 2."""
    from edit_robust.config.compose import compose
    from edit_robust.config.launch import run_config
    from edit_robust.messages import Ui

    return run_config(compose(list(overrides)), Ui(quiet=quiet))


def load(name: str, outputs: str = "outputs") -> Run:
    """A run made earlier, by its id, the beginning or end of its id, or its folder."""
    from pathlib import Path

    from edit_robust.runs.reader import find_run

    return find_run(name, Path(outputs))


def __getattr__(name: str) -> Any:
    import importlib

    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
