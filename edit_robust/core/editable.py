"""A model whose weights can be changed and put back exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edit_robust.core.delta import Delta, Dense
from edit_robust.core.errors import UserError

Kind = Literal["linear", "conv1d", "conv2d"]


@dataclass(frozen=True)
class Layer:
    """One editable projection.

    name:  path of the module in the network, e.g. `transformer.h.5.mlp.c_proj`.
    index: its place in the network, counted from 0.
    kind:  how its weight is stored: linear (d_out, d_in), conv1d (d_in, d_out), conv2d (c_out, c_in, kh, kw).
    Matrices are (d_out, d_in) everywhere else; the orientation is known here and guessed nowhere.
    """

    name: str
    index: int
    kind: Kind
    module: nn.Module

    @property
    def weight_name(self) -> str:
        return f"{self.name}.weight"

    @property
    def bias_name(self) -> str | None:
        return f"{self.name}.bias" if getattr(self.module, "bias", None) is not None else None

    @property
    def weight(self) -> Tensor:
        return self.module.get_parameter("weight")

    def matrix(self, w: Tensor | None = None) -> Float[Tensor, "d_out d_in"]:
        """A view of the weight (or of a tensor stored like it) as [d_out, d_in]."""
        w = self.weight.detach() if w is None else w
        if self.kind == "conv1d":
            return w.T
        return w.reshape(w.shape[0], -1) if self.kind == "conv2d" else w

    def native(self, m: Float[Tensor, "d_out d_in"]) -> Tensor:
        """A [d_out, d_in] matrix in the weight's own orientation and shape."""
        return (m.T if self.kind == "conv1d" else m).reshape(self.weight.shape)

    @property
    def shape(self) -> tuple[int, int]:
        d_out, d_in = self.matrix().shape
        return d_out, d_in


class Editable:
    """Weights that trajectories walk through. Subclasses set `net` and `layers`, and answer questions.

    `base` fingerprints the unedited weights; `position` is the base followed by a hash of every change added
    since, so that two models at the same position hold the same bits.
    """

    net: nn.Module
    layers: Mapping[str, Layer]
    asks: ClassVar[str] = "text"  # what questions are made of: text or images

    def __init__(self, net: nn.Module, layers: Mapping[str, Layer]) -> None:
        self.net, self.layers = net, layers
        self._owner = {layer.weight_name: layer for layer in layers.values()}
        self.base = self.position = fingerprint(net, layers)

    def param(self, name: str) -> nn.Parameter:
        try:
            return self.net.get_parameter(name)
        except AttributeError as e:
            raise UserError(f"this model has no parameter {name!r}: the change was made for another model") from e

    def matrix(self, name: str) -> Float[Tensor, "d_out d_in"]:
        """A parameter as [d_out, d_in], sharing memory; a bias as [d_out, 1]."""
        p = self.param(name).detach()
        if name in self._owner:
            return self._owner[name].matrix(p)
        return p.reshape(p.shape[0], -1)

    def add(self, delta: Delta) -> None:
        """W <- W + delta, in float32 arithmetic rounded once to the parameter's type; moves `position`."""
        with torch.no_grad():
            for name, term in delta.terms.items():
                w = self.matrix(name)
                if tuple(w.shape) != term.shape:
                    raise UserError(f"the change of {name} is {term.shape}, the parameter is {tuple(w.shape)}")
                change = term.dense().to(w.device)
                w.add_(change) if w.dtype == change.dtype else w.copy_(w.to(change.dtype).add_(change))
        self.position = _step(self.position, delta.digest())

    def parameter_names(self, layers: Iterable[str]) -> list[str]:
        """Weight and bias names of some layers."""
        names: list[str] = []
        for key in layers:
            layer = self.layers[key]
            names += [layer.weight_name] + ([layer.bias_name] if layer.bias_name else [])
        return names

    def snapshot(self, names: Iterable[str]) -> Snapshot:
        """Copies of some parameters, to be put back bit for bit."""
        return Snapshot({n: self.param(n).detach().clone() for n in names}, self.position)

    def difference(self, before: Snapshot) -> Delta:
        """What has changed since a snapshot, as dense float32 matrices."""
        terms = {}
        for name, old in before.values.items():
            owner = self._owner.get(name)
            new = self.matrix(name)
            was = owner.matrix(old) if owner else old.reshape(new.shape)
            terms[name] = Dense((new.float() - was.float()).contiguous())
        return Delta(terms, before.position)

    def restore(self, snapshot: Snapshot) -> None:
        with torch.no_grad():
            for name, value in snapshot.values.items():
                self.param(name).copy_(value)
        self.position = snapshot.position

    @contextmanager
    def patched(self, delta: Delta) -> Iterator[None]:
        """Inside the block the model carries the change; afterwards it is as before, to the bit."""
        before = self.snapshot(delta.terms)
        try:
            self.add(delta)
            yield
        finally:
            self.restore(before)

    @contextmanager
    def held(self, names: Iterable[str]) -> Iterator[Snapshot]:
        """Inside the block the parameters may be changed at will; afterwards they are as before, to the bit."""
        before = self.snapshot(names)
        try:
            yield before
        finally:
            self.restore(before)

    @contextmanager
    def scratch(self, names: Iterable[str]) -> Iterator[Scratch]:
        """Inside the block the named parameters may be trained; `.diff()` is the change; exact restore after."""
        names = list(names)
        before = self.snapshot(names)
        try:
            for n in names:
                self.param(n).requires_grad_(True)
            yield Scratch(self, before)
        finally:
            for n in names:
                p = self.param(n)
                p.requires_grad_(False)
                p.grad = None
            self.restore(before)


@dataclass(frozen=True)
class Snapshot:
    values: Mapping[str, Tensor]
    position: str


@dataclass(frozen=True)
class Scratch:
    model: Editable
    before: Snapshot

    def diff(self) -> Delta:
        """What training has changed so far."""
        return self.model.difference(self.before)


def fingerprint(net: nn.Module, layers: Mapping[str, Layer]) -> str:
    """Hash of names, shapes, types and values of all weights; of large ones 65536 evenly spaced values.

    A changed checkpoint is told apart without reading six billion parameters through a cryptographic hash.
    """
    h = hashlib.sha256()
    for name, p in net.named_parameters():
        flat = p.detach().reshape(-1)
        step = max(1, flat.numel() // 65536)
        h.update(f"{name}:{tuple(p.shape)}:{p.dtype}:".encode())
        h.update(flat[::step].float().cpu().numpy().tobytes())
    h.update(",".join(layers).encode())
    return h.hexdigest()[:16]


def _step(position: str, digest: str) -> str:
    return hashlib.sha256(f"{position}+{digest}".encode()).hexdigest()[:16]
