"""A change of low rank as a LoRA adapter that peft loads onto the unedited model.

peft adds (lora_alpha / r) B A to a weight, with B [d_out, r] and A [r, d_in]. With lora_alpha = r the factor is 1, and
a change u v^T is B = u, A = v^T to the bit. Ranks may differ by layer. A change of a layer's bias is the bias of B.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edit_robust.core import LowRank, UserError
from edit_robust.core.delta import Term
from edit_robust.core.projections import is_conv1d, is_projection
from edit_robust.exports.edited import Edited
from edit_robust.models.base import Model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: Numbers of a layer's adapter file, by their place in it.
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """What an adapter adds to one module: u v^T to its weight, and something to its bias where that changes, too."""

    module: nn.Module
    weight: LowRank
    bias: Tensor | None

    @property
    def rank(self) -> int:
        return self.weight.rank

    def tensors(self, with_bias: bool) -> Tensors:
        """A and B as peft keeps them; of a convolution A has the kernel's shape and B is 1 x 1."""
        a, b = self.weight.v.T, self.weight.u
        if isinstance(self.module, nn.Conv2d):
            inner, (h, w) = self.module.in_channels, self.module.kernel_size
            a, b = a.reshape(self.rank, inner, h, w), b[:, :, None, None]
        found = {"lora_A.weight": a.contiguous(), "lora_B.weight": b.contiguous()}
        if with_bias:
            found["lora_B.bias"] = torch.zeros(b.shape[0]) if self.bias is None else self.bias.reshape(-1)
        return {k: v.detach().float().cpu().clone() for k, v in found.items()}


def lacks(model: Model) -> str:
    """Nothing: whether a change is one that an adapter can hold is seen when it is written."""
    return ""


def write(edited: Edited, folder: Path, rank: int | None) -> str:
    """Write the adapter. rank: cut every change of a matrix down to this rank; None: leave it, and refuse dense ones.

    -> how it is loaded, and what was cut. UserError for a change that no adapter can hold.
    """
    change = edited.change
    if not change.terms:
        raise UserError("there is nothing to write: no weight has changed")
    terms, lost = _factors(change.terms, rank)
    parts = {name: _part(edited.model, name, terms) for name in _modules(edited.model, terms)}
    with_bias = any(p.bias is not None for p in parts.values())
    folder.joinpath(CONFIG).write_text(json.dumps(_config(edited, parts, with_bias), indent=2) + "\n", encoding="utf-8")
    tensors = {
        f"base_model.model.{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.tensors(with_bias).items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    how = """from peft import PeftModel

# base_model: the unedited model, as its library loads it
model = PeftModel.from_pretrained(base_model, "FOLDER").eval()
model = model.merge_and_unload()  # or leave the adapter beside the weights"""
    return f"{how}\n{lost}" if lost else how


def _factors(terms: Mapping[str, Term], rank: int | None) -> tuple[dict[str, Term], str]:
    """Every matrix's change as factors, and how much was cut, as comments for the card; biases as they are."""
    found: dict[str, Term] = {}
    cut, whole, lines = 0.0, 0.0, []
    for name, term in terms.items():
        bias = term.shape[1] == 1
        if bias or (rank is None and isinstance(term, LowRank)):
            found[name] = term
            continue
        if rank is None:
            raise UserError(
                f"the change of {name} is a whole matrix, and an adapter holds changes of low rank: give --rank R for "
                "the nearest one of that rank, or --to hf"
            )
        near = term.truncate(min(rank, *term.shape))
        found[name] = near
        size, missing = term.norm() ** 2, max(term.norm() ** 2 - near.norm() ** 2, 0.0)
        cut, whole = cut + missing, whole + size
        lines.append(f"# {name}: relative error {(missing / size) ** 0.5:.3g}")
    if not whole:
        return found, ""
    return found, "\n".join([f"# cut to rank {rank}: relative error of the change {(cut / whole) ** 0.5:.3g}", *lines])


def _modules(model: Model, terms: Mapping[str, Term]) -> list[str]:
    """The modules that own the changed parameters. UserError for a parameter beside which no adapter can stand."""
    found: dict[str, None] = {}
    for name in terms:
        owner, _, own = name.rpartition(".")
        module = model.net.get_submodule(owner)
        if own not in ("weight", "bias") or not is_projection(module):
            raise UserError(
                f"{name} has changed, which is neither the weight nor the bias of a projection: an adapter cannot "
                "hold that; --to safetensors keeps any change"
            )
        found[owner] = None
    return list(found)


def _part(model: Model, name: str, terms: Mapping[str, Term]) -> Part:
    module = model.net.get_submodule(name)
    weight, bias = terms.get(f"{name}.weight"), terms.get(f"{name}.bias")
    if weight is None:  # the bias alone has changed
        d_out, d_in = model.matrix(f"{name}.weight").shape
        weight = LowRank(torch.zeros(d_out, 1), torch.zeros(d_in, 1))
    assert isinstance(weight, LowRank)
    return Part(module, weight, None if bias is None else bias.dense())


def _config(edited: Edited, parts: Mapping[str, Part], with_bias: bool) -> dict[str, Any]:
    """adapter_config.json. The modules are named by one pattern: as a list peft would take every name that ends so."""
    largest = max(p.rank for p in parts.values())
    others = {f"^{re.escape(name)}": p.rank for name, p in parts.items() if p.rank != largest}
    text = hasattr(edited.model, "text") and hasattr(edited.model.net, "save_pretrained")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if text else None,
        "base_model_name_or_path": str(edited.config.get("path") or edited.config.get("name") or "") or None,
        "target_modules": "|".join(re.escape(name) for name in parts),
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": with_bias,
        "fan_in_fan_out": all(is_conv1d(p.module) for p in parts.values()),
        "use_rslora": False,
        "inference_mode": True,
    }
