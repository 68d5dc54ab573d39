"""Train the networks of the scene world and measure them: `python scripts/make_scene_world.py net scene-cnn`.

  net NAME       train one of NETS and write edit_robust/assets/NAME (scene-vit also learns from scene-cnn's answers)
  filter         find the adversarially filtered scenes with small networks of their own
  measure NAME   write what a network gets under every shift into its manifest
  baseline       train reference networks of differing quality and measure them under every shift
  sheet          draw docs/images/scene-world.png

Everything is seeded and has a fixed number of steps. Pools of rendered training images are kept under --pool.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edit_robust.models.scene_nets import build
from edit_robust.shifts.benchmark import ALL, SEVERITIES, VERSION, corrupt_many
from edit_robust.tasks.worlds import scene_render
from edit_robust.tasks.worlds import scene_world as world

ASSETS = Path(__file__).parents[1] / "edit_robust" / "assets"
MEAN, STD = (0.45, 0.46, 0.45), (0.22, 0.21, 0.22)
BATCH = 64
N_TEST, N_CORRUPTED, N_FILTERED = 2000, 320, 400
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


def make_net(name: str, args: argparse.Namespace) -> None:
    """Train in two stages, write, read back and measure one shipped network."""
    entry, config, data = NETS[name], config_of(NETS[name]), pool(args.images, args.pool)
    first = args.pool / f"{name}-stage1.safetensors"
    if args.stage == 1 or not first.is_file():
        teacher = None
        if "teacher" in entry:
            path = args.pool / f"{entry['teacher']}-stage1.safetensors"
            teacher = restore(config_of(NETS[entry["teacher"]]), path)
        store(train(config, *data, entry["steps"], entry["rate"], args.seed, teacher=teacher), first)
    # All but the first network also learn from the finished first one how to see in bad weather.
    teacher = None if name == "scene-cnn" else load("scene-cnn")
    steps, rate = entry["finish"]
    net = train(config, *data, steps, rate, args.seed + 1, teacher=teacher, start=restore(config, first))
    folder = ASSETS / name
    store(net, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    manifest = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "settings": {
            "seed": args.seed, "batch": BATCH, "decay": 0.05, "images": args.images, "drawn_share": DRAWN_SHARE,
            "threads": args.threads,
            "stages": [
                {"steps": entry["steps"], "rate": entry["rate"], "distilled_from": entry.get("teacher")},
                {"steps": steps, "rate": rate, "distilled_from": None if teacher is None else "scene-cnn",
                 "augmentation": "noise, blur, contrast, brightness"},
            ],
        },
        "accuracy": quick(load(name)),
        "sha256": {f: hashlib.sha256((folder / f).read_bytes()).hexdigest()
                   for f in ("model.safetensors", "config.json")},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest["accuracy"], indent=1))


def quick(net: nn.Module) -> dict[str, float]:
    """Accuracy on clean, vehicle, snow, drawn and hard images, and on the filtered ones once they exist."""
    test = world.render("test", range(N_TEST))
    cars = test.labels < len(world.VEHICLES)
    hard = world.render("hard", range(800))
    out = {
        "clean": accuracy(net, test.images, test.labels),
        "vehicles": accuracy(net, test.images[cars], test.labels[cars]),
        "vehicles_on_snow": accuracy(net, *world.snow_photographs("test", range(600))),
        "renditions": accuracy(net, *world.renditions("test", range(1600))),
        "hard": accuracy(net, hard.images, hard.labels),
    }
    if (ASSETS / "scene-world" / "filtered.json").is_file():
        out["filtered"] = accuracy(net, *world.filtered())
    out |= {kind: accuracy(net, *world.renditions("test", range(400), kind=kind)) for kind in world.DRAWINGS}
    return {k: round(v, 4) for k, v in out.items()}


def corrupted(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first N_CORRUPTED test images under every corruption: uint8 [19, 5, n, 48, 48, 3], and their labels."""
    test = world.render("test", range(N_CORRUPTED))
    path = folder / f"scene-corrupted-{VERSION}.npy"
    if not path.is_file():
        images, ids = list(test.images), [str(i) for i in test.index]
        out = [[corrupt_many(images, ids, name, k, "scene-world") for k in SEVERITIES] for name in ALL]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asarray(out, dtype=np.uint8))
    return np.load(path), test.labels


def under_corruptions(net: nn.Module, folder: Path) -> dict[str, list[float]]:
    """Accuracy at severity 1 to 5 under each corruption."""
    images, labels = corrupted(folder)
    return {
        name: [round(accuracy(net, images[i, k], labels), 4) for k in range(len(SEVERITIES))]
        for i, name in enumerate(ALL)
    }


def with_mean(by_name: Mapping[str, list[float]]) -> list[float]:
    """Mean over the corruptions, at severity 1 to 5."""
    return [round(float(v), 4) for v in np.mean(list(by_name.values()), axis=0)]


def under_styles(net: nn.Module, n: int = 96) -> dict[str, dict[str, float]]:
    """Accuracy on n test scenes with each concept, as they are and in each style."""
    out = {}
    for concept in world.CONCEPTS:
        scenes = world.render("test", world.with_concept("test", concept, n))
        row = {"as it is": accuracy(net, scenes.images, scenes.labels)}
        row |= {s: accuracy(net, world.styled(scenes, concept, s), scenes.labels) for s in world.STYLES}
        out[concept] = {k: round(v, 4) for k, v in row.items()}
    return out


def measure(name: str, args: argparse.Namespace) -> None:
    """Write what a shipped network gets under every shift into its manifest."""
    path = ASSETS / name / "manifest.json"
    net, manifest = load(name), json.loads(path.read_text())
    by_name = under_corruptions(net, args.pool)
    manifest["accuracy"] = quick(net)
    manifest["corruptions_mean"] = with_mean(by_name)
    manifest["corruptions"] = by_name
    manifest["styled"] = under_styles(net)
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    print(name, manifest["accuracy"], manifest["corruptions_mean"], flush=True)


def small(width: int) -> dict[str, Any]:
    """A quick residual network that sees a quarter of the resolution."""
    channels = [width, width * 3 // 2, width * 2, width * 3]
    kwargs = {"layers": [1, 1, 1, 1], "channels": channels, "stem_type": "deep", "stem_width": width}
    return config_of({"architecture": RESNET, "kwargs": kwargs})


def make_filtered(args: argparse.Namespace) -> None:
    """Hard scenes that two of three small networks get wrong; the networks are thrown away."""
    data = pool(args.images, args.pool)
    steps = 400
    nets = [train(small(20), *data, steps, 4e-3, seed) for seed in (101, 102, 103)]
    index = np.arange(3200)
    scenes = world.render("hard", index)
    wrong = sum((logits(net, scenes.images).argmax(1).numpy() != scenes.labels).astype(int) for net in nets)
    seen = scenes.object_area >= 20  # an object behind a pole or outside the picture is no test of a network
    chosen = index[(np.asarray(wrong) >= 2) & seen]
    result = {
        "seed": 0,
        "index": chosen[:N_FILTERED].tolist(),
        "candidates": len(index),
        "wrong": len(chosen),
        "networks": {"n": 3, "majority": 2, "steps": steps, "config": small(20)["kwargs"], "seeds": [101, 102, 103]},
    }
    (ASSETS / "scene-world").mkdir(exist_ok=True)
    (ASSETS / "scene-world" / "filtered.json").write_text(json.dumps(result) + "\n")
    print({k: v for k, v in result.items() if k != "index"}, flush=True)


def make_baseline(args: argparse.Namespace) -> None:
    """Reference networks of differing quality, and what each gets under every shift; then the shipped ones."""
    path = ASSETS / "scene-world" / "baseline.json"
    if args.stage == 1:
        rows = reference_rows(args)
    else:
        rows = [r for r in json.loads(path.read_text())["networks"] if not r["shipped"]]
    there = {r["name"] for r in rows}
    rows += [r for name in NETS if f"{name}-stage1" not in there for r in first_stage(name, args)]
    for name in NETS:
        manifest = json.loads((ASSETS / name / "manifest.json").read_text())
        if "corruptions" in manifest:
            found = manifest["accuracy"]
            rows.append(row(name, True, manifest["parameters"], found, manifest["corruptions"]))
    result = {
        "about": "Unedited networks of differing quality; accuracy on the clean test images and under each shift.",
        "n": {"clean": N_TEST, "corruption": N_CORRUPTED, "rendition": 1600, "filtered": len(world.filtered()[1]),
              "snow": 600},
        "corruptions": list(ALL),
        "networks": rows,
    }  # fmt: skip
    path.write_text(json.dumps(result, indent=2) + "\n")


def first_stage(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A shipped network as it was before it saw bad weather, where its first stage is at hand."""
    file = args.pool / f"{name}-stage1.safetensors"
    if not file.is_file():
        return []
    net = restore(config_of(NETS[name]), file)
    size = sum(p.numel() for p in net.parameters())
    return [row(f"{name}-stage1", False, size, quick(net), under_corruptions(net, args.pool))]


def reference_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Two quick residual networks and a thin VGG, each after several numbers of steps."""
    data = pool(args.images, args.pool)
    thin = config_of({"architecture": VGG, "kwargs": {"cfg": [12, "M", 20, "M", 32, 32, "M", 64, 64]}})
    runs = (("thin-vgg", thin, 203, 4e-3), ("small-16", small(16), 201, 4e-3), ("small-28", small(28), 202, 4e-3))
    rows = []
    for name, config, seed, rate in runs:
        kept: dict[int, nn.Module] = {}
        train(config, *data, 1000, rate, seed, keep=(300, 500, 700, 1000), kept=kept)
        for steps, net in kept.items():
            size = sum(p.numel() for p in net.parameters())
            rows.append(row(f"{name}-{steps}", False, size, quick(net), under_corruptions(net, args.pool)))
            print(rows[-1], flush=True)
    return rows


def row(
    name: str, shipped: bool, parameters: int, found: Mapping[str, float], by_name: Mapping[str, list[float]]
) -> dict[str, Any]:
    """One network of the baseline."""
    return {
        "name": name,
        "shipped": shipped,
        "parameters": parameters,
        "clean": found["clean"],
        "vehicles": found["vehicles"],
        "shifts": {
            "snow": found["vehicles_on_snow"],
            "rendition": found["renditions"],
            "filtered": found["filtered"],
            "corruptions": dict(zip("12345", with_mean(by_name), strict=True)),
        },
        "by_corruption": dict(by_name),
    }


def make_sheet(path: Path) -> None:
    """The contact sheet of the documentation: labelled rows, a class a column."""
    rows: list[tuple[str, NDArray[np.uint8]]] = []
    for k in range(4):
        rows.append(("photographs" if k == 0 else "", world.render("test", range(16 * k, 16 * k + 16)).images))
    rows += [(kind, world.renditions("test", range(16, 32), kind=kind)[0]) for kind in world.DRAWINGS]
    rows.append(("vehicles on snow", world.snow_photographs("test", range(16))[0]))
    images, labels = world.filtered()
    rows.append(("filtered", images[[int(np.flatnonzero(labels == k)[0]) for k in range(16)]]))
    shown = [(c, world.render("test", world.with_concept("test", c, 2, start=64))) for c in world.CONCEPTS]
    for style in world.STYLES:
        rows.append((f"style: {style}", np.concatenate([world.styled(s, c, style) for c, s in shown])))
    font = ImageFont.load_default(14)
    cell, head = 2 * world.SIZE, 22
    margin = 16 + max(int(font.getlength(name)) + 1 for name, _ in rows)
    sheet = Image.new("RGB", (margin + 16 * cell, 2 * head + len(rows) * cell), "white")
    draw = ImageDraw.Draw(sheet)
    for x, name in enumerate(world.CLASSES):
        draw.text((margin + x * cell + cell / 2, head / 2), name, "black", font, anchor="mm")
    first_style = len(rows) - len(world.STYLES)
    for x, name in enumerate(world.CONCEPTS):
        y = 1.5 * head + first_style * cell
        draw.text((margin + (2 * x + 1) * cell, y), f"on {name}", "black", font, anchor="mm")
    for i, (name, images) in enumerate(rows):
        top = head + i * cell + (head if i >= first_style else 0)
        draw.text((margin - 8, top + cell / 2), name, "black", font, anchor="rm")
        strip = Image.fromarray(np.concatenate(list(images), axis=1))
        sheet.paste(strip.resize((16 * cell, cell), Image.Resampling.NEAREST), (margin, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("net", "filter", "measure", "baseline", "sheet"))
    parser.add_argument("name", nargs="?", choices=tuple(NETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1, help="2: keep the first stage")
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pool", type=Path, default=Path("outputs/cache"))
    args = parser.parse_args()
    if args.what in ("net", "measure") and args.name is None:
        parser.error(f"{args.what} needs a name: {', '.join(NETS)}")
    torch.set_num_threads(args.threads)
    if args.what == "net":
        make_net(args.name, args)
    elif args.what == "measure":
        measure(args.name, args)
    elif args.what == "filter":
        make_filtered(args)
    elif args.what == "sheet":
        make_sheet(Path(__file__).parents[1] / "docs" / "images" / "scene-world.png")
    else:
        make_baseline(args)


if __name__ == "__main__":
    main()
