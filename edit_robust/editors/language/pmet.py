"""PMET (Li et al. 2024, arXiv 2308.08742): values of attention and MLP are optimised together, and the MLP is written.

The value is the MLP's own output and not the residual stream: what attention contributes to the target is learnt beside
it (`helpers/pair_values.py`) and left out of the weights. With m the MLP's output at the last edited layer,

    R = (z_mlp - m) / sqrt(layers still to come, this one included),     dW = R K^T (lambda C + K K^T)^-1

What lower layers write hardly moves m, so that the last layer closes most of the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Request
from edit_robust.editors.base import State
from edit_robust.editors.language.helpers.pair_values import optimise_pairs
from edit_robust.editors.language.helpers.values import Values, subject_rows
from edit_robust.editors.language.memit import Memit
from edit_robust.models.language.causal_lm import CausalLM


@dataclass(kw_only=True, eq=False, repr=False)
class Pmet(Memit):
    """Precise editing of several layers. The options are MEMIT's, with the published step and weights as defaults."""

    site: ClassVar[Literal["block", "mlp"]] = "mlp"

    name: str = "pmet"
    v_lr: float = 0.2
    v_num_grad_steps: int = 30
    kl_factor: float = 1.0
    mom2_update_weight: float = 6000.0

    def optimised(self, model: CausalLM, layer: str, requests: Sequence[Request], templates: Sequence[str]) -> Values:
        return optimise_pairs(model, layer, requests, templates, **self.optimisation)

    def residual(
        self, model: CausalLM, requests: Sequence[Request], targets: Float[Tensor, "n d"], state: State[Any], left: int
    ) -> Float[Tensor, "n d_out"]:
        name = state.layers[-1]
        keys = model.trace(*subject_rows(model, requests, ["{}"]), [name])[name]
        with torch.no_grad():
            now = model.layers[name].module(keys)
        return (targets.double() - now.to(targets.device).double()) / left**0.5
