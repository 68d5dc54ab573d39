"""Which parameters a part of a network depends on, by dependence and not by who owns them.

One forward pass of one image records autograd's graph. Every operation in it carries a number that grows with time, and
the number at which each module's call begins is noted, so that the graph tells for every parameter in which operations
it is used, and when. This finds class tokens, position embeddings, parameters that a module's own code multiplies with,
and `out_proj` of nn.MultiheadAttention, whose module is never called. No gradient is computed.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from edit_robust.models.vision.anatomy import Visit

log = logging.getLogger(__name__)


class UntraceableError(Exception):
    """The network's forward pass leaves no graph from which the uses of its parameters could be read."""


class ParameterUses:
    """The uses of a network's parameters in one forward pass.

    order: the calls of all modules in the order in which they begin (`anatomy.visits`).
    sample: one normalised image [1, 3, h, w].   Raises UntraceableError for a network that leaves no graph.
    """

    def __init__(self, net: nn.Module, order: Sequence[Visit], sample: Tensor) -> None:
        self._names: dict[Tensor, str] = {p: n for n, p in net.named_parameters()}
        self._begins: list[int] = []  # of every call: the number of the next operation
        self._results: dict[nn.Module, list[Node]] = {}  # of every module: the operations that gave its last output
        clock = torch.zeros((), requires_grad=True)

        def begin(m: nn.Module, args: Any) -> None:
            self._begins.append(_number(clock.neg().grad_fn))

        def end(m: nn.Module, args: Any, out: Any) -> None:
            self._results[m] = _nodes(out)

        hooks = [h for m in net.modules() for h in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))]
        try:
            with _trainable(self._names), torch.enable_grad():
                self._output = _nodes(net(sample))
        finally:
            for h in hooks:
                h.remove()
        if not self._output or len(self._begins) != len(order):
            raise UntraceableError

    def of(self, start: int = 0, end: nn.Module | None = None) -> set[str]:
        """Names of the parameters used from the beginning of call `start` on in what leads to the output of `end`.

        start: an index of `order`.   end: None stands for the network's output.
        """
        first = self._begins[start]
        nodes = self._output if end is None else self._results.get(end, [])
        return {name for name, number in self._walk(nodes) if number > first}

    def calls(self) -> dict[str, set[int]]:
        """For every parameter that the output depends on: the calls (indices of `order`) that begin last before it is
        used."""
        found: dict[str, set[int]] = {}
        for name, number in self._walk(self._output):
            found.setdefault(name, set()).add(bisect_right(self._begins, number) - 1)
        return found

    def _walk(self, nodes: Sequence[Node]) -> Iterator[tuple[str, int]]:
        """Every use that leads to the given operations: the parameter's name, the number of the operation."""
        waiting, known = list(nodes), set(nodes)
        while waiting:
            node = waiting.pop()
            for source, _ in node.next_functions:
                if source is None:
                    continue
                variable = getattr(source, "variable", None)
                if variable is not None:
                    if variable in self._names:
                        yield self._names[variable], _number(node)
                elif source not in known:
                    known.add(source)
                    waiting.append(source)


def uses_of(net: nn.Module, order: Sequence[Visit], sample: Tensor, name: str) -> ParameterUses | None:
    """The uses of a network's parameters; None, with a warning, where they cannot be traced."""
    try:
        return ParameterUses(net, order, sample)
    except Exception as e:  # whatever a network's own code may raise when gradients are on
        log.warning(
            "the uses of the parameters of %s cannot be traced (%s); parameters go by the modules that are called",
            name,
            type(e).__name__,
        )
        return None


def owners(net: nn.Module, called: Sequence[str]) -> dict[str, str]:
    """For every parameter, in the order of `named_parameters`: the innermost module around it that is called."""
    return {name: _owner(name, {*called, ""}) for name, _ in net.named_parameters()}


def _owner(parameter: str, called: set[str]) -> str:
    owner = parameter.rpartition(".")[0]
    while owner not in called:
        owner = owner.rpartition(".")[0]
    return owner


def aliases(net: nn.Module) -> dict[str, str]:
    """Every name of every parameter -> the name it has in `named_parameters`: tied parameters have several."""
    first = {p: n for n, p in net.named_parameters()}
    return {n: first[p] for n, p in net.named_parameters(remove_duplicate=False)}


@contextmanager
def _trainable(parameters: dict[Tensor, str]) -> Iterator[None]:
    """Inside the block all parameters of a real type require gradients; afterwards they are as before."""
    before = {p: p.requires_grad for p in parameters}
    try:
        for p in parameters:
            if p.is_floating_point():
                p.requires_grad_(True)
        yield
    finally:
        for p, required in before.items():
            p.requires_grad_(required)


def _nodes(out: Any) -> list[Node]:
    """The operations that gave a call's outputs."""
    return [t.grad_fn for t in tree_leaves(out) if isinstance(t, Tensor) and t.grad_fn is not None]


def _number(node: Node | None) -> int:
    """An operation's place in time."""
    assert node is not None
    return int(node._sequence_nr())  # type: ignore[attr-defined]
