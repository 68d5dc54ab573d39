"""Train the small CLIPs of the scene world and measure them: `python scripts/make_scene_clip.py train scene-clip`.

  train NAME     train one of NAMES (they differ by their seed) and write edit_robust/assets/NAME
  measure NAME   write what it gets zero-shot under every shift into its manifest
  try            train variants with fewer or more steps and write what they reach to --pool

Everything is seeded and has a fixed number of steps. One thread; the rendered images are kept under --pool.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from make_scene_world import corrupted, quick, with_mean
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from scene_clip_training import ASSETS, CARD_SHARE, DECAY, DRAWN_SHARE, FIRST, SECOND, config_of, make, pool, train
from scene_clip_words import ENSEMBLE, write_merges
from scene_training import accuracy
from torch import Tensor, nn

from edit_robust.shifts.images.benchmark import ALL, SEVERITIES
from edit_robust.tasks.worlds.scenes import world

NAMES = {"scene-clip": 0, "scene-clip-b": 1}
DIGIT_TEMPLATES = ('a photo of the number: "{}".',)
MERGES = "merges.txt.gz"
#: Wordings: one template, and some that no caption has.
WORDINGS = {
    "one template": ("a photo of a {}.",),
    "unseen wordings": ("this is a clean photo of some {}.", "a blurry close up of many {}.", "my {}."),
}


class ZeroShot(nn.Module):
    """The image tower with a head of names and templates: logits [n, classes]."""

    def __init__(self, net: Any, tokenizer: Any, names: list[str], templates: tuple[str, ...]) -> None:
        super().__init__()
        self.net = net
        self.weight = open_clip.build_zero_shot_classifier(net, tokenizer, names, list(templates))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Cosines with the classes' embeddings times the learnt scale."""
        out: Tensor = self.net.logit_scale.exp() * self.net.encode_image(x, normalize=True) @ self.weight
        return out


def tokenizer_of(folder: Path, config: dict[str, Any]) -> Any:
    """The tokenizer with its own merges."""
    return open_clip.SimpleTokenizer(
        str(folder / MERGES), context_length=config["model_cfg"]["text_cfg"]["context_length"]
    )


def store(state: dict[str, Tensor], path: Path) -> None:
    """Write weights in fp16."""
    path.write_bytes(save({k: v.half().contiguous() for k, v in state.items()}, metadata={"format": "pt"}))


def restored(name: str) -> tuple[Any, Any]:
    """A written network in float32, and its tokenizer."""
    folder = ASSETS / name
    config = json.loads((folder / "config.json").read_text())
    net = make(config)
    net.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return net.eval(), tokenizer_of(folder, config)


def digits(net: Any, tokenizer: Any) -> dict[str, float]:
    """Zero-shot accuracy on the world's digits of each kind."""
    head = ZeroShot(net, tokenizer, [str(d) for d in range(10)], DIGIT_TEMPLATES)
    return {kind: round(accuracy(head, *world.digits(kind, "test", range(1000))), 4) for kind in world.DIGITS}


def short(net: Any, tokenizer: Any) -> dict[str, Any]:
    """What is looked at while settings are chosen, on images of the split `val`."""
    head = ZeroShot(net, tokenizer, list(world.CLASSES), ENSEMBLE)
    scenes = world.render("val", range(1000))
    found: dict[str, Any] = {"clean": accuracy(head, scenes.images, scenes.labels)}
    found["renditions"] = accuracy(head, *world.renditions("val", range(800)))
    kind_of = ZeroShot(net, tokenizer, [str(d) for d in range(10)], DIGIT_TEMPLATES)
    found |= {kind: accuracy(kind_of, *world.digits(kind, "val", range(500))) for kind in world.DIGITS}
    return {k: round(v, 4) for k, v in found.items()}


def make_clip(name: str, args: argparse.Namespace) -> None:
    """Train, write, read back and measure one shipped network."""
    folder, seed = ASSETS / name, NAMES[name]
    vocabulary = write_merges(folder / MERGES)
    config = config_of(vocabulary)
    tokenizer = tokenizer_of(folder, config)
    assert tokenizer.vocab_size == vocabulary
    images, true = pool(args.images, args.pool)
    print(f"pool ready after {time.process_time():.0f} CPU s, {vocabulary} tokens", flush=True)
    net, middle = train(config, tokenizer, images, true, seed)
    first = make(config)
    first.load_state_dict(middle)
    (folder / "config.json").write_text(
        json.dumps(config | {"classes": list(world.CLASSES), "templates": list(ENSEMBLE)}, indent=2) + "\n"
    )
    store(net.state_dict(), folder / "model.safetensors")
    spent = resource.getrusage(resource.RUSAGE_SELF)
    manifest = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "settings": {
            "seed": seed, "images": args.images, "drawn_share": DRAWN_SHARE, "card_share": CARD_SHARE, "decay": DECAY,
            "image_tower_from": "scene-vit", "stages": [FIRST, SECOND], "threads": 1,
            "cpu_seconds": round(spent.ru_utime + spent.ru_stime),
        },
        "after_first_stage": short(first.eval(), tokenizer),
        "val": short(net, tokenizer),
        "sha256": {f: hashlib.sha256((folder / f).read_bytes()).hexdigest()
                   for f in ("model.safetensors", "config.json", MERGES)},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                     "open_clip": open_clip.__version__},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(name, manifest["after_first_stage"], manifest["val"], manifest["settings"], flush=True)


def measure(name: str, args: argparse.Namespace) -> None:
    """Write what a shipped network gets zero-shot under every shift into its manifest."""
    path = ASSETS / name / "manifest.json"
    manifest = json.loads(path.read_text())
    net, tokenizer = restored(name)
    head = ZeroShot(net, tokenizer, list(world.CLASSES), ENSEMBLE)
    manifest["accuracy"] = quick(head)
    test = world.render("test", range(2000))
    manifest["wordings"] = {
        about: round(accuracy(ZeroShot(net, tokenizer, list(world.CLASSES), t), test.images, test.labels), 4)
        for about, t in WORDINGS.items()
    }
    manifest["digits"] = digits(net, tokenizer)
    images, labels = corrupted(args.pool)
    by_name = {c: _severities(head, images[i], labels) for i, c in enumerate(ALL)}
    manifest["corruptions_mean"], manifest["corruptions"] = with_mean(by_name), by_name
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    print(name, {k: manifest[k] for k in ("accuracy", "wordings", "digits", "corruptions_mean")}, flush=True)


def _severities(head: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[float]:
    return [round(accuracy(head, images[k], labels), 4) for k in range(len(SEVERITIES))]


def variants(args: argparse.Namespace) -> None:
    """Other settings of the second stage, and no warm start, with seed 0: what they reach on `val`."""
    rows = {}
    images, true = pool(args.images, args.pool)
    folder = ASSETS / "scene-clip"
    config = {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if k != "templates"}
    tokenizer = tokenizer_of(folder, config)
    tried: dict[str, tuple[dict[str, Any], bool]] = {
        "150 steps": (SECOND | {"steps": 150}, True),
        "image rate 5e-4": (SECOND | {"image": 5e-4}, True),
        "no warm start": (SECOND | {"image": 1e-3, "text": 1e-3}, False),
    }
    for about, (second, warm) in tried.items():
        net, _ = train(config, tokenizer, images, true, 0, second, warm)
        rows[about] = short(net, tokenizer)
        print(about, rows[about], flush=True)
        (args.pool / "scene-clip-tried.json").write_text(json.dumps(rows, indent=1))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "measure", "try"))
    parser.add_argument("name", nargs="?", choices=tuple(NAMES))
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--pool", type=Path, default=Path("outputs/cache"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "try":
        variants(args)
    elif args.name is None:
        parser.error("which network?")
    else:
        {"train": make_clip, "measure": measure}[args.what](args.name, args)


if __name__ == "__main__":
    main()
