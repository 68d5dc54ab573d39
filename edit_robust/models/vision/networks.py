"""Where image classifiers come from: timm, torchvision or our own small ones, and how each wants its images."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edit_robust.core import UserError, nearest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Preprocessing:
    """Shorter side to `resize`, centre crop of `size`, then (x / 255 - mean) / std."""

    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    interpolation: str = "bilinear"

    def changed(
        self,
        size: int | None,
        resize: int | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        interpolation: str | None,
    ) -> Preprocessing:
        """The same but for what is given; a new size keeps the share of the image that the crop shows."""
        for name, triple in (("mean", mean), ("std", std)):
            if triple is not None and (len(triple) != 3 or (name == "std" and min(triple) <= 0)):
                raise UserError(f"model.{name}={list(triple)} must be three numbers{', above 0' * (name == 'std')}")
        if min(size or 1, resize or 1) < 1:
            raise UserError("model.input_size and model.resize_size must be at least 1")
        new = size or self.size
        scaled = resize or (self.resize if new == self.size else round(new * self.resize / self.size))
        if scaled < new:
            raise UserError(f"model.resize_size={scaled} must be at least the input size, {new}")
        return replace(
            self,
            size=new,
            resize=scaled,
            mean=tuple(mean or self.mean),
            std=tuple(std or self.std),
            interpolation=interpolation or self.interpolation,
        )


def load_net(
    path: str | None, name: str | None, library: str, n_classes: int | None, size: int | None
) -> tuple[nn.Module, Preprocessing, str, tuple[str, ...] | None]:
    """A network with its weights, its preprocessing, the name to show, and its classes' names where they are known."""
    if path and path.startswith("builtin:"):
        return _builtin(path.removeprefix("builtin:"), name)
    if name is None:
        raise UserError("model.name must be given: an architecture of timm or torchvision, as resnet50 or vgg16")
    torch.manual_seed(0)  # `random` weights are the same every time
    make = {"timm": _timm, "torchvision": _torchvision}[library]
    net, own = make(name, path is None, n_classes, size)
    if path and path != "random":
        load_weights(net, Path(path).expanduser(), name)
    return net, own, name, None


def _builtin(asset: str, name: str | None) -> tuple[nn.Module, Preprocessing, str, tuple[str, ...] | None]:
    from edit_robust.assets import asset_dir
    from edit_robust.models.vision.scene_nets import build

    folder = asset_dir(asset)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "architecture" not in config:
        raise UserError(f"builtin:{asset} is no image classifier")
    net = build(config)
    load_weights(net, folder / "model.safetensors", asset)
    size = int(config["input_size"])
    own = Preprocessing(size, size, tuple(config["mean"]), tuple(config["std"]))
    return net, own, name or asset, tuple(config["classes"])


def _timm(name: str, pretrained: bool, n_classes: int | None, size: int | None) -> tuple[nn.Module, Preprocessing]:
    import timm
    from timm.data import resolve_model_data_config

    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}; {_nearest_name(name, timm.list_models())}")
    options: dict[str, Any] = {} if n_classes is None else {"num_classes": n_classes}
    if size is not None and "vit" in name:  # the number of positions depends on it
        options["img_size"] = size
    net = _made(lambda: timm.create_model(name, pretrained=pretrained, **options), name, pretrained)
    data = resolve_model_data_config(net)
    side = int(data["input_size"][-1])
    how = Preprocessing(
        side,
        int(side / float(data.get("crop_pct") or 0.875)),
        tuple(data["mean"]),
        tuple(data["std"]),
        "bilinear" if data.get("interpolation") == "bilinear" else "bicubic",
    )
    return net, how


def _torchvision(
    name: str, pretrained: bool, n_classes: int | None, size: int | None
) -> tuple[nn.Module, Preprocessing]:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no classifier {name!r}; {_nearest_name(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    options: dict[str, Any] = {} if n_classes is None else {"num_classes": n_classes}
    if size is not None and name.startswith("vit"):
        options["image_size"] = size
    net = _made(lambda: models.get_model(name, weights=weights if pretrained else None, **options), name, pretrained)
    t = weights.transforms()
    how = Preprocessing(t.crop_size[0], t.resize_size[0], tuple(t.mean), tuple(t.std), t.interpolation.value)
    return net, how


def _made(make: Callable[[], nn.Module], name: str, pretrained: bool) -> nn.Module:
    """A library's network; a download that fails says what to do instead."""
    import warnings

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


def load_weights(net: nn.Module, path: Path, name: str) -> None:
    """Put a file's weights into a network. Raises UserError for what is absent, unreadable or of another network."""
    found = read_weights(path)
    wanted = net.state_dict()
    found = {k.removeprefix("module."): v for k, v in found.items()}
    missing = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    extra = [k for k in found if k not in wanted]
    wrong = [k for k in wanted if k in found and found[k].shape != wanted[k].shape]
    if wrong and not missing and not extra:
        k = wrong[0]
        shapes = f"{tuple(found[k].shape)} instead of {tuple(wanted[k].shape)}"
        raise UserError(f"{path} does not fit {name}: {k} is {shapes}; model.n_classes may differ")
    if missing or extra or wrong:
        clauses = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(extra)}"] * bool(extra)
        clauses += [f"has {_some(wrong)} in other shapes"] * bool(wrong)
        raise UserError(f"{path} holds the weights of another network than {name}: it {', '.join(clauses)}")
    bad = [k for k, v in found.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        raise UserError(f"{path} holds numbers that are not finite, in {_some(bad)}")
    net.load_state_dict(found, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a .pth file, which is read without running any code in it."""
    if not path.is_file():
        raise UserError(f"there is no file of weights at {path} (model.path: .safetensors, .pth or builtin:NAME)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise UserError(f"{path} holds more than weights, and is not opened; save its state_dict alone") from e
    except Exception as e:  # truncated, or no such file at all: safetensors and torch have their own errors for it
        raise UserError(f"{path} is not a readable file of weights: {' '.join(str(e).split())[:120]}") from e
    for key in ("state_dict", "model", "net"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} holds no state_dict (names with tensors)")
    return dict(found)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
