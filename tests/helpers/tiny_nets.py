"""Tiny random image classifiers of every kind that editors meet, and tasks of random pairs for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import timm.models.resnet
import timm.models.vgg
import timm.models.vision_transformer
import torch
import torchvision.models.vision_transformer
from torch import Tensor, nn

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


def _mha() -> nn.Module:
    """torchvision's vision transformer, whose attention is nn.MultiheadAttention."""
    net = torchvision.models.vision_transformer.VisionTransformer(
        image_size=SIZE, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES
    )
    nn.init.normal_(net.heads.head.weight, std=0.3)  # it starts at zero
    return net


class Tower(nn.Module):
    """A vision transformer as OpenAI's CLIP has it: class and position embeddings and a last projection are bare
    parameters, and the attention is nn.MultiheadAttention."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
            parts = {"c_fc": nn.Linear(width, 2 * width), "gelu": nn.GELU(), "c_proj": nn.Linear(2 * width, width)}
            self.mlp = nn.Sequential(OrderedDict(parts))

        def forward(self, x: Tensor) -> Tensor:
            h = self.ln_1(x)
            x = x + self.attn(h, h, h, need_weights=False)[0]
            return x + self.mlp(self.ln_2(x))

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 4, 4, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(1 + (SIZE // 4) ** 2, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(self.Block(width) for _ in range(2)))
        self.proj = nn.Parameter(0.3 * torch.randn(width, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.blocks(self.ln_pre(x))[:, 0]) @ self.proj


NETS: dict[str, Callable[[], nn.Module]] = {
    "vgg": _vgg,
    "resnet": _resnet,
    "vit": _vit,
    "even": _even,
    "mha": _mha,
    "tower": Tower,
}


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
