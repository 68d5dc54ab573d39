"""A folder that timm loads by `timm.create_model("local-dir:FOLDER", pretrained=True)`: config.json and weights."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from edit_robust.core import UserError
from edit_robust.exports.edited import Edited
from edit_robust.models.base import Model
from edit_robust.models.vision import scene_nets
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.preprocessing import Preprocessing

WEIGHTS, NETWORK = "model.safetensors", "network.py"
SCENE_NET = "scene_net"  # what network.py calls the built-in architectures in timm's registry


def lacks(model: Model) -> str:
    """What a model lacks for this format, in words."""
    import timm

    if getattr(model, "described", None) is not None:  # a built-in network, made of timm's classes
        return ""
    about = getattr(model.net, "pretrained_cfg", None)
    name = about.get("architecture") if isinstance(about, Mapping) else None
    if not name or not timm.is_model(name) or not isinstance(model, Classifier):
        return "is no network of timm"
    return ""


def write(edited: Edited, folder: Path, rank: int | None) -> str:
    """Write the folder, and see that timm builds the same network from it. -> how it is loaded"""
    model = edited.model
    assert isinstance(model, Classifier)
    first = _built_in(model, folder) if model.described is not None else _of_timm(model, folder)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.net.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    return f"""{first}import timm

net = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=net))"""


def _data(model: Classifier) -> dict[str, Any]:
    """The preprocessing as timm writes it down."""
    how = model.preprocessing
    return {
        "input_size": (3, how.size, how.size),
        "mean": how.mean,
        "std": how.std,
        "interpolation": how.interpolation,
        "crop_pct": _share(how),
        "crop_mode": how.mode,
    }


def _share(how: Preprocessing) -> float:
    """Share of a side that the crop shows, so that timm, which rounds size / share down, resizes to what we do."""
    near = (how.share, how.size / how.resize, how.size / (how.resize + 0.5))
    return next(s for s in near if s and math.floor(how.size / s) == how.resize)


def _of_timm(model: Classifier, folder: Path) -> str:
    from timm.models import save_for_hf

    net: Any = model.net
    labels = list(model.classes) if model.classes else None
    config = {"label_names": labels} if labels else {}
    for args in ({}, {"img_size": model.size}):  # versions of timm that do not note what a network was made with
        save_for_hf(net, str(folder), config, args or None, safe_serialization=True, data_config=_data(model))
        if _rebuilt(net, folder):
            return ""
    raise UserError(
        f"timm does not build {model.name} from its own description with these weights' shapes; --to weights keeps the "
        "state dict for the network as you make it"
    )


def _rebuilt(net: torch.nn.Module, folder: Path) -> bool:
    """Whether timm makes a network with the same names and shapes of the folder's description."""
    import timm

    try:
        with torch.device("meta"):
            other = timm.create_model(f"local-dir:{folder}", pretrained=False)
    except (TypeError, RuntimeError, ValueError, AssertionError):
        return False
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (net, other)]
    return bool(shapes[0] == shapes[1])


def _built_in(model: Classifier, folder: Path) -> str:
    """timm's registry has no such architectures, though all of their parts are timm's: a file beside the weights
    registers them."""
    described = model.described
    assert described is not None
    data = {k: v for k, v in _data(model).items() if k != "crop_pct"} | {
        "crop_pct": 1.0,
        "num_classes": model.n_classes,
    }
    config = {
        "architecture": SCENE_NET,
        "num_classes": model.n_classes,
        "label_names": list(described["classes"]),
        "model_args": {"kind": described["architecture"].rpartition(".")[2], **described["kwargs"]},
        "pretrained_cfg": data,
    }
    folder.joinpath("config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    folder.joinpath(NETWORK).write_text(_source(), encoding="utf-8")
    return f"""import sys

sys.path.insert(0, "FOLDER")
import {Path(NETWORK).stem}  # registers the architecture with timm
"""


def _source() -> str:
    """A module that makes the built-in networks of timm's classes and registers them; it needs nothing but timm."""
    builders = {name.rpartition(".")[2]: build for name, build in scene_nets.BUILDERS.items()}
    parts = [inspect.getsource(build) for build in builders.values()]
    table = ", ".join(f'"{name}": {build.__name__}' for name, build in builders.items())
    head = f'''"""Registers `{SCENE_NET}` with timm: small networks made of timm's classes, described by config.json."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm.layers
import timm.models.resnet
import timm.models.vgg
import timm.models.vision_transformer
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn
'''
    tail = f'''KINDS = {{{table}}}


@register_model
def {SCENE_NET}(pretrained: bool = False, kind: str = "", **kwargs: Any) -> nn.Module:
    """The network of a config.json's `model_args`; kind: which of timm's classes it is made of."""
    return build_model_with_cfg(KINDS[kind], "{SCENE_NET}", pretrained, **kwargs)
'''
    return "\n\n".join([head, *parts, tail])
