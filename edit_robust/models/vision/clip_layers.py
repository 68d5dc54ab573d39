"""The layers of a CLIP's image tower by name: projections that are modules, fused ones, bare parameters, whole blocks.

`nn.MultiheadAttention` keeps three projections in one parameter (`in_proj_weight`) and never calls its `out_proj`; the
last projection of the tower is a bare parameter (`visual.proj`), and so are the embeddings. A hook sees none of these.
They are layers here like the others: changes are written into the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from edit_robust.core.editable import Layer
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.projections import Orientation, is_projection, kind_of
from edit_robust.models.vision.anatomy import Block, Visit, find_blocks

FUSED = "in_proj"  # what the three projections of nn.MultiheadAttention are called together
BLOCK, EMBEDDINGS = "block", "embeddings"  # words for patterns
_EMBEDDINGS = ("class_embedding", "positional_embedding")


@dataclass(frozen=True)
class Part(Layer):
    """A layer that is no projection which the network calls.

    parameters: their names, the weight first.   host: the called module from which the network must run again when
    they change.   single: whether the parameters are one weight, and its bias.   transposed: stored as [d_in, d_out].
    """

    parameters: tuple[str, ...] = ()
    host: str = ""
    single: bool = True
    transposed: bool = False

    @property
    def weight_name(self) -> str:
        """The weight's name. UserError for a layer of several weights, such as a block."""
        if not self.single:
            raise UserError(f"{self.name} has {len(self.parameters)} parameters: it is no single matrix")
        return self.parameters[0]

    @property
    def bias_name(self) -> str | None:
        return self.parameters[1] if self.single and len(self.parameters) > 1 else None

    @property
    def weight(self) -> torch.Tensor:
        return self.module.get_parameter(self.weight_name.rpartition(".")[2])

    @property
    def _orientation(self) -> Orientation:
        return "inputs-first" if self.transposed else "outputs-first"


def clip_blocks(
    net: nn.Module, order: Sequence[Visit], uses: Mapping[str, set[int]], pattern: str, transposed: frozenset[str]
) -> tuple[Block, ...]:
    """The layers that a pattern names, in the order in which they act, each with the end of its block.

    pattern: a name, or the end of one, with wildcards: mlp.c_proj, attn.in_proj, attn.*, visual.proj, *.0.mlp; `block`:
        whole blocks; `embeddings`: class token and positions; several with commas. `auto`: the last projection of every
        block (mlp.c_proj). Of matches inside each other the outermost counts.
    uses: of every parameter, the calls (indices of `order`) that begin last before it is used.
    Raises UserError where nothing matches.
    """
    automatic = find_blocks(net, order)
    units = _units(net, automatic)
    if pattern == "auto":
        return automatic
    known = dict(_candidates(net, units))
    wanted = [p.strip() for p in pattern.split(",")]
    for p in wanted:
        if not any(_fits(name, p, units) for name in known):
            shown = sorted({_short(name, units) for name in known})
            raise UserError(f"model.layers={p} matches nothing in the image tower; {nearest(p, shown, 'layers')}")
    found = [name for name in known if any(_fits(name, p, units) for p in wanted)]
    found = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    first = {name: min(min(uses[p]) for p in known[name]) for name in found if all(p in uses for p in known[name])}
    if unused := [name for name in found if name not in first]:
        raise UserError(f"{unused[0]} has no part in what the image tower gives: it cannot be edited")
    called = {v.name: i for i, v in reversed(list(enumerate(order)))}
    blocks = []
    for i, name in enumerate(sorted(found, key=lambda n: (first[n], called.get(n, 0)))):
        layer = _layer(net, name, i, known[name], order[first[name]].name, called, transposed)
        blocks.append(Block(layer, _end(net, name, order, max(max(uses[p]) for p in known[name]), units, called)))
    return tuple(blocks)


def _candidates(net: nn.Module, units: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every layer of the tower that a name can mean: its name, and the names of its parameters."""
    for name, module in net.named_modules():
        if not name.startswith("visual.") and name != "visual":
            continue
        own = {n: f"{name}.{n}" for n, _ in module.named_parameters(recurse=False)}
        if name != "visual":
            inside = tuple(f"{name}.{n}" for n, _ in module.named_parameters())
            if inside:
                yield name, inside
        if "in_proj_weight" in own:
            yield f"{name}.{FUSED}", tuple(own[n] for n in ("in_proj_weight", "in_proj_bias") if n in own)
        embeddings = tuple(own[n] for n in _EMBEDDINGS if n in own)
        if embeddings and name == "visual":
            yield f"{name}.{EMBEDDINGS}", embeddings
        for n, full in own.items():
            if n not in ("weight", "bias", "in_proj_weight", "in_proj_bias"):
                yield full, (full,)


def _units(net: nn.Module, automatic: Sequence[Block]) -> tuple[str, ...]:
    """Names of the blocks."""
    ends = {b.end for b in automatic}
    return tuple(n for n, m in net.named_modules() if m in ends)


def _fits(name: str, pattern: str, units: Sequence[str]) -> bool:
    if pattern == BLOCK:
        return name in units
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _short(name: str, units: Sequence[str]) -> str:
    """A layer's name without its block's."""
    inside = next((u for u in units if name.startswith(f"{u}.")), None)
    return BLOCK if name in units else name if inside is None else name.removeprefix(f"{inside}.")


def _layer(
    net: nn.Module, name: str, index: int, parameters: tuple[str, ...], host: str, called: Mapping[str, int],
    transposed: frozenset[str],
) -> Layer:  # fmt: skip
    owner = net.get_submodule(parameters[0].rpartition(".")[0])
    if name in called and is_projection(owner) and len({p.rpartition(".")[0] for p in parameters}) == 1:
        return Layer(name, index, kind_of(owner), owner)
    owners = {p.rpartition(".")[0] for p in parameters}
    single = len(owners) == 1 and len(parameters) <= 2 and not name.endswith(f".{EMBEDDINGS}")
    return Part(name, index, "linear", owner, parameters, host, single, parameters[0] in transposed)


def _end(
    net: nn.Module, name: str, order: Sequence[Visit], last: int, units: Sequence[str], called: Mapping[str, int]
) -> nn.Module:
    """The module whose output is the first that a layer's block gives: the block, the layer itself where it is called,
    else what is called next; behind the last projection the tower."""
    unit = next((u for u in units if name == u or name.startswith(f"{u}.")), None)
    if unit is not None:
        return net.get_submodule(unit)
    if name in called:
        return net.get_submodule(name)
    return order[last + 1].module if last + 1 < len(order) else net.get_submodule("visual")
