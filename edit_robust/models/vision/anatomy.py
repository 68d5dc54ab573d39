"""Find the blocks of an image classifier by what they do, never by what the model is called.

One small forward pass tells the order in which modules run. A block is the smallest repeated unit with several
projections in it (a residual block, a transformer block, a fire module); its layer is the last projection that is no
shortcut. A network without such units (VGG) has one block a convolution: convolution, norm, activation and pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from edit_robust.core.editable import Layer
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.projections import is_projection, kind_of


@dataclass(frozen=True)
class Block:
    """A layer to edit, and the module at the end of its block, whose output is f_<=l."""

    layer: Layer
    end: nn.Module


@dataclass(frozen=True)
class Visit:
    """One call of a module: its name, and whether its input was the very tensor that its unit began with."""

    name: str
    module: nn.Module
    source: int


def visits(net: nn.Module, size: int) -> list[Visit]:
    """Calls of all modules in the order in which they begin, for one image of zeros."""
    found: list[Visit] = []
    names = {m: n for n, m in net.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        source = args[0].data_ptr() if args and isinstance(args[0], Tensor) else 0
        found.append(Visit(names[module], module, source))

    hooks = [m.register_forward_pre_hook(note) for m in names]
    p = next(net.parameters())
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, size, size, device=p.device, dtype=p.dtype))
    finally:
        for h in hooks:
            h.remove()
    return found


def find_blocks(net: nn.Module, order: Sequence[Visit], pattern: str = "auto") -> tuple[Block, ...]:
    """The blocks in the order in which they run. `pattern` picks layers by module name (`blocks.*.mlp.fc1`)."""
    called = {v.name: i for i, v in reversed(list(enumerate(order)))}
    projections = [v for i, v in enumerate(order) if is_projection(v.module) and called[v.name] == i]
    units = _units(net, projections)
    if pattern != "auto":
        chosen = [v for v in projections if fnmatchcase(v.name, pattern)]
        if not chosen:
            names = [v.name for v in projections]
            raise UserError(f"model.layers={pattern} matches no projection; {nearest(pattern, names, 'projections')}")
        pairs = [(v, _unit_of(v.name, units)) for v in chosen]
    elif len(units) >= 2:
        pairs = [(_last_of(u, projections, order, called), u) for u in units]
    else:
        pairs = [(v, None) for v in _chain(net, projections)]
    blocks = []
    for i, (visit, unit) in enumerate(pairs):
        end = net.get_submodule(unit) if unit else _end_of(net, visit, order, projections)
        blocks.append(Block(Layer(visit.name, i, kind_of(visit.module), visit.module), end))
    if not blocks:
        raise UserError("this network has no projection that could be edited")
    return tuple(blocks)


def _units(net: nn.Module, projections: Sequence[Visit]) -> list[str]:
    """Elements of lists that hold two or more projections, and no smaller such element; in the order they run."""
    found = []
    for name, module in net.named_modules():
        if not isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        for key, _ in module.named_children():
            path = f"{name}.{key}" if name else key
            if sum(v.name.startswith(f"{path}.") for v in projections) >= 2:
                found.append(path)
    inner = [u for u in found if not any(o.startswith(f"{u}.") for o in found)]
    first = {u: next(i for i, v in enumerate(projections) if v.name.startswith(f"{u}.")) for u in inner}
    return sorted(inner, key=first.__getitem__)


def _unit_of(name: str, units: Sequence[str]) -> str | None:
    return next((u for u in units if name.startswith(f"{u}.")), None)


def _last_of(unit: str, projections: Sequence[Visit], order: Sequence[Visit], called: dict[str, int]) -> Visit:
    """The last projection of a unit that does not stand on its shortcut."""
    inside = [v for v in projections if v.name.startswith(f"{unit}.")]
    begin = order[called[unit]].source if unit in called else 0
    main = [v for v in inside if not any(w in v.name for w in ("downsample", "shortcut")) and v.source != begin]
    return (main or inside)[-1]


def _chain(net: nn.Module, projections: Sequence[Visit]) -> list[Visit]:
    """Convolutions that stand directly in the list that holds the most of them. Where every list holds one at most:
    all convolutions, and all projections of a network that has one convolution or none."""
    convolutions = [v for v in projections if isinstance(v.module, nn.Conv2d)]
    parents: dict[str, list[Visit]] = {}
    for v in convolutions:
        parent = v.name.rpartition(".")[0]
        if isinstance(net.get_submodule(parent), nn.Sequential):
            parents.setdefault(parent, []).append(v)
    largest = max(parents.values(), key=len, default=[])
    return next((some for some in (largest, convolutions) if len(some) >= 2), list(projections))


def _end_of(net: nn.Module, visit: Visit, order: Sequence[Visit], projections: Sequence[Visit]) -> nn.Module:
    """The last sibling that runs before the next projection (of any kind) begins."""
    parent = visit.name.rpartition(".")[0]
    start = next(i for i, v in enumerate(order) if v.module is visit.module)
    rest = order[start + 1 :]
    after = next((i for i, v in enumerate(rest) if is_projection(v.module)), len(rest))
    siblings = [v for v in rest[:after] if v.name.rpartition(".")[0] == parent]
    return siblings[-1].module if siblings else visit.module
