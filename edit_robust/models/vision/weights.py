"""Weights of image classifiers from files, read without running any code in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edit_robust.core import UserError


def load_weights(net: nn.Module, path: Path, name: str) -> None:
    """Put a file's weights into a network. Raises UserError for what is absent, unreadable or of another network."""
    put_weights(net, {k.removeprefix("module."): v for k, v in read_weights(path).items()}, path, name)


def put_weights(net: nn.Module, found: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Put tensors into a network. Raises UserError, naming `path`, where they are another network's or not finite."""
    wanted = net.state_dict()
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
