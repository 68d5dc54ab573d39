"""Parts of a block or of a tower by name: which parameters `editor.part` means."""

from __future__ import annotations

from fnmatch import fnmatchcase

from edit_robust.core import UserError, nearest
from edit_robust.editors.vision.helpers.heads import tower_parameters
from edit_robust.models.vision.classifier import Classifier


def parameters_of_part(model: Classifier, layer: str, part: str) -> list[str]:
    """The parameters that a part means at a layer.

    part: `layer`: weight and bias of the block's layer (`model.layers`).   `block`: all parameters of the block, its
    norms included.   Else the name of a module or parameter, or a pattern: looked for in the block (mlp.c_fc,
    attn.in_proj, attn.*), and where it holds none in the whole tower (conv1, visual.proj, *positional_embedding).
    UserError for one that neither of them has.
    """
    if part == "layer":
        return model.parameter_names([layer])
    tower = tower_parameters(model)
    prefix = f"{block_name(model, layer)}."
    inside = [n for n in tower if n.startswith(prefix)]
    if part == "block":
        return inside
    found = [n for n in inside if _is_part(n.removeprefix(prefix), part)]
    found = found or [n for n in tower if _is_part(n, part)]
    if not found:
        known = sorted({p for n in inside for p in _names_of(n.removeprefix(prefix))})
        raise UserError(f"editor.part={part} is no part of {model.name}; {nearest(part, known, 'parts')}")
    return found


def block_name(model: Classifier, layer: str) -> str:
    """The name of the module that is a layer's block: the one at whose end the block's output is, where the layer lies
    in it; else the layer's own name, as of a VGG block, which is no module."""
    end = model.block_of(layer).end
    names = [n for n, m in model.net.named_modules() if m is end and layer.startswith(f"{n}.")]
    return names[0] if names else layer


def _names_of(parameter: str) -> list[str]:
    """What a parameter can be called: its own name, and those of the modules that it lies in; `in_proj` for the
    projections of nn.MultiheadAttention, whose weight is `in_proj_weight`."""
    pieces = parameter.split(".")
    found = [".".join(pieces[: i + 1]) for i in range(len(pieces))]
    return found + [found[-1].removesuffix(end) for end in ("_weight", "_bias") if found[-1].endswith(end)]


def _is_part(parameter: str, pattern: str) -> bool:
    """Whether a parameter, or a module that it lies in, has a name that fits the pattern."""
    return any(fnmatchcase(name, pattern) for name in _names_of(parameter))
