"""Save an edited model so that other programs load it."""

from __future__ import annotations

from pathlib import Path

from edit_robust.config.nodes import build
from edit_robust.core import UserError
from edit_robust.runs.reader import Run


def export_model(run: Run, folder: Path) -> Path:
    """Write the model as the run's walk left it, in the Hugging Face format.

    Raises UserError when the folder is not empty, or when the model is not the one that was edited.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: give a new folder")
    run.delta()  # says so before a model is loaded where there is no whole change
    model = build(run.config["model"], "model")
    run.replay(model)
    model.net.save_pretrained(folder)
    model.text.tokenizer.save_pretrained(folder)
    return folder
