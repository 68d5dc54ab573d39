"""Weights that were made elsewhere, matched with a network's own by name: nothing of them is run."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edit_robust.core.errors import UserError

ADAPTER = "adapter_config.json"
#: What wrappers put before the names of the network that they wrap.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
log = logging.getLogger(__name__)


def matched(net: nn.Module, found: Mapping[str, Tensor], path: str, name: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names that a network has for its parameters and floating-point buffers.

    Prefixes of wrappers are taken away; of tied parameters one will do, and integer buffers do not count. UserError,
    naming the first difference, for what is missing, more, of another shape, packed, or not finite.
    """
    own = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.state_dict(keep_vars=True))}
    own = {k: v for k, v in own.items() if v.is_floating_point()}
    theirs = _renamed(own, found, getattr(net, "base_model_prefix", ""))
    tied: dict[int, list[str]] = {}
    for k, v in own.items():
        tied.setdefault(id(v), []).append(k)
    for k, v in own.items():
        given = next((n for n in tied[id(v)] if n in theirs), None)
        if given is None:
            more = _unknown(own, theirs, net)
            also = f", and holds {more[0]}, which {name} has not" if more else ""
            raise UserError(f"{path} is no checkpoint of {name}: it has no {k}{also}")
        theirs.setdefault(k, theirs[given])
    if more := _unknown(own, theirs, net):
        raise UserError(f"{path} is no checkpoint of {name}: it holds {more[0]}, which {name} has not")
    for k, v in own.items():
        x = theirs[k]
        if not x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {k} holds {kind}, packed numbers; save the model with its weights unpacked")
        if x.shape != v.shape and not (x.numel() == v.numel() == 1):
            raise UserError(
                f"{path} is no checkpoint of {name}: {k} is {tuple(x.shape)} there and {tuple(v.shape)} here"
            )
        if not bool(torch.isfinite(x).all()):
            raise UserError(f"{path}: {k} holds numbers that are not finite")
    return {k: theirs[k].reshape(v.shape) for k, v in own.items()}


def _renamed(own: Mapping[str, Tensor], found: Mapping[str, Tensor], base: str) -> dict[str, Tensor]:
    """The checkpoint under the names that fit the most of the network's own."""
    kinds = [dict(found)]
    for prefix in (*PREFIXES, f"{base}."):
        kinds.append({k.removeprefix(prefix): v for k, v in found.items()})
    if base:  # a file of the network without its head
        kinds.append({k if k in own else f"{base}.{k}": v for k, v in found.items()})
    return max(kinds, key=lambda names: len(own.keys() & names.keys()))


def _unknown(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], net: nn.Module) -> list[str]:
    """Tensors that the network has no place for; masks that transformers once kept do not count."""
    kept = set(net.state_dict())
    return [k for k in theirs if k not in own and k not in kept and not k.endswith(("inv_freq", ".attn.masked_bias"))]


def is_adapter(path: str) -> bool:
    """Whether a folder holds an adapter of peft."""
    return (Path(path).expanduser() / ADAPTER).is_file()


def merged_adapter(net: nn.Module, path: str, name: str) -> dict[str, Tensor]:
    """The network's weights with an adapter of peft merged into them; the network itself is left alone.

    UserError where peft is not installed, and where the adapter does not fit.
    """
    try:
        from peft import PeftModel
    except ImportError as e:
        raise UserError(f"{path} is an adapter, which needs peft: pip install 'edit-robust[lora]'") from e
    other = copy.deepcopy(net)
    before = [k for k, _ in net.named_parameters()]
    try:
        made = PeftModel.from_pretrained(other, str(Path(path).expanduser()), torch_device="cpu")
        whole = made.merge_and_unload()
    except Exception as e:  # peft has many errors for adapters of other models
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"{path} is an adapter that does not fit {name}: {reason}") from e
    return matched(net, {k: v for k, v in whole.state_dict().items() if k in before or "lora" not in k}, path, name)


def tensors_of(path: str, files: Sequence[str], what: str) -> Path:
    """The file of weights that a path means: itself, or the first of `files` in a folder. UserError where none is."""
    here = Path(path).expanduser()
    if here.is_file():
        return here
    if not here.exists():
        raise UserError(f"editor.path={path} does not exist")
    found = next((here / name for name in files if (here / name).is_file()), None)
    if found is None:
        raise UserError(f"editor.path={path} holds no {what} ({', '.join(files[:3])}, ...)")
    return found


def config_in(path: str) -> dict[str, object]:
    """config.json of a folder; {} without one."""
    file = Path(path).expanduser() / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as e:
        raise UserError(f"{file} is no readable json: {str(e)[:80]}") from e
    return dict(found) if isinstance(found, dict) else {}


@torch.no_grad()
def statistics_as_affine(net: nn.Module, values: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """A checkpoint's values with the running statistics of batch norms told as changes of their weights and biases.

    With the network's own mean m and deviation s, and the checkpoint's mean m', deviation s', weight w' and bias b':
    w = w' s / s' and b = b' + (m - m') w' / s' compute the same from m and s. Statistics are no parameters, so that no
    change of them can be walked. UserError for a norm without weight and bias whose statistics differ.
    """
    told = 0
    for name, module in net.named_modules():
        if getattr(module, "running_mean", None) is None or not hasattr(module, "running_var"):
            continue
        at = {k: f"{name}.{k}" if name else k for k in ("running_mean", "running_var", "weight", "bias")}
        mean, var = (getattr(module, k).double().cpu() for k in ("running_mean", "running_var"))
        new_mean, new_var = values[at["running_mean"]].double(), values[at["running_var"]].double()
        if torch.equal(mean, new_mean) and torch.equal(var, new_var):
            continue
        if at["weight"] not in values:
            raise UserError(f"{path}: the running statistics of {name} differ, and it has no weight that could tell it")
        eps = float(getattr(module, "eps", 1e-5))
        old, new = (var + eps).sqrt(), (new_var + eps).sqrt()
        w, b = values[at["weight"]].double(), values[at["bias"]].double()
        values[at["weight"]] = (w * old / new).float()
        values[at["bias"]] = (b + (mean - new_mean) * w / new).float()
        told += 1
    if told:
        log.warning("%s: the running statistics of %d batch norms differ; they are told as changes of the norms' "
                    "weights and biases, which comes to the same", path, told)  # fmt: skip
    return values
