"""A model whose weights can be changed and put back exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edit_robust.core.delta import Delta, Dense
from edit_robust.core.errors import UserError
from edit_robust.core.projections import Kind, Orientation, as_matrix, as_stored, orientation_of
from edit_robust.core.weights import check_weights

__all__ = ["Editable", "Kind", "Layer", "Scratch", "Snapshot", "fingerprint"]


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

    @property
    def _orientation(self) -> Orientation:
        return "inputs-first" if self.kind == "conv1d" else "outputs-first"

    def matrix(self, w: Tensor | None = None) -> Float[Tensor, "d_out d_in"]:
        """A view of the weight (or of a tensor stored like it) as [d_out, d_in]."""
        return as_matrix(self.weight.detach() if w is None else w, self._orientation)

    def native(self, m: Float[Tensor, "d_out d_in"]) -> Tensor:
        """A [d_out, d_in] matrix in the weight's own orientation and shape."""
        return as_stored(m, tuple(self.weight.shape), self._orientation)

    @property
    def shape(self) -> tuple[int, int]:
        d_out, d_in = self.matrix().shape
        return d_out, d_in


class Editable:
    """A network whose weights edits change. Subclasses add what can be computed with it.

    net:        the network.   layers: its editable projections by name.
    transposed: names of bare parameters that are stored as [d_in, d_out] (open_clip's `visual.proj`, used as x @ proj);
        the orientation of everything else follows from the module that owns it.

    `base` is a fingerprint of the unedited model; `position` is the base followed by a hash of every change added
    since, so that two models at the same position hold the same bits. UserError for weights that cannot be changed.

    older_bases: what earlier versions of this program called the same model.
    """

    older_bases: tuple[str, ...] = ()
    net: nn.Module
    layers: Mapping[str, Layer]
    _pending: tuple[Delta, ...]  # changes of `patched` that `_position` does not count yet

    def __init__(self, net: nn.Module, layers: Mapping[str, Layer], transposed: frozenset[str] = frozenset()) -> None:
        check_weights(net)
        self.net, self.layers, self._transposed = net, layers, transposed
        for name in transposed:
            if self.param(name).dim() != 2:
                raise ValueError(f"{name} is declared to be stored transposed, and is no matrix")
        self._position, self._pending = "", ()
        self._announced: Allowed | None = None  # by the innermost `held` block
        self._restored: Allowed | None = None  # by the innermost block of any kind
        self.base = self.position = fingerprint(net, layers)

    def identify(self, *about: str) -> None:
        """Let `base` depend on more than the weights: hashes of whatever else decides what the network answers."""
        self.older_bases = (*self.older_bases, self.base)
        self.base = self.position = hashlib.sha256("+".join([self.base, *about]).encode()).hexdigest()[:16]

    # -- parameters ------------------------------------------------------------------------------------------------

    @property
    def position(self) -> str:
        """Where the weights stand. Changes of `patched` are hashed when this is asked for, and not before."""
        for delta in self._pending:
            self._position = stepped(self._position, delta)
        self._pending = ()
        return self._position

    @position.setter
    def position(self, value: str) -> None:
        self._position, self._pending = value, ()

    def param(self, name: str) -> nn.Parameter:
        try:
            return self.net.get_parameter(name)
        except AttributeError as e:
            raise UserError(f"this model has no parameter {name!r}: the change was made for another model") from e

    def stored_as(self, name: str) -> Orientation:
        """Whether a parameter is stored with its outputs or with its inputs first."""
        owner, _, own = name.rpartition(".")
        return "inputs-first" if name in self._transposed else orientation_of(self.net.get_submodule(owner), own)

    def as_matrix(self, name: str, stored: Tensor) -> Float[Tensor, "d_out d_in"]:
        """A tensor that is stored like the parameter, such as an earlier value of it, as [d_out, d_in]."""
        return as_matrix(stored, self.stored_as(name))

    def as_stored(self, name: str, matrix: Float[Tensor, "d_out d_in"]) -> Tensor:
        """A [d_out, d_in] matrix in the parameter's own orientation and shape."""
        return as_stored(matrix, tuple(self.param(name).shape), self.stored_as(name))

    def matrix(self, name: str) -> Float[Tensor, "d_out d_in"]:
        """A parameter as [d_out, d_in], sharing memory; a bias as [d_out, 1]."""
        return self.as_matrix(name, self.param(name).detach())

    def parameter_names(self, layers: Iterable[str]) -> list[str]:
        """Weight and bias names of some layers."""
        names: list[str] = []
        for key in layers:
            layer = self.layers[key]
            names += [layer.weight_name] + ([layer.bias_name] if layer.bias_name else [])
        return names

    # -- changes ---------------------------------------------------------------------------------------------------

    def add(self, delta: Delta) -> None:
        """W <- W + delta, in float32 arithmetic rounded once to the parameter's type; moves `position`.

        Factors are multiplied on the parameter's device, wherever they lie.

        UserError, with nothing changed, for a parameter or a shape that the model does not have, and inside `held` and
        `patched` for a parameter that would not be put back at the end of the block.
        """
        self._refuse(delta, self._restored)
        self._write(delta)
        self.position = stepped(self.position, delta)

    def _refuse(self, delta: Delta, allowed: Allowed | None) -> None:
        for name, term in delta.terms.items():
            p = self.param(name)
            shape = tuple(self.matrix(name).shape)
            if shape != term.shape:
                raise UserError(f"the change of {name} is {term.shape}, the parameter is {shape}")
            if allowed is not None and id(p) not in allowed.parameters:
                raise UserError(f"the change touches {name}, which was not announced: {allowed} may change here")

    @torch.no_grad()
    def _write(self, delta: Delta) -> None:
        for name, term in delta.terms.items():
            w = self.param(name).detach()
            change = self.as_stored(name, term.on(w.device).dense())
            w.add_(change) if w.dtype == change.dtype else w.copy_(w.to(change.dtype).add_(change))

    def snapshot(self, names: Iterable[str]) -> Snapshot:
        """Copies of some parameters, to be put back bit for bit."""
        return Snapshot({n: self.param(n).detach().clone() for n in names}, self.position)

    def difference(self, before: Snapshot) -> Delta:
        """What has changed since a snapshot, as dense float32 matrices."""
        terms = {}
        for name, old in before.values.items():
            was = self.as_matrix(name, old)
            terms[name] = Dense((self.matrix(name).float() - was.float()).contiguous())
        return Delta(terms, before.position)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Put the snapshot's parameters and position back."""
        for name, value in snapshot.values.items():
            self.param(name).copy_(value)
        self.position = snapshot.position

    # -- blocks after which the model is as before, to the bit -------------------------------------------------------

    @contextmanager
    def at(self, snapshot: Snapshot) -> Iterator[None]:
        """Inside the block the snapshot's parameters have its values; afterwards they are as before, to the bit."""
        before = self.snapshot(snapshot.values)
        try:
            self.restore(snapshot)
            yield
        finally:
            self.restore(before)

    @contextmanager
    def patched(self, delta: Delta) -> Iterator[None]:
        """Inside the block the model carries the change; afterwards it is as before, to the bit.

        UserError inside `held` for a change of other parameters than those.
        """
        self._refuse(delta, self._announced)
        values = {n: self.param(n).detach().clone() for n in delta.terms}
        outer = self._position, self._pending, self._restored
        try:
            self._restored = self._allowed(delta.terms)
            self._write(delta)
            self._pending = (*self._pending, delta)
            yield
        finally:
            with torch.no_grad():
                for name, value in values.items():
                    self.param(name).copy_(value)
            self._position, self._pending, self._restored = outer

    @contextmanager
    def held(self, names: Iterable[str]) -> Iterator[Snapshot]:
        """Inside the block the named parameters, and no others, may be changed; afterwards they are as before.

        A block inside this one may name others: it puts them back itself.
        """
        before = self.snapshot(names)
        outer = self._announced, self._restored
        try:
            self._announced = self._restored = self._allowed(before.values)
            yield before
        finally:
            self._announced, self._restored = outer
            self.restore(before)

    @contextmanager
    def scratch(self, names: Iterable[str]) -> Iterator[Scratch]:
        """Inside the block the named parameters may be trained; `.diff()` is the change; exact restore after."""
        names = list(names)
        with self.held(names) as before:
            try:
                for n in names:
                    self.param(n).requires_grad_(True)
                yield Scratch(self, before)
            finally:
                for n in names:
                    p = self.param(n)
                    p.requires_grad_(False)
                    p.grad = None

    def _allowed(self, names: Iterable[str]) -> Allowed:
        names = tuple(names)
        return Allowed(names, frozenset(id(self.param(n)) for n in names))  # tied weights have several names


@dataclass(frozen=True)
class Allowed:
    """Parameters that may change inside a block, by name and by identity."""

    names: tuple[str, ...]
    parameters: frozenset[int]

    def __str__(self) -> str:
        if not self.names:
            return "nothing"
        more = f" and {len(self.names) - 3} others" if len(self.names) > 3 else ""
        return f"only {', '.join(self.names[:3])}{more}"


@dataclass(frozen=True)
class Snapshot:
    """Values of some parameters by name, as they are stored, and the position at which they were taken."""

    values: Mapping[str, Tensor]
    position: str


@dataclass(frozen=True)
class Scratch:
    """Parameters that are being trained, and their values before."""

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


def stepped(position: str, delta: Delta) -> str:
    """The position behind a change that is added at one."""
    return hashlib.sha256(f"{position}+{delta.digest()}".encode()).hexdigest()[:16]
