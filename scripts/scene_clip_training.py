"""The small CLIP of the scene world and how it is trained: used by make_scene_clip.py."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scene_clip_words import CLAIMS, COLOURS, MEDIA, caption, claims_of, named
from scene_training import ASSETS, MEAN, STD, load, normalise, weather
from torch import Tensor, nn

from edit_robust.models.vision.clip_stem import add_stem
from edit_robust.tasks.worlds.scenes import render as scene_render
from edit_robust.tasks.worlds.scenes import world

DRAWN_SHARE, CARD_SHARE = 0.04, 0.025  # of the training images: renditions shall be hard, digits hardly known
FIRST = {"steps": 600, "batch": 256, "rate": 2e-3}  # text tower and projection, on features of the frozen trunk
SECOND = {"steps": 350, "batch": 64, "text": 5e-4, "image": 2e-4}  # everything, in bad weather
DECAY = 0.05


def config_of(vocabulary: int) -> dict[str, Any]:
    """What config.json holds: open_clip's `model_cfg` and `preprocess_cfg`, and the stem in place of `conv1`."""
    return {
        "model_cfg": {
            "embed_dim": 64,
            "quick_gelu": False,
            "vision_cfg": {
                "image_size": world.SIZE, "patch_size": 8, "width": 96, "layers": 6, "head_width": 24, "mlp_ratio": 3.0,
                "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True, "norm_kwargs": {"eps": 1e-6},
            },
            "text_cfg": {
                "context_length": 24, "vocab_size": vocabulary, "width": 64, "heads": 4, "layers": 2,
                "tokenizer_kwargs": {"bpe_path": "merges.txt.gz"},
            },
        },
        "preprocess_cfg": {
            "size": world.SIZE, "mean": list(MEAN), "std": list(STD), "interpolation": "bilinear",
            "resize_mode": "shortest",
        },
        "stem": {"channels": [16, 32, 48, 64, 96], "strides": [1, 2, 2, 1, 2]},
    }  # fmt: skip


def make(config: dict[str, Any]) -> Any:
    """open_clip's CLIP with the stem, randomly initialised."""
    net = open_clip.CLIP(**json.loads(json.dumps(config["model_cfg"])))
    add_stem(net, config["stem"])
    return net


@torch.no_grad()
def warm_start(net: Any, vit: Any) -> None:
    """Put scene-vit's weights into the image tower.

    Batch norms are folded into the convolutions before them, and the linear map behind the stem into its last
    convolution. open_clip always has a class token; scene-vit has none: it starts as zeros, and is not pooled.
    """
    backbone, visual = vit.patch_embed.backbone, net.visual
    convolutions = [m for m in visual.conv1 if isinstance(m, nn.Conv2d)]
    for i, (ours, theirs) in enumerate(zip(convolutions, backbone.children(), strict=True)):
        weight, bias = theirs.conv.weight, theirs.conv.bias
        if i + 1 < len(convolutions):
            norm = theirs.bn
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight, bias = weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        else:
            proj = vit.patch_embed.proj
            flat = proj.weight.flatten(1)
            weight, bias = torch.einsum("oc,cihw->oihw", flat, weight), flat @ bias + proj.bias
        ours.weight.copy_(weight)
        assert ours.bias is not None
        ours.bias.copy_(bias)
    visual.class_embedding.zero_()
    visual.positional_embedding.zero_()
    visual.positional_embedding[1:].copy_(vit.pos_embed[0])
    for ours, theirs in zip(visual.transformer.resblocks, vit.blocks, strict=True):
        ours.attn.in_proj_weight.copy_(theirs.attn.qkv.weight)
        ours.attn.in_proj_bias.copy_(theirs.attn.qkv.bias)
        pairs = [
            (ours.ln_1, theirs.norm1), (ours.ln_2, theirs.norm2), (ours.attn.out_proj, theirs.attn.proj),
            (ours.mlp.c_fc, theirs.mlp.fc1), (ours.mlp.c_proj, theirs.mlp.fc2),
        ]  # fmt: skip
        for a, b in pairs:
            a.weight.copy_(b.weight)
            a.bias.copy_(b.bias)
    visual.ln_post.weight.copy_(vit.fc_norm.weight)
    visual.ln_post.bias.copy_(vit.fc_norm.bias)


def pool(n: int, folder: Path) -> tuple[Tensor, NDArray[np.bool_]]:
    """n training images uint8 [n, 3, 48, 48] and what is true of each, bool [n, claims]; kept as a file."""
    path = folder / f"scene-clip-pool-{n}.npz"
    if not path.is_file():
        drawn, cards = int(DRAWN_SHARE * n), int(CARD_SHARE * n)
        scenes = world.render("train", range(n - drawn - cards))
        at = scene_render.layout(scenes.key, scenes.labels)
        area = scenes.object_area
        size = np.where(area < np.quantile(area, 0.3), 0, np.where(area > np.quantile(area, 0.7), 1, -1))
        true = [claims_of(scenes.labels, scenes.concepts, _colours(scenes, at), size)]
        images = [scenes.images]
        for k, medium in enumerate(world.DRAWINGS):
            some, labels = world.renditions("train", range(k * 10**6, k * 10**6 + drawn // 4), kind=medium)
            nothing = np.zeros((len(some), 8), dtype=bool)
            rows = claims_of(labels, nothing, *(np.full(len(some), -1),) * 2)
            rows[:, CLAIMS.index("photo")] = False
            rows[:, [CLAIMS.index(medium), CLAIMS.index("drawing")]] = True
            images, true = [*images, some], [*true, rows]
        some, labels = world.digits("cards", "train", range(cards))
        rows = np.zeros((len(some), len(CLAIMS)), dtype=bool)
        rows[np.arange(len(some)), [CLAIMS.index(str(d)) for d in labels]] = True
        rows[:, CLAIMS.index("card")] = True
        folder.mkdir(parents=True, exist_ok=True)
        every = np.concatenate([*images, some]).transpose(0, 3, 1, 2)
        np.savez(path, images=every, true=np.concatenate([*true, rows]))
    stored = np.load(path)
    return torch.from_numpy(stored["images"]), stored["true"]


def _colours(scenes: world.Scenes, at: scene_render.Layout) -> NDArray[np.int64]:
    """The colour that an object has on average, by name; -1 where it is near none."""
    found = []
    for start in range(0, len(scenes), 64):
        rows = slice(start, start + 64)
        part = type(at)(*(getattr(at, f)[rows] for f in at.__dataclass_fields__))
        colour, cover = scene_render.cutouts(scenes.key[rows], scenes.labels[rows], part)
        found.append(colour.sum((1, 2)) / np.maximum(cover.sum((1, 2)), 1e-6)[:, None])
    mean = np.concatenate(found)
    value, low = mean.max(1), mean.min(1)
    chroma = value - low
    red, green, blue = mean.T
    wide = np.maximum(chroma, 1e-6)
    hue = np.select(
        [value == red, value == green], [((green - blue) / wide) % 6, (blue - red) / wide + 2], (red - green) / wide + 4
    )
    names = np.select(
        [hue < 0.25, hue < 0.75, hue < 1.25, hue < 2.6, hue < 4.2, hue < 5.4],
        [COLOURS.index(c) for c in ("red", "orange", "yellow", "green", "blue", "purple")], COLOURS.index("red"),
    )  # fmt: skip
    plain = np.select([value > 0.65, value < 0.3], [COLOURS.index("white"), COLOURS.index("black")], 1)
    share = chroma / np.maximum(value, 1e-6)
    return np.where(share > 0.3, names, np.where(share < 0.15, plain, -1)).astype(np.int64)


class Captions:
    """Draws captions of the images in a batch, and says of which images of the batch each is true."""

    def __init__(self, true: NDArray[np.bool_], tokenizer: Any, seed: int) -> None:
        self.true, self.tokenizer, self.rng = true, tokenizer, np.random.default_rng(seed)
        self.names = [named(row) for row in true]

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [n, context] of one caption an image, and bool [n images, n captions]."""
        texts, claimed = [], np.zeros((len(rows), len(CLAIMS)), dtype=np.float32)
        for k, i in enumerate(rows.tolist()):
            text, claims = caption(self.names[i], self.rng)
            texts.append(text)
            claimed[k, [CLAIMS.index(c) for c in claims]] = 1
        met = self.true[rows.numpy()].astype(np.float32) @ claimed.T
        return self.tokenizer(texts), torch.from_numpy(met == claimed.sum(1))


def loss_of(image: Tensor, text: Tensor, scale: Tensor, fits: Tensor) -> Tensor:
    """Symmetric cross entropy whose target is uniform over the pairs that fit: a caption is true of many images.

    image, text: features [n, d], normalised here.   fits: bool [n images, n captions], its diagonal true.
    """
    logits = scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    target = fits.float()
    rows = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


def train(config: dict[str, Any], tokenizer: Any, images: Tensor, true: NDArray[np.bool_], seed: int,
          second: dict[str, Any] | None = None, warm: bool = True) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """The network after both stages, in evaluation mode, and a copy of its state after the first one."""
    torch.manual_seed(seed)
    net = make(config)
    net.logit_scale.data.fill_(math.log(1 / 0.07))
    if warm:
        warm_start(net, load("scene-vit"))
    captions = Captions(true, tokenizer, seed)
    rng = torch.Generator().manual_seed(seed)
    first_stage(net, images, captions, rng)
    middle = {k: v.clone() for k, v in net.state_dict().items()}
    second_stage(net, images, captions, rng, second or SECOND)
    return net.eval(), middle


def first_stage(net: Any, images: Tensor, captions: Captions, rng: torch.Generator) -> None:
    """Text tower and projection alone: the trunk's pooled features are computed once."""
    visual, projection = net.visual.eval(), net.visual.proj
    net.visual.proj = None
    with torch.no_grad():
        pooled = torch.cat([visual(normalise(b)) for b in images.split(128)])
    net.visual.proj = projection
    frozen = {id(p) for p in net.visual.parameters()} - {id(projection)}
    trained = [p for p in net.parameters() if id(p) not in frozen]
    optimizer = torch.optim.AdamW(trained, FIRST["rate"], weight_decay=DECAY)
    began = time.process_time()
    for step in range(int(FIRST["steps"])):
        rows = torch.randint(len(images), (int(FIRST["batch"]),), generator=rng)
        tokens, fits = captions.draw(rows)
        loss = loss_of(pooled[rows] @ projection, net.encode_text(tokens), net.logit_scale, fits)
        _step(optimizer, trained, loss, net, _cosine(step, int(FIRST["steps"])) * FIRST["rate"])
        if (step + 1) % 100 == 0:
            print(f"first {step + 1} loss {loss.item():.3f} {time.process_time() - began:.0f} CPU s", flush=True)


def second_stage(net: Any, images: Tensor, captions: Captions, rng: torch.Generator, how: dict[str, Any]) -> None:
    """Everything, on images in bad weather."""
    net.train()
    groups = [
        {"params": list(net.visual.parameters()), "rate": how["image"]},
        {"params": [p for n, p in net.named_parameters() if not n.startswith("visual.")], "rate": how["text"]},
    ]
    every = [p for g in groups for p in g["params"]]
    optimizer = torch.optim.AdamW(groups, how["image"], weight_decay=DECAY)
    began = time.process_time()
    for step in range(int(how["steps"])):
        rows = torch.randint(len(images), (int(how["batch"]),), generator=rng)
        tokens, fits = captions.draw(rows)
        x = weather(normalise(images[rows]), rng)
        mirrored = torch.rand(len(x), generator=rng) < 0.5
        mirrored &= ~torch.from_numpy(captions.true[rows.numpy(), CLAIMS.index(MEDIA[-1])])  # never digits
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        loss = loss_of(net.encode_image(x), net.encode_text(tokens), net.logit_scale, fits)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * _cosine(step, int(how["steps"]))
        _step(optimizer, every, loss, net)
        if (step + 1) % 50 == 0:
            print(f"second {step + 1} loss {loss.item():.3f} {time.process_time() - began:.0f} CPU s", flush=True)


def _step(optimizer: Any, trained: list[Any], loss: Tensor, net: Any, rate: float | None = None) -> None:
    if rate is not None:
        optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    with torch.no_grad():
        net.logit_scale.clamp_(0, math.log(100))


def _cosine(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / (0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


__all__ = ["ASSETS", "CARD_SHARE", "DECAY", "DRAWN_SHARE", "FIRST", "SECOND", "config_of", "make", "pool", "train"]
