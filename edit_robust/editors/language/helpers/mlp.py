"""All projections of a block's MLP, found beside its down-projection by what they give, never by their names."""

from __future__ import annotations

from edit_robust.core.editable import Layer
from edit_robust.core.projections import is_projection, kind_of
from edit_robust.models.language.causal_lm import CausalLM


def mlp_projections(model: CausalLM, layer: str) -> tuple[list[Layer], Layer]:
    """The projections that feed the down-projection `layer`, in the order in which their module holds them, and it.

    They lie in the same module and give as many values as the down-projection takes, or a multiple of it: one in GPT-2
    and GPT-J, a gate and an up-projection in Llama, both in one matrix in Phi-3.
    """
    down = model.layers[layer]
    parent_name = layer.rpartition(".")[0]
    parent = model.net.get_submodule(parent_name) if parent_name else model.net
    found = []
    for child, module in parent.named_children():
        if module is down.module or not is_projection(module):
            continue
        name = f"{parent_name}.{child}" if parent_name else child
        candidate = Layer(name, down.index, kind_of(module), module)
        d_out, d_in = candidate.shape
        if d_in == down.shape[0] and d_out % down.shape[1] == 0:
            found.append(candidate)
    return found, down
