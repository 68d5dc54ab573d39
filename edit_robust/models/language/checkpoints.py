"""Language models that were edited, fine-tuned, merged or quantised elsewhere: their weights under our names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edit_robust.core.errors import UserError
from edit_robust.models.checkpoints import config_in, is_adapter, matched, merged_adapter
from edit_robust.models.language.loading import source_of


def weights_in(net: nn.Module, path: str, name: str) -> dict[str, Tensor]:
    """Every parameter's value in a checkpoint, on the CPU, in the type in which it is stored.

    path: a folder in the Hugging Face format, a hub id, `builtin:NAME`, a file of weights (.safetensors, .bin, .pth),
    or an adapter of peft, which is merged into the network's present weights. Raises UserError with the first
    difference for a checkpoint of another network.
    """
    if is_adapter(path):
        return _parameters(net, merged_adapter(net, path, name))
    if Path(path).expanduser().is_file():
        return _parameters(net, matched(net, _file(Path(path).expanduser()), path, name))
    source = source_of(path, "editor.path")
    about = config_in(source)
    mine = getattr(getattr(net, "config", None), "model_type", None)
    if mine and about.get("model_type") and about["model_type"] != mine:
        raise UserError(f"{path} is a model of another architecture: {about['model_type']}, and {name} is {mine}")
    if about.get("quantization_config"):
        raise UserError(
            f"{path} has packed weights; save it unpacked (model.dequantize().save_pretrained(FOLDER)) and give that"
        )
    return _parameters(net, matched(net, _loaded(path, source), path, name))


def _parameters(net: nn.Module, found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: found[k].detach().cpu() for k, _ in net.named_parameters()}


def _file(path: Path) -> dict[str, Tensor]:
    """Tensors of a file, read without running any code in it."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as e:
        raise UserError(f"{path} is not a readable file of weights: {' '.join(str(e).split())[:120]}") from e
    except Exception as e:  # torch's unpickler refuses what is no tensor
        raise UserError(f"{path} holds more than weights, and is not opened; save its state_dict alone") from e
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} holds no state_dict (names with tensors)")
    return found


def _loaded(path: str, source: str) -> dict[str, Tensor]:
    """The weights of a folder or hub id, under the names that transformers gives them."""
    import transformers
    from safetensors import SafetensorError

    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, ImportError) as e:
        raise UserError(f"{path} cannot be loaded: {' '.join(str(e).split())[:240]}") from e
    net, report = loaded
    for key, what in (("missing_keys", "lacks"), ("unexpected_keys", "has more than its config.json says:")):
        if odd := sorted(report.get(key, [])):
            raise UserError(f"{path} {what} {odd[0]}")
    if odd := [str(x) for x in report.get("mismatched_keys", [])]:
        raise UserError(f"{path}: the weights are not those of its config.json: {odd[0]}")
    return dict(net.state_dict())
