"""The state dict of any network, alone: one safetensors file for the module that you make yourself."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_model

from edit_robust.exports.edited import Edited
from edit_robust.models.base import Model


def lacks(model: Model) -> str:
    """Every network has a state dict."""
    return ""


def write(edited: Edited, folder: Path, rank: int | None) -> str:
    """Write the file, integer buffers as they are. -> how it is loaded"""
    save_model(edited.model.net, str(folder / "model.safetensors"))
    return """from safetensors.torch import load_model

net = ...  # the network as you make it
load_model(net, "FOLDER/model.safetensors")
net.eval()"""
