"""A folder that transformers loads with `from_pretrained`: config, weights in the model's own type, and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from edit_robust.exports.edited import Edited
from edit_robust.models.base import Model


def lacks(model: Model) -> str:
    """What a model lacks for this format, in words."""
    if not hasattr(model.net, "save_pretrained") or not hasattr(getattr(model, "text", None), "tokenizer"):
        return "is no model of transformers with a tokenizer"
    return ""


def write(edited: Edited, folder: Path, rank: int | None) -> str:
    """Write the folder. -> how it is loaded"""
    model = cast(Any, edited.model)
    model.net.save_pretrained(folder)
    model.text.tokenizer.save_pretrained(folder)
    return """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER").eval()
tokenizer = AutoTokenizer.from_pretrained("FOLDER")"""
