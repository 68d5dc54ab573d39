"""The built-in image classifiers: small timm networks described by plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import timm.layers
import timm.models.resnet
import timm.models.vgg
import timm.models.vision_transformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from edit_robust.core.errors import UserError, nearest


def _vgg(**kwargs: Any) -> nn.Module:
    """timm's VGG with batch norm. Its 4096-wide head is replaced by pooling and one linear layer: it alone would hold
    more parameters than all convolutions of a small net."""
    net = timm.models.vgg.VGG(norm_layer=nn.BatchNorm2d, mlp_ratio=1 / 4096, **kwargs)
    net.pre_logits = nn.Identity()  # type: ignore[assignment]
    net.head = timm.layers.ClassifierHead(net.num_features, kwargs["num_classes"], pool_type="avg")
    net.head_hidden_size = net.num_features
    return net


def _resnet(stem_pool: bool = True, **kwargs: Any) -> nn.Module:
    """timm's ResNet of basic blocks; without `stem_pool` small images keep half of their resolution."""
    net = timm.models.resnet.ResNet(block=timm.models.resnet.BasicBlock, **kwargs)  # type: ignore[arg-type]
    if not stem_pool:
        net.maxpool = nn.Identity()  # type: ignore[assignment]
    return net


def _vit(stem_channels: Sequence[int] = (), stem_strides: Sequence[int] = (), **kwargs: Any) -> nn.Module:
    """timm's vision transformer; with a stem, 3 x 3 convolutions make the patches, as in arXiv 2106.14881."""
    if stem_channels:
        stem = ConvStem(depth=len(stem_channels), channels=tuple(stem_channels), stride=tuple(stem_strides))
        kwargs["embed_layer"] = partial(timm.layers.HybridEmbed, backbone=stem)
    return timm.models.vision_transformer.VisionTransformer(**kwargs)


# The names stand in config.json files: only these classes are ever built.
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "timm.models.vgg.VGG": _vgg,
    "timm.models.resnet.ResNet": _resnet,
    "timm.models.vision_transformer.VisionTransformer": _vit,
}


def build(config: Mapping[str, Any]) -> nn.Module:
    """The network of a config.json, randomly initialised: {"architecture": name, "kwargs": its plain arguments}."""
    name = config["architecture"]
    if name not in BUILDERS:
        raise UserError(f"no built-in architecture {name!r}; {nearest(name, BUILDERS)}")
    return BUILDERS[name](**config["kwargs"])
