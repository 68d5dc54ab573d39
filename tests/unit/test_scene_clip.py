"""The built-in CLIPs: they reach what their manifests say, and read names of classes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor

from edit_robust.assets import asset_dir
from edit_robust.core import Delta, LowRank
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.models.vision.clip import Clip
from edit_robust.tasks.worlds.scenes import world

NAMES = ("scene-clip", "scene-clip-b")
DIGITS = Vocabulary.of([str(d) for d in range(10)], ['a photo of the number: "{}".'])


@pytest.fixture(scope="module")
def clips() -> dict[str, Clip]:
    return {name: Clip(f"builtin:{name}") for name in NAMES}


@pytest.fixture(scope="module")
def scenes() -> world.Scenes:
    return world.render("test", range(320))


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((asset_dir(name) / "manifest.json").read_text())
    return found


def seen(clip: Clip, images: np.ndarray) -> Tensor:
    return clip.logits(clip.normalise(images))


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_of_the_manifest_and_small(name: str) -> None:
    folder, held = asset_dir(name), manifest(name)["sha256"]
    assert all(hashlib.sha256((folder / f).read_bytes()).hexdigest() == digest for f, digest in held.items())
    assert sum(p.stat().st_size for n in NAMES for p in asset_dir(n).iterdir()) < 4e6


@pytest.mark.parametrize("name", NAMES)
def test_manifests_tell_what_was_wanted(name: str) -> None:
    found = manifest(name)
    accuracy, digits, severities = found["accuracy"], found["digits"], found["corruptions_mean"]
    assert accuracy["clean"] >= 0.93
    assert severities == sorted(severities, reverse=True) and severities[0] < accuracy["clean"]
    assert max(digits["mnist"], digits["svhn"]) < accuracy["renditions"] < accuracy["clean"]
    assert found["settings"]["cpu_seconds"] < 20 * 60


@pytest.mark.parametrize("name", NAMES)
def test_zero_shot_accuracy_is_the_manifests(name: str, clips: dict[str, Clip], scenes: world.Scenes) -> None:
    clip, held = clips[name], manifest(name)
    assert clip.classes == tuple(world.CLASSES) and clip.n_layers == 6
    right = (seen(clip, scenes.images).argmax(-1).numpy() == scenes.labels).mean()
    assert abs(right - held["accuracy"]["clean"]) < 0.04  # 320 of the 2000 images
    images, labels = world.digits("mnist", "test", range(300))
    logits = clip.embed(clip.normalise(images)) @ clip.head(DIGITS.class_names, DIGITS.templates).T
    assert abs((logits.argmax(-1).numpy() == labels).mean() - held["digits"]["mnist"]) < 0.08


def test_answers_are_those_of_open_clip(clips: dict[str, Clip], scenes: world.Scenes) -> None:
    clip = clips["scene-clip"]
    path = asset_dir("scene-clip") / "merges.txt.gz"
    tokenizer = open_clip.SimpleTokenizer(str(path), context_length=24)
    config = json.loads((asset_dir("scene-clip") / "config.json").read_text())
    weight = open_clip.build_zero_shot_classifier(clip.text.clip, tokenizer, config["classes"], config["templates"])
    x = clip.normalise(scenes.images[:32])
    with torch.no_grad():
        theirs = clip.text.clip.logit_scale.exp() * clip.text.clip.encode_image(x, normalize=True) @ weight
    torch.testing.assert_close(clip.logits(x), theirs, atol=1e-5, rtol=1e-5)
    words = {w for t in (*config["templates"], *config["classes"]) for w in t.replace("{}", "").strip(".").split()}
    assert all(len(tokenizer.encode(w)) == 1 for w in words)
    assert tokenizer.eot_token_id == clip.text.clip.vocab_size - 1  # the end is found by the highest id


def test_scenes_and_digits_are_answered_together(clips: dict[str, Clip], scenes: world.Scenes) -> None:
    clip = clips["scene-clip-b"]
    places = clip.columns(DIGITS)
    assert places == tuple(range(16, 26))
    layer = clip.layer_at(-1)
    g = torch.Generator().manual_seed(0)
    d_out, d_in = layer.shape
    u, v = torch.randn(d_out, 2, generator=g), torch.randn(d_in, 2, generator=g)
    delta = Delta({layer.weight_name: LowRank(0.05 * u, v)}, clip.base)
    x = clip.normalise(scenes.images[:16])
    [[zero, one]] = clip.logits_along(x, [(delta, [0.0, 1.0])])
    assert zero.shape == (16, 26)
    torch.testing.assert_close(zero[:, :16], clip.logits(x), atol=1e-4, rtol=1e-5)
    with clip.patched(delta):
        torch.testing.assert_close(one[:, :16], clip.logits(x), atol=1e-4, rtol=1e-4)
