"""The networks of the scene world and how they are trained: used by make_scene_world.py."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edit_robust.models.vision.scene_nets import build
from edit_robust.tasks.worlds.scenes import render as scene_render
from edit_robust.tasks.worlds.scenes import world

ASSETS = Path(__file__).parents[1] / "edit_robust" / "assets"
MEAN, STD = (0.45, 0.46, 0.45), (0.22, 0.21, 0.22)
BATCH = 64
DRAWN_SHARE = 0.03  # drawings among the training images: enough for the shift to be hard, not hopeless

VGG, RESNET = "timm.models.vgg.VGG", "timm.models.resnet.ResNet"
VIT = "timm.models.vision_transformer.VisionTransformer"
NETS: dict[str, dict[str, Any]] = {
    "scene-cnn": {
        "architecture": VGG,
        "kwargs": {"cfg": [24, "M", 40, 40, "M", 64, 64, 64, "M", 112, 112, 112, 112]},
        "steps": 1000,
        "rate": 3e-3,
        "finish": (500, 2e-3),
    },
    "scene-resnet": {
        "architecture": RESNET,
        "kwargs": {
            "layers": [1, 2, 2, 1], "channels": [32, 48, 80, 128], "stem_type": "deep", "stem_width": 16,
            "stem_pool": False,
        },
        "steps": 1200,
        "rate": 3e-3,
        "finish": (2800, 2.5e-3),
    },
    "scene-vit": {
        "architecture": VIT,
        "kwargs": {
            "img_size": 48, "patch_size": 1, "embed_dim": 96, "depth": 6, "num_heads": 4, "mlp_ratio": 3.0,
            "class_token": False, "global_pool": "avg",
            "stem_channels": [16, 32, 48, 64, 96], "stem_strides": [1, 2, 2, 1, 2],
        },
        "steps": 1000,
        "rate": 2e-3,
        "teacher": "scene-cnn",
        "finish": (3200, 1.5e-3),
    },
}  # fmt: skip


def config_of(net: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds: all that a user needs to build the network and feed it."""
    return {
        "architecture": net["architecture"],
        "kwargs": {**net["kwargs"], "num_classes": len(world.CLASSES)},
        "input_size": world.SIZE,
        "mean": list(MEAN),
        "std": list(STD),
        "classes": list(world.CLASSES),
    }


def pool(n: int, folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """n training images uint8 [n, 3, 48, 48], labels [n] and where the objects are [n, 2] (x and y in -1 .. 1):
    photographs and a few drawings."""
    path = folder / f"scene-pool-{n}.npz"
    if not path.is_file():
        drawn = int(DRAWN_SHARE * n)
        scenes = world.render("train", range(n - drawn))
        extra, labels = world.renditions("train", range(drawn))
        at = scene_render.layout(scenes.key, scenes.labels)
        centre = np.stack([at.x, at.foot - 0.5 * at.scale], -1) / (world.SIZE / 2) - 1
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            images=np.concatenate([scenes.images, extra]).transpose(0, 3, 1, 2),
            labels=np.concatenate([scenes.labels, labels]),
            centre=np.concatenate([centre, np.zeros((drawn, 2))]).astype(np.float32),
        )
    stored = np.load(path)
    return tuple(torch.from_numpy(stored[k]) for k in ("images", "labels", "centre"))  # type: ignore[return-value]


def normalise(images: Tensor) -> Tensor:
    """uint8 [n, 3, h, w] to what the networks take."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def augment(images: Tensor, centre: Tensor, zoom: float, rng: torch.Generator) -> Tensor:
    """Mirror, shift and enlarge every image [n, 3, 48, 48] by itself, around its object's centre [n, 2].

    Networks first see objects enlarged up to `zoom` times: small ones alone are learnt several times more slowly.
    """
    n = len(images)
    z = 1 + (zoom - 1) * torch.rand(n, generator=rng)
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    # A crop of 1/z of the image that moves towards the object as far as it must, and a random bit besides.
    middle = centre * (1 - 1 / z)[:, None] + (torch.rand(n, 2, generator=rng) - 0.5) * 0.3
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = mirror / z, 1 / z, middle
    where = F.affine_grid(theta, [n, 3, world.SIZE, world.SIZE], align_corners=False)
    return F.grid_sample(images, where, padding_mode="reflection", align_corners=False)


@torch.no_grad()
def logits(net: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    """Logits [n, classes] of uint8 [n, 48, 48, 3]."""
    net.eval()
    x = torch.from_numpy(images.transpose(0, 3, 1, 2))
    return torch.cat([net(normalise(b)) for b in x.split(128)])


def accuracy(net: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Share of images whose class comes first among all classes."""
    return float((logits(net, images).argmax(1).numpy() == labels).mean())


def weather(x: Tensor, rng: torch.Generator) -> Tensor:
    """Random noise, blur, contrast and brightness on normalised images [n, 3, h, w]; about a third stay as they are."""
    n = len(x)

    def some(share: float, low: float, high: float, otherwise: float) -> Tensor:
        value = low + (high - low) * torch.rand(n, generator=rng)
        return torch.where(torch.rand(n, generator=rng) < share, value, otherwise)[:, None, None, None]

    level = x.mean((1, 2, 3), keepdim=True)
    x = (x - level) * some(0.4, 0.25, 1.3, 1.0) + level + some(0.4, -1.3, 1.6, 0.0)
    blurred = F.avg_pool2d(F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 3, 1), 3, 1)
    x = torch.lerp(x, blurred, some(0.3, 0.4, 1.0, 0.0))
    return x + torch.randn(x.shape, generator=rng) * some(0.4, 0.1, 1.5, 0.0)


def imitation(teacher: Any, guess: nn.Linear, x: Tensor, features: Tensor, out: Tensor) -> Tensor:
    """How far a student is from its teacher: in its answers [n, classes] and, where it has features for the same
    6 x 6 places ([n, 36, d]), in these.

    The features tell every place what it shows. From labels alone a small transformer learns many times slower.
    """
    with torch.no_grad():
        seen = teacher.forward_features(x)
        soft = teacher.forward_head(seen).div(2).softmax(1)
        wanted = seen.flatten(2).transpose(1, 2)
        wanted = wanted / wanted.std((0, 1), keepdim=True).clamp(min=1e-3)
    answers = 2 * F.kl_div(out.div(2).log_softmax(1), soft, reduction="batchmean")
    return answers + F.mse_loss(guess(features), wanted) if features.ndim == 3 else answers


def train(
    config: Mapping[str, Any], images: Tensor, labels: Tensor, centre: Tensor, steps: int, rate: float, seed: int,
    decay: float = 0.05, teacher: nn.Module | None = None, start: nn.Module | None = None,
    keep: Sequence[int] = (), kept: dict[int, nn.Module] | None = None,
) -> nn.Module:  # fmt: skip
    """AdamW, a linear warm-up, a cosine to zero; with a teacher most of the loss is to answer and see as it does.

    With a network to start from this is the second stage: small enlargements, but bad weather. `kept` receives copies
    of the network after the steps in `keep`.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    net: Any = build(config) if start is None else start
    net = net.to(memory_format=torch.channels_last).train()
    guess = nn.Linear(net.num_features, 112)  # from the student's features to the teacher's
    parameters = list(net.parameters()) + (list(guess.parameters()) if teacher is not None else [])
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99))
    order, began, seen = torch.randperm(len(images), generator=rng), time.time(), []
    for step in range(steps):
        at = step * BATCH % (len(images) - BATCH)
        if step and at < BATCH:
            order = torch.randperm(len(images), generator=rng)
        rows = order[at : at + BATCH]
        lr = rate * min(1.0, (step + 1) / (0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr
        zoom = 1.15 + 1.35 * max(0.0, 1 - step / (0.6 * steps)) if start is None else 1.2
        x = augment(normalise(images[rows]), centre[rows], zoom, rng).contiguous(memory_format=torch.channels_last)
        features = net.forward_features(x if start is None else weather(x, rng))
        out = net.forward_head(features)
        loss = F.cross_entropy(out, labels[rows], label_smoothing=0.05)
        if teacher is not None:
            loss = 0.3 * loss + imitation(teacher, guess, x, features, out)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimizer.step()
        seen.append(float((out.argmax(1) == labels[rows]).float().mean()))
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps} loss {loss.item():.3f} training accuracy {np.mean(seen[-100:]):.3f} "
                  f"{time.time() - began:.0f} s", flush=True)  # fmt: skip
        if kept is not None and step + 1 in keep:
            kept[step + 1] = copy.deepcopy(net).eval()
    return net.eval()


def restore(config: Mapping[str, Any], path: Path) -> nn.Module:
    """A network with weights stored in fp16, in float32."""
    net = build(config)
    stored = load_file(path)
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in stored.items()})
    return net.eval()


def store(net: nn.Module, path: Path) -> None:
    """Write weights in fp16."""
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(state, metadata={"format": "pt"}))


def load(name: str) -> nn.Module:
    """A shipped network."""
    return restore(json.loads((ASSETS / name / "config.json").read_text()), ASSETS / name / "model.safetensors")
