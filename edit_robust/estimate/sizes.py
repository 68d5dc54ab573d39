"""How large a model is, from its config alone: its network is built without memory (on torch's meta device)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edit_robust.config.nodes import model_name, target_of

#: Models that configs name, for when the hub's cache does not hold their config.json: class of transformers, and what
#: differs from its defaults (those of GPTJConfig are GPT-J-6B's, those of GPT2Config the small GPT-2's).
PUBLISHED: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2": ("GPT2Config", {}),
    "gpt2-medium": ("GPT2Config", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "gpt2-large": ("GPT2Config", {"n_embd": 1280, "n_layer": 36, "n_head": 20}),
    "gpt2-xl": ("GPT2Config", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "gpt-j-6b": ("GPTJConfig", {}),
    "meta-llama-3-8b": (
        "LlamaConfig",
        {
            **{"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
            **{"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192},
        },
    ),
}
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Sizes:
    """parameters: of the whole network.   matrices: (d_out, d_in) of the layer that each block is edited at.

    bytes_each: of a weight.   source: where the sizes come from, in words.
    image: the side of its images in pixels, 0 for a language model.
    """

    parameters: int
    matrices: tuple[tuple[int, int], ...]
    bytes_each: int
    source: str
    image: int = 0

    @property
    def n_layers(self) -> int:
        """Blocks that can be edited."""
        return len(self.matrices)


def sizes_of(values: Mapping[str, Any]) -> Sizes | str:
    """The sizes of a config's model; where they cannot be known offline, why not."""
    from edit_robust.models.language.causal_lm import CausalLM
    from edit_robust.models.vision.classifier import Classifier
    from edit_robust.models.vision.clip import Clip

    node = values["model"]
    target = target_of(node, "model")
    known: tuple[tuple[type, Callable[[Mapping[str, Any]], Sizes | str]], ...] = (
        *((CausalLM, _language), (Clip, _clip), (Classifier, _classifier)),
    )
    for kind, sizes in known:
        if isinstance(target, type) and issubclass(target, kind):
            try:
                found = sizes(node)
            except Exception as e:  # a library's own complaint about a name or a config
                return f"the size of {model_name(values)} is unknown: {' '.join(str(e).split())[:200]}"
            each = BYTES.get(str(node.get("dtype") or "float32"), 4)
            return found if isinstance(found, str) else replace(found, bytes_each=each)
    return f"the size of {model_name(values)} is unknown: nothing here knows how {node.get('_target_')} is built"


def _language(node: Mapping[str, Any]) -> Sizes | str:
    import torch
    import transformers

    from edit_robust.assets import asset_dir

    path = str(node["path"])
    where = str(asset_dir(path.removeprefix("builtin:"))) if path.startswith("builtin:") else path
    source, config = "its config.json", None
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(Path(where).expanduser()) if Path(where).expanduser().exists() else where,
            local_files_only=True,
            revision=node.get("revision"),
            trust_remote_code=bool(node.get("trust_remote_code")),
        )
    except (OSError, ValueError):
        name = path.rpartition("/")[2].lower()
        if name not in PUBLISHED:
            return f"the size of {path} is unknown: neither a folder nor the hub's cache has its config.json"
        kind, options = PUBLISHED[name]
        config, source = getattr(transformers, kind)(**options), "the published config"
    with torch.device("meta"):
        net = transformers.AutoModelForCausalLM.from_config(config)
    width = int(getattr(config, "hidden_size", 0) or getattr(config, "n_embd", 0))
    return Sizes(_count(net), _stacked(net, width), 4, source)


def _classifier(node: Mapping[str, Any]) -> Sizes | str:
    import torch

    from edit_robust.models.vision.anatomy import find_blocks, visits

    size = int(node.get("input_size") or 224)
    path, name = str(node.get("path") or ""), str(node.get("name") or "").partition(".")[0]
    with torch.device("meta"):
        if path.startswith("builtin:"):
            net, size = _built_in(path.removeprefix("builtin:"))
        elif node.get("factory"):
            from edit_robust.models.vision.own import made_by

            net = made_by(str(node["factory"]), node.get("kwargs") or {})
        elif node.get("library") == "torchvision":
            from torchvision import models

            net = models.get_model(name, weights=None)
        else:
            import timm

            made: Any = timm.create_model(name, pretrained=False)
            net, size = made, int(node.get("input_size") or made.pretrained_cfg["input_size"][-1])
    # without memory no two inputs can be told apart by where they lie: each counts as its own
    order = [replace(visit, source=i) for i, visit in enumerate(visits(net.eval(), size), start=1)]
    blocks = find_blocks(net, order, str(node.get("layers") or "auto"))
    return Sizes(_count(net), tuple(b.layer.shape for b in blocks), 4, "its architecture", size)


def _built_in(asset: str) -> tuple[Any, int]:
    """One of the package's own classifiers without its weights, and its images' size."""
    import json

    from edit_robust.assets import asset_dir
    from edit_robust.models.vision.scene_nets import build

    config = json.loads((asset_dir(asset) / "config.json").read_text(encoding="utf-8"))
    return build(config), int(config["input_size"])


def _clip(node: Mapping[str, Any]) -> Sizes | str:
    import json

    import open_clip
    import torch

    from edit_robust.assets import asset_dir

    path, name = str(node.get("path") or ""), node.get("name")
    if path.startswith("builtin:"):
        config = json.loads((asset_dir(path.removeprefix("builtin:")) / "config.json").read_text())["model_cfg"]
    else:
        config = open_clip.get_model_config(str(name)) if name else None
    if config is None:
        return f"the size of {name or path} is unknown: open_clip has no architecture of that name"
    vision = config["vision_cfg"]
    if "timm_model_name" in vision or not isinstance(vision.get("layers"), int):
        return f"the size of {name} is unknown: its image tower is none of open_clip's own transformers"
    size = int(node.get("input_size") or vision["image_size"])
    with torch.device("meta"):
        net = open_clip.CLIP(**{k: v for k, v in config.items() if k != "custom_text"})
    return Sizes(_count(net), _stacked(net.visual, int(vision["width"])), 4, "open_clip's config", size)


def _length(stack: Any) -> int:
    return len(stack)


def _count(net: Any) -> int:
    """Parameters, tied ones once."""
    return sum(p.numel() for p in net.parameters())


def _stacked(net: Any, width: int) -> tuple[tuple[int, int], ...]:
    """(d_out, d_in) of the last projection to the residual stream in each element of the longest list of blocks."""
    from torch import nn

    from edit_robust.core.editable import Layer
    from edit_robust.core.projections import is_projection, kind_of

    lists: list[Any] = [m for m in net.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m)]
    stacks: list[Any] = [m for m in lists if sum(is_projection(p) for p in m[0].modules()) >= 2]
    found = []
    for i, block in enumerate(max(stacks, key=_length)):
        shapes = [Layer("", i, kind_of(m), m).shape for m in block.modules() if is_projection(m)]
        found.append([shape for shape in shapes if shape[0] == width][-1])
    return tuple((int(a), int(b)) for a, b in found)
