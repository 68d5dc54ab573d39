"""Image classifiers and CLIPs that were edited or trained elsewhere: their weights under our names."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edit_robust.core.errors import UserError
from edit_robust.models.checkpoints import (
    config_in,
    is_adapter,
    matched,
    merged_adapter,
    statistics_as_affine,
    tensors_of,
)
from edit_robust.models.vision import clip_formats
from edit_robust.models.vision.clip_loading import WEIGHTS, fill
from edit_robust.models.vision.clip_text import TextTower
from edit_robust.models.vision.weights import read_weights

#: Files of a classifier's folder that may hold its weights.
FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
HEAD = "head.safetensors"
log = logging.getLogger(__name__)


def weights_in(net: nn.Module, path: str, name: str) -> dict[str, Tensor]:
    """Every parameter's value in a checkpoint of a classifier, on the CPU, in the type in which it is stored.

    path: a file (.safetensors, .pth), a folder as timm writes it, `builtin:NAME`, or an adapter of peft, which is
    merged into the network's present weights. Running statistics are told as changes of weights
    (`statistics_as_affine`).
    Raises UserError with the first difference for a checkpoint of another network.
    """
    path = _place(path)
    if is_adapter(path):
        values = merged_adapter(net, path, name)
    else:
        theirs = config_in(path).get("architecture")
        mine = (getattr(net, "pretrained_cfg", None) or {}).get("architecture")
        if theirs and mine and theirs != mine:
            raise UserError(f"{path} is a model of another architecture: {theirs}, and {name} is {mine}")
        values = matched(net, read_weights(tensors_of(path, FILES, "weights")), path, name)
    values = statistics_as_affine(net, {k: v.detach().cpu() for k, v in values.items()}, path)
    return {k: values[k] for k, _ in net.named_parameters()}


def _place(path: str) -> str:
    if path.startswith("builtin:"):
        from edit_robust.assets import asset_dir

        return str(asset_dir(path.removeprefix("builtin:")))
    return path


@torch.no_grad()
def clip_weights_in(net: nn.Module, text: TextTower, words: Sequence[Any], path: str, name: str) -> dict[str, Tensor]:
    """The same for a CLIP: the image tower's parameters, and the head where that is one of them.

    path: a folder of open_clip or Hugging Face, a file of weights, or an adapter of peft for the image tower. Another
    text tower is said, and left out: heads are made from the model's own. Of a head that is a parameter the
    checkpoint's is the one in the folder (`head.safetensors`), else what its own text tower makes of the words.
    """
    path = _place(path)
    if is_adapter(path):
        values = merged_adapter(net, path, name)
        return {k: values[k].detach().cpu() for k, _ in net.named_parameters()}
    here = Path(path).expanduser()
    if here.is_dir() and clip_formats.is_hugging_face(here):
        state = clip_formats.hugging_face_state(here)
    else:
        state = clip_formats.read_state(tensors_of(path, WEIGHTS, "weights of a CLIP"))
    kind = next((v.dtype for k, v in state.items() if v.is_floating_point() and "visual" in k), torch.float32)
    own = text.clip.visual
    other = copy.deepcopy(text.clip).cpu().float()
    fill(other, dict(state), here, name, resize=False)
    values = {f"visual.{k}": v for k, v in other.visual.named_parameters()}
    shapes = {k: v.shape for k, v in own.named_parameters()}
    assert {k.removeprefix("visual."): v.shape for k, v in values.items()} == shapes
    pairs = zip(text.clip.named_parameters(), other.named_parameters(), strict=True)
    differs = [k for (k, a), (_, b) in pairs if not k.startswith("visual.") and not torch.equal(a.cpu().float(), b)]
    if differs:
        log.warning("%s: its text tower is another one, too (%s, ...): heads are made from the model's own, and the "
                    "change of the image tower alone is walked", path, differs[0])  # fmt: skip
    found = {k: values[k].to(kind) for k, _ in net.named_parameters() if k in values}
    if "head" in dict(net.named_parameters()):
        file = here / HEAD
        found["head"] = (
            load_file(file)["head"] if file.is_file() else TextTower(other, text.tokenizer).head(*words).detach().cpu()
        )
    return found
