"""Reading a checkpoint and its tokenizer from a folder or a hub. Every way in which that fails is one clear line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from edit_robust.core import UserError
from edit_robust.core.weights import check_weights


def load_pretrained(
    path: str, dtype: torch.dtype, device: torch.device, device_map: Any, revision: str | None, trust_remote_code: bool
) -> tuple[str, Any, Any]:
    """The folder or hub id that was read, the network in evaluation mode on its device, and its fast tokenizer.

    `path` is a folder, a hub id, or `builtin:NAME`. Raises UserError for files that are absent, damaged, or of
    something else.
    """
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source = source_of(path)
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    net = _weights(path, source, dtype, device, device_map, common)
    check_weights(net)  # before anything is moved: packed and offloaded weights cannot be
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **common)
    except (OSError, ValueError, KeyError, ImportError) as e:
        raise UserError(f"the tokenizer of {path} cannot be loaded: {' '.join(str(e).split())[:200]}") from e
    check_tokenizer(tokenizer, path)
    net.eval().requires_grad_(False)
    if device_map is None:
        net.to(device)
    return source, net, tokenizer


def source_of(path: str, option: str = "model.path") -> str:
    """The folder or hub id that a path means. UserError, naming the option, where it can be neither."""
    from edit_robust.assets import asset_dir

    source = str(asset_dir(path.removeprefix("builtin:"))) if path.startswith("builtin:") else path
    here = Path(source).expanduser()
    if here.exists():
        if not (here / "config.json").is_file():
            raise UserError(f"{option}={path} has no config.json: a folder in the Hugging Face format is needed")
        return str(here)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"{option}={path} does not exist")
    return source


def _weights(
    path: str, source: str, dtype: torch.dtype, device: torch.device, device_map: Any, common: dict[str, Any]
) -> Any:
    """The network with its weights, which must be those of its config."""
    import transformers
    from safetensors import SafetensorError

    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, device_map=device_map, output_loading_info=True, **common
        )
    except SafetensorError as e:
        raise UserError(f"the weights in {path} are truncated or damaged ({e})") from e
    except torch.cuda.OutOfMemoryError as e:
        raise UserError(f"{path} does not fit on {device}: try model.dtype=bfloat16 or model.device_map=auto") from e
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as e:
        first = " ".join(str(e).split())[:240]
        hint = "" if Path(source).exists() else "; with no connection to the hub, give model.path=FOLDER"
        raise UserError(f"the model {path} cannot be loaded: {first}{hint}") from e
    net, report = loaded
    missing = sorted(report.get("missing_keys", []))
    mismatched = report.get("mismatched_keys", [])
    if missing or mismatched:
        odd = missing[0] if missing else str(next(iter(mismatched)))
        raise UserError(
            f"the weights in {path} are not those of its config.json: "
            f"{len(missing) + len(mismatched)} tensors do not fit, first {odd}"
        )
    return net


def check_tokenizer(tokenizer: Any, path: str) -> None:
    """UserError unless a tokenizer tells which characters each token covers, and knows some tokens."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{path} has no fast tokenizer (tokenizer.json), which is needed to find subjects in prompts")
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # made up from the config, without a vocabulary
        raise UserError(f"{path} has no tokenizer: a tokenizer.json is needed beside the weights")
