"""Where image classifiers come from: timm, torchvision, the small ones of this package, or the user's own module."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edit_robust.core import UserError, nearest
from edit_robust.models.vision.own import made_by, own_preprocessing
from edit_robust.models.vision.preprocessing import Preprocessing, as_described
from edit_robust.models.vision.weights import load_weights


@dataclass(frozen=True)
class Network:
    """A network with its weights, its own preprocessing, the name to show, and its classes' names where known.

    described: a built-in network's config.json, from which it was built; None for all others.
    """

    net: nn.Module
    preprocessing: Preprocessing
    name: str
    classes: tuple[str, ...] | None = None
    described: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Source:
    """Where a network comes from: the options of `Classifier` of the same names."""

    path: str | None
    name: str | None
    library: str
    n_classes: int | None
    input_size: int | None
    net: nn.Module | None = None
    factory: str | None = None
    kwargs: Mapping[str, Any] | None = None

    def load(self) -> Network:
        """The network. Raises UserError for options that contradict each other and for what cannot be loaded."""
        if self.net is not None and self.factory is not None:
            raise UserError("the network is given twice: as model.factory and as net; give one of them")
        if self.kwargs and self.factory is None:
            raise UserError("model.kwargs are arguments of model.factory, which is not given")
        if self.net is not None or self.factory is not None:
            return self._own()
        if self.path and self.path.startswith("builtin:"):
            return _builtin(self.path.removeprefix("builtin:"), self.name)
        if self.name is None:
            raise UserError(
                "model.name must be given: an architecture of timm or torchvision, as resnet50 or vgg16; "
                "a network of your own comes from model.factory=PACKAGE.FUNCTION"
            )
        torch.manual_seed(0)  # `random` weights are the same every time
        make = {"timm": _timm, "torchvision": _torchvision}[self.library]
        net, preprocessing = make(self.name, self.path is None, self.n_classes, self.input_size)
        if self.path and self.path != "random":
            load_weights(net, Path(self.path).expanduser(), self.name)
        return Network(net, preprocessing, self.name)

    def _own(self) -> Network:
        """The user's own module, with the weights of `path` where that is given."""
        if self.path == "random" or (self.path or "").startswith("builtin:"):
            raise UserError(
                f"model.path={self.path} goes with a network of a library; a network of your own has the weights it "
                "was made with, or those of a file (.safetensors or .pth)"
            )
        if self.factory is not None:
            torch.manual_seed(0)  # weights that the factory draws are the same every time
            net = made_by(self.factory, self.kwargs or {})
        else:
            assert self.net is not None
            net = self.net
        name = self.name or self.factory or type(net).__name__
        if self.path:
            load_weights(net, Path(self.path).expanduser(), name)
        return Network(net, own_preprocessing(net, self.input_size, name), name)


def _builtin(asset: str, name: str | None) -> Network:
    from edit_robust.assets import asset_dir
    from edit_robust.models.vision.scene_nets import build

    folder = asset_dir(asset)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "architecture" not in config:
        raise UserError(f"builtin:{asset} is no image classifier")
    net = build(config)
    load_weights(net, folder / "model.safetensors", asset)
    size = int(config["input_size"])
    preprocessing = Preprocessing(size, size, tuple(config["mean"]), tuple(config["std"]))
    return Network(net, preprocessing, name or asset, tuple(config["classes"]), config)


def _timm(name: str, pretrained: bool, n_classes: int | None, size: int | None) -> tuple[nn.Module, Preprocessing]:
    """A network of timm. `resnet50.a1_in1k` names the weights, too; without a tag they are the architecture's first.

    The preprocessing is that of these weights, wherever the weights themselves come from.
    """
    import timm

    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}; {_nearest_name(name, timm.list_models())}")
    architecture, _, tag = name.partition(".")
    if tag and name not in (known := timm.list_models(f"{architecture}.*", include_tags=True)):
        raise UserError(f"timm has no weights {tag!r} of {architecture}; {_nearest_name(name, known)}")
    options: dict[str, Any] = {} if n_classes is None else {"num_classes": n_classes}
    sizes = [{"img_size": size}] if size is not None else []

    def make(**more: Any) -> nn.Module:
        net: nn.Module = timm.create_model(name, pretrained=pretrained, **options, **more)
        return net

    net = _made(lambda: _sized(make, sizes), name, pretrained)
    return net, as_described(net.pretrained_cfg, name=name)  # type: ignore[arg-type]


def _torchvision(
    name: str, pretrained: bool, n_classes: int | None, size: int | None
) -> tuple[nn.Module, Preprocessing]:
    """A network of torchvision. `resnet50.IMAGENET1K_V1` names the weights, too; without a tag they are the newest."""
    from torchvision import models

    known = models.list_models(module=models)
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        raise UserError(f"torchvision has no classifier {name!r}; {_nearest_name(name, known)}")
    every = models.get_model_weights(architecture)
    if tag and tag not in (tags := [w.name for w in every]):
        raise UserError(f"torchvision has no weights {tag!r} of {architecture}; {_nearest_name(tag, tags)}")
    weights = every[tag] if tag else every.DEFAULT
    options: dict[str, Any] = {} if n_classes is None else {"num_classes": n_classes}
    sizes: list[dict[str, Any]] = []
    if size is not None:
        sizes = [{"image_size": size}, {"input_size": (size, size)}]

    def make(**more: Any) -> nn.Module:
        return models.get_model(architecture, weights=weights if pretrained else None, **options, **more)

    net = _made(lambda: _sized(make, sizes), name, pretrained)
    t = weights.transforms()
    how = Preprocessing(t.crop_size[0], t.resize_size[0], tuple(t.mean), tuple(t.std), t.interpolation.value)
    return net, how


def _sized(make: Callable[..., nn.Module], sizes: Sequence[Mapping[str, Any]]) -> nn.Module:
    """The network with the first of the options that its constructor takes: networks with position embeddings are made
    for images of one size. Without any where it takes none: convolutions run on images of any size."""
    for options in sizes:
        try:
            return make(**options)
        except TypeError as e:
            if not any(f"argument '{option}'" in str(e) for option in options):
                raise
            torch.manual_seed(0)  # `random` weights do not depend on what was tried
    return make()


def _made(make: Callable[[], nn.Module], name: str, pretrained: bool) -> nn.Module:
    """A library's network; a download that fails says what to do instead."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision warns of how it will start random weights in future
            return make()
    except Exception as e:
        if not pretrained:
            raise UserError(f"{name} cannot be made: {' '.join(str(e).split())[:160]}") from e
        raise UserError(
            f"the pretrained weights of {name} could not be downloaded ({type(e).__name__}); give a local file with "
            "model.path=FILE (.safetensors or .pth), or model.path=random"
        ) from e


def _nearest_name(name: str, known: Sequence[str]) -> str:
    """The nearest names only: there are more than a thousand."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=5, cutoff=0.4)
    return nearest(name, close or list(known)[:8], "models like it")
