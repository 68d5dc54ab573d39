"""Tiny random image classifiers of every kind that editors meet, and tasks of random pairs for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import timm.models.resnet
import timm.models.vgg
import timm.models.vision_transformer
import torch
from torch import nn

from edit_robust.core import ImageRequest
from edit_robust.core.images import ImageSet, Triples
from edit_robust.models.vision.classifier import Classifier

SIZE, CLASSES = 16, 5


def _vgg() -> nn.Module:
    from edit_robust.models.vision.scene_nets import build

    kwargs = {"cfg": [8, 12, "M", 12, 16, "M"], "num_classes": CLASSES}
    return build({"architecture": "timm.models.vgg.VGG", "kwargs": kwargs})


def _resnet() -> nn.Module:
    return timm.models.resnet.ResNet(
        block=timm.models.resnet.BasicBlock,
        layers=[1, 1, 1, 1],
        channels=[8, 8, 12, 12],
        stem_width=8,
        num_classes=CLASSES,
    )


def _vit() -> nn.Module:
    return timm.models.vision_transformer.VisionTransformer(
        img_size=SIZE, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=CLASSES
    )


def _even() -> nn.Module:
    """Kernels of 2 x 2 and 4 x 4, strides, and no norm."""
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True)]
    middle = [nn.Conv2d(8, 12, 2, stride=2), nn.ReLU(), nn.Conv2d(12, 10, 4, padding=1), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*first, *middle), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, CLASSES))


NETS: dict[str, Callable[[], nn.Module]] = {"vgg": _vgg, "resnet": _resnet, "vit": _vit, "even": _even}


def tiny_net(kind: str) -> nn.Module:
    """A random network whose batch norms have seen something, so that their statistics matter."""
    torch.manual_seed(len(kind))
    net = NETS[kind]()
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, std=0.1)
        elif p.ndim == 1:  # timm starts the last norm of a residual block at zero
            nn.init.uniform_(p, 0.5, 1.5)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, SIZE, SIZE))
    return net.eval()


def tiny_classifier(kind: str, device: str = "cpu", **options: Any) -> Classifier:
    """The network as the program's own model, without a file."""
    scaling: dict[str, Any] = {"input_size": SIZE, "resize_size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3}
    return Classifier(net=tiny_net(kind), name=kind, device=device, **scaling, **options)


def tiny_file(kind: str, folder: Path) -> Path:
    """The network's weights as a safetensors file."""
    from safetensors.torch import save_model

    path = folder / f"{kind}.safetensors"
    save_model(tiny_net(kind), str(path))
    return path


def triples(n: int, seed: int, name: str = "t") -> Triples:
    """Random images with a square pasted over, labelled at random."""
    r = np.random.default_rng(seed)
    clean = [r.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(n)]
    masks = [np.zeros((SIZE, SIZE), dtype=bool) for _ in range(n)]
    cover = r.integers(0, 256, 3, dtype=np.uint8)
    for m in masks:
        m[4 : 4 + 8, 0:8] = True
    edited = [np.where(m[..., None], cover, c).astype(np.uint8) for c, m in zip(clean, masks, strict=True)]
    return Triples(tuple(f"{name}{seed}-{i}" for i in range(n)), clean, edited, r.integers(0, CLASSES, n), masks)


def images(n: int, seed: int) -> ImageSet:
    r = np.random.default_rng(1000 + seed)
    held = r.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
    return ImageSet("original", tuple(f"m{seed}-{i}" for i in range(n)), r.integers(0, CLASSES, n), lambda i: held[i])


@dataclass(frozen=True)
class TinyTask:
    """Requests with three pairs each, and images for second moments."""

    n: int = 2
    pairs: int = 3
    name: str = "tiny"
    protocol: str = "images"

    def requests(self) -> list[ImageRequest]:
        return [
            ImageRequest(
                f"r{i}", triples(self.pairs, i), None, search=triples(4, 50 + i), validation=partial(images, 4, i)
            )
            for i in range(self.n)
        ]

    def moment_images(self) -> ImageSet:
        return images(24, 7)
