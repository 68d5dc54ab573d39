"""Images reach a network as its own library would give them to it, pixel for pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config, resolve_model_data_config
from timm.models import get_pretrained_cfg
from torchvision import models

from edit_robust.core import UserError
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.preprocessing import Preprocessing, as_described, crop

SIZES = [(300, 400), (401, 299), (224, 224), (31, 50), (257, 256), (500, 97)]
TAGS = [
    "resnet50.a1_in1k",  # bicubic, 95 % of the image
    "resnet50.tv_in1k",  # bilinear, 87.5 %
    "convnext_tiny.in12k_ft_in1k_384",  # squash, 100 %
    "vit_base_patch16_224.augreg_in21k_ft_in1k",  # mean and std .5
    "volo_d4_448.sail_in1k",  # 115 %: a black margin
    "tf_efficientnet_b0.ns_jft_in1k",
]


def picture(h: int, w: int) -> np.ndarray:
    return np.random.default_rng(h * 1000 + w).integers(0, 256, (h, w, 3), dtype=np.uint8)


def theirs(config: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """timm's own pixels before they are normalised, uint8 [size, size, 3]."""
    made = create_transform(**config, normalize=False)(Image.fromarray(image))
    return np.asarray(torch.as_tensor(made).permute(1, 2, 0))


@pytest.mark.parametrize("name", TAGS)
def test_every_tag_sees_what_timm_shows_it(name: str) -> None:
    found = get_pretrained_cfg(name)
    assert found is not None
    described = found.to_dict()
    config, how = resolve_data_config(pretrained_cfg=described), as_described(described)
    assert how.mean == tuple(config["mean"]) and how.std == tuple(config["std"])
    for h, w in SIZES:
        assert np.array_equal(crop(picture(h, w), how), theirs(config, picture(h, w))), (h, w)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("share", [0.875, 0.9, 1.0, 1.15])
def test_every_crop_mode_is_timms(mode: str, share: float) -> None:
    described = {"input_size": (3, 96, 96), "crop_pct": share, "crop_mode": mode, "mean": (0.5, 0.25, 0.1)}
    config, how = resolve_data_config(pretrained_cfg=described), as_described(described)
    for h, w in SIZES:
        assert np.array_equal(crop(picture(h, w), how), theirs(config, picture(h, w))), (h, w)


def test_modes_differ_where_images_are_not_square() -> None:
    """A network that squashes sees the whole image; without its mode it would see the middle of it."""
    image = picture(300, 400)
    image[:, :40] = (255, 0, 0)
    seen = {m: crop(image, Preprocessing(96, 96, mode=m)) for m in ("center", "squash", "border")}
    assert [bool((x[48, 2] == (255, 0, 0)).all()) for x in seen.values()] == [False, True, True]
    assert not np.array_equal(seen["squash"], seen["border"])


@pytest.mark.slow
def test_networks_carry_their_tags_preprocessing() -> None:
    for name, expected in (
        ("resnet18.a1_in1k", (224, 235, "bicubic")),
        ("resnet18.tv_in1k", (224, 256, "bilinear")),
        ("resnet18", (224, 235, "bicubic")),  # the first of its tags
    ):
        model = Classifier("random", name)
        how = model.preprocessing
        assert (how.size, how.resize, how.interpolation) == expected, name
        described = timm.create_model(name, pretrained=False)
        image = picture(300, 400)
        assert np.array_equal(model.crop(image), theirs(resolve_model_data_config(described), image))
    assert model.name == "resnet18"
    squashing = Classifier("random", "convnext_tiny.in12k_ft_in1k_384", input_size=64)
    assert (squashing.preprocessing.mode, squashing.size, squashing.preprocessing.resize) == ("squash", 64, 64)


def test_local_weights_keep_their_tags_preprocessing(tmp_path: Any) -> None:
    net = timm.create_model("resnet10t", num_classes=3)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    model = Classifier(str(tmp_path / "w.pth"), "resnet10t.c3_in1k", n_classes=3)
    assert torch.equal(model.net.state_dict()["fc.weight"], net.state_dict()["fc.weight"])
    tagged = get_pretrained_cfg("resnet10t.c3_in1k")
    assert tagged is not None and model.preprocessing == as_described(tagged.to_dict())


def test_torchvisions_weights_have_their_own_transforms() -> None:
    for tag in ("IMAGENET1K_V1", "IMAGENET1K_V2"):
        model = Classifier("random", f"mobilenet_v3_large.{tag}", "torchvision")
        weights = models.get_model_weights("mobilenet_v3_large")[tag]
        for h, w in SIZES[:3]:
            x = weights.transforms()(Image.fromarray(picture(h, w)))
            torch.testing.assert_close(model.see([picture(h, w)])[0], x, atol=1e-6, rtol=1e-6)
    assert Classifier("random", "resnet18", "torchvision").preprocessing.resize == 256


def test_tags_that_do_not_exist_are_one_line() -> None:
    for name, library, says in (
        ("resnet50.a1_in2k", "timm", "resnet50.a1_in1k"),
        ("resnet50.IMAGENET1K_V3", "torchvision", "IMAGENET1K_V2"),
        ("resnet5O.IMAGENET1K_V2", "torchvision", "resnet50"),
    ):
        with pytest.raises(UserError, match=says) as e:
            Classifier("random", name, library)  # type: ignore[arg-type]
        assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="3 channels and a square"):
        as_described({"input_size": (1, 28, 28)})
    with pytest.raises(UserError, match="'inside'"):
        as_described({"crop_mode": "inside"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("timm", "swin_tiny_patch4_window7_224"),  # takes img_size, and has no "vit" in its name
        ("timm", "mixer_s32_224"),
        ("timm", "repvit_m0_9"),  # has "vit" in its name, and takes none
        ("timm", "mobilevit_xxs"),
        ("torchvision", "maxvit_t"),  # takes input_size
    ],
)
def test_networks_are_made_for_the_size_that_is_asked_for(library: Any, name: str) -> None:
    size = 64 if name != "maxvit_t" else 224
    model = Classifier("random", name, library, n_classes=3, input_size=size, batch_size=2)
    assert model.size == size and model.logits(model.sample(1)).shape == (1, 3)


def test_the_size_tried_does_not_change_random_weights() -> None:
    one, other = (Classifier("random", "resnet10t", n_classes=3, input_size=s) for s in (None, 64))
    assert all(torch.equal(a, b) for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True))


def test_masks_have_no_border_of_their_own() -> None:
    """Where images are filled with the mean colour, nothing is marked."""
    net = timm.create_model("resnet10t", num_classes=3)
    net.pretrained_cfg |= {"crop_mode": "border", "mean": (0.9, 0.9, 0.9), "input_size": (3, 64, 64), "crop_pct": 1.0}
    model = Classifier(net=net)
    mask = model.crop_mask(np.ones((30, 60), dtype=bool))
    assert not mask[:16].any() and mask[17:47].all() and not mask[48:].any()
    assert (model.crop(np.zeros((30, 60, 3), dtype=np.uint8))[0, 0] == 230).all()
