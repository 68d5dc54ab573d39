"""Values of parameters under changes, made once and put in the parameters' place: no copy an alpha, no hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor, nn

from edit_robust.core import Delta, Layer, LowRank
from edit_robust.core.delta import few
from edit_robust.core.editable import Editable

#: Bytes of edited values that are kept from one batch of images to the next; on a GPU a share of what is free.
KEPT_BYTES, KEPT_SHARE = 2 << 30, 0.25
#: Identity of a change; alpha, or the parameter whose change alone is kept, or its factors.
Place = tuple[int, float | str]


class EditedValues:
    """W + alpha * delta for every parameter that a change touches.

    limit: bytes of values that are kept: the first ones asked for, as every batch asks for the same in the same order.
    The others are made each time. Kept values are thrown away where the model's own have changed since.
    """

    def __init__(self, model: Editable, limit: int) -> None:
        self.model, self.limit, self.kept_bytes = model, limit, 0
        self._kept: dict[Place, tuple[Delta, dict[str, Tensor]]] = {}  # the change itself, so that its id stays its own
        self._stamps: dict[str, tuple[int, int]] = {}  # memory and version of the parameters that values come from

    @contextmanager
    def swapped_in(self, delta: Delta, alpha: float) -> Iterator[None]:
        """Inside the block the parameters hold the edited values; afterwards their own, never written to."""
        own = {name: self.model.param(name).data for name in delta.terms}
        values = self._of(delta, alpha)
        try:
            for name, value in values.items():
                self.model.param(name).data = value
            yield
        finally:
            for name, value in own.items():
                self.model.param(name).data = value

    def _of(self, delta: Delta, alpha: float) -> dict[str, Tensor]:
        """Edited values by name; of tied weights, which have several names, one value with all of their changes."""
        self._check(delta)
        return self._once((id(delta), alpha), delta, lambda: self._made(delta, alpha))

    def change(self, delta: Delta, name: str, like: Tensor) -> Tensor:
        """The change of one parameter alone, [d_out, d_in], on the device and of the type of `like`."""
        term = delta.terms[name]
        found = self._once((id(delta), name), delta, lambda: {name: term.dense().to(like.device, like.dtype)})
        return found[name]

    def factors(self, delta: Delta, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """u and v of one parameter's change of low rank alone, on the device and of the type of `like`."""
        parts = delta.terms[name].tensors()
        place = id(delta), f"{name}|factors"
        found = self._once(place, delta, lambda: {k: x.to(like.device, like.dtype) for k, x in parts.items()})
        return found["u"], found["v"]

    def _once(self, place: Place, delta: Delta, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What is kept at a place; else what `make` gives, kept where there is room."""
        if place in self._kept:
            return self._kept[place][1]
        values = make()
        size = sum(x.numel() * x.element_size() for x in values.values())
        if self.kept_bytes + size <= self.limit:
            self._kept[place] = delta, values
            self.kept_bytes += size
        return values

    @torch.no_grad()
    def _made(self, delta: Delta, alpha: float) -> dict[str, Tensor]:
        """In float32 arithmetic rounded once to the parameter's type, as `Editable.patched` computes them."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, term in delta.terms.items():
            p = self.model.param(name)
            _, w = found.get(id(p), (name, p.detach()))
            change = self.model.as_stored(name, term.scale(alpha).dense().to(w.device))
            value = torch.empty_like(w)
            if w.dtype == change.dtype:
                torch.add(w, change, out=value)
            else:
                value.copy_(w.to(change.dtype).add_(change))
            found[id(p)] = name, value
        return dict(found.values())

    def _check(self, delta: Delta) -> None:
        stamps = {name: (p.data_ptr(), p._version) for name in delta.terms for p in [self.model.param(name)]}
        if any(self._stamps.get(name, stamp) != stamp for name, stamp in stamps.items()):
            self._kept, self._stamps, self.kept_bytes = {}, {}, 0
        self._stamps |= stamps


def room(device: torch.device) -> int:
    """Bytes of edited values that may be kept on a device."""
    if device.type != "cuda":
        return KEPT_BYTES
    return int(KEPT_SHARE * torch.cuda.mem_get_info(device)[0])


def added_by(layer: Layer, delta: Delta, h: Tensor, values: EditedValues) -> Tensor:
    """What a change of a projection's weight and bias adds to its output."""
    parts = []
    for name, term in delta.terms.items():
        if name == layer.weight_name and isinstance(term, LowRank) and _few(layer, term):
            parts.append(_through(layer, *values.factors(delta, name, h), h))
        elif name == layer.weight_name:
            parts.append(apply(layer, layer.native(values.change(delta, name, h)), h))
        else:
            b = values.change(delta, name, h).reshape(-1)
            parts.append(b.view(1, -1, 1, 1) if layer.kind == "conv2d" else b)
    return reduce(torch.add, parts)


def _few(layer: Layer, term: LowRank) -> bool:
    """Whether a change costs less through its factors; those of a convolution in groups are one group's alone."""
    groups = layer.module.groups if isinstance(layer.module, nn.Conv2d) else 1
    return groups == 1 and few(term.rank, term.shape)


def _through(layer: Layer, u: Tensor, v: Tensor, h: Tensor) -> Tensor:
    """u (v^T h): the layer with v^T as its weight, then u at every place."""
    if layer.kind != "conv2d":
        return nn.functional.linear(nn.functional.linear(h, v.T), u)
    narrow = apply(layer, v.T.reshape(v.shape[1], *layer.weight.shape[1:]), h)
    return nn.functional.conv2d(narrow, u[:, :, None, None])


def apply(layer: Layer, weight: Tensor, h: Tensor) -> Tensor:
    """What a layer would give with another weight (in the weight's own shape) and no bias."""
    m = layer.module
    if isinstance(m, nn.Conv2d):
        if m.padding_mode != "zeros":  # the module's own padding, with our weight
            return m._conv_forward(h, weight, None)
        return nn.functional.conv2d(h, weight, None, m.stride, m.padding, m.dilation, m.groups)
    return nn.functional.linear(h, weight)
