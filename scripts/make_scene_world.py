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
import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scene_training import (
    ASSETS,
    BATCH,
    DRAWN_SHARE,
    NETS,
    RESNET,
    VGG,
    accuracy,
    config_of,
    load,
    logits,
    pool,
    restore,
    store,
    train,
)  # fmt: skip
from torch import nn

from edit_robust.shifts.images.benchmark import ALL, SEVERITIES, VERSION, corrupt_many
from edit_robust.tasks.worlds.scenes import world

N_TEST, N_CORRUPTED, N_FILTERED = 2000, 320, 400


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
