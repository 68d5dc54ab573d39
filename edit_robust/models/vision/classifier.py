"""Any image classifier, adapted by structure: its blocks, its logits, and its logits along many changes at once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from edit_robust.core import Delta, Layer, UserError, nearest
from edit_robust.core.combining import depths
from edit_robust.core.images import Pixels
from edit_robust.core.options import Aside, DataFile
from edit_robust.core.weights import check_weights
from edit_robust.core.work import silent
from edit_robust.models.base import Model
from edit_robust.models.devices import DTYPES, resolve_device
from edit_robust.models.vision.anatomy import Block, Visit, find_blocks, visits
from edit_robust.models.vision.checkpoints import weights_in
from edit_robust.models.vision.edited_values import EditedValues, added_by, room
from edit_robust.models.vision.fully_connected import run_as_linear
from edit_robust.models.vision.judging import judge
from edit_robust.models.vision.networks import Source
from edit_robust.models.vision.own import count_classes
from edit_robust.models.vision.precision import Quicker
from edit_robust.models.vision.prefixes import Pending, Prefixes, Unchanged
from edit_robust.models.vision.preprocessing import crop, in_words
from edit_robust.models.vision.split import SplitNetwork
from edit_robust.models.vision.usage import aliases, owners, uses_of

log = logging.getLogger(__name__)
SIDE_BY_SIDE = 1 << 20  # outputs of a changed projection that run on as one batch: more do not fit into the cache
Line = tuple[Delta, Sequence[float]]  # a change, and how much of it is added to the weights, several times


class Classifier(Model):
    """An image classifier: of timm, of torchvision, built in, or a module of one's own.

    path:        weights: a .safetensors or .pth file, `builtin:NAME` for a shipped model, `random` for untrained ones,
                 or null for the library's own pretrained ones, downloaded once (of a module of one's own: the weights
                 that it was made with).
    name:        the architecture's name in its library (vgg16, vit_base_patch16_224, squeezenet1_0, ...), with or
                 without a tag that says which weights, and with them which preprocessing (resnet50.a1_in1k,
                 resnet50.IMAGENET1K_V1); of a module of one's own, the name to show.
    library:     timm or torchvision.          n_classes: null: as the architecture has it.
    layers:      auto, or a pattern over module names (`blocks.*.mlp.fc1`, `*.attn.proj`).
    input_size, resize_size, mean, std, interpolation: null: the model's own preprocessing. A module of one's own that
                 describes none (as timm's do, in `pretrained_cfg`) needs input_size, and gets images of that size with
                 pixels from 0 to 1 (mean 0, std 1).
    fast:        False runs the plain path everywhere.          batch_size: images that run side by side.
    channels_last: how images lie in memory: quicker or slower, by network and machine; results differ by rounding.
    tf32:        TensorFloat-32 in products and convolutions on a GPU: quicker, but some answers change; the run's
                 status says how many. Off by default.
    compile:     torch.compile on whole forward passes: of edits of the whole network, and of the plain path. What goes
                 on from a layer runs as it is. Without a compiler it has no effect, and a warning says so.
    net:         a module of one's own that maps [n, 3, h, w] to logits [n, classes]. It is used itself, not a copy: put
                 into evaluation mode, moved to `device` and `dtype`, and its parameters require no gradients any more.
    factory:     the dotted name of a callable that returns such a module, called with `kwargs`.
    class_names: names of the classes, in the order of the logits, where they are known.
    Raises UserError for options that do not fit each other and for networks that are no classifiers of images.
    """

    def __init__(
        self,
        path: Literal["random"] | DataFile | None = None,
        name: str | None = None,
        library: Literal["timm", "torchvision"] = "timm",
        *,
        n_classes: int | None = None,
        layers: str = "auto",
        dtype: str = "float32",
        device: str = "auto",
        input_size: int | None = None,
        resize_size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        interpolation: Literal["bilinear", "bicubic"] | None = None,
        fast: bool = True,
        channels_last: bool = False,
        tf32: bool = False,
        compile: Aside[bool] = False,
        batch_size: int = 64,
        net: nn.Module | None = None,
        factory: str | None = None,
        kwargs: dict[str, Any] | None = None,
        class_names: Aside[list[str] | None] = None,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"model.dtype={dtype} is not a type of number; {nearest(dtype, DTYPES)}")
        if batch_size < 1:
            raise UserError(f"model.batch_size={batch_size} must be at least 1")
        self.device, self.dtype, self.fast, self.batch_size = resolve_device(device), DTYPES[dtype], fast, batch_size
        found = Source(path, name, library, n_classes, input_size, net, factory, kwargs).load()
        self.name, self.described = found.name, found.described
        self.preprocessing = found.preprocessing.changed(input_size, resize_size, mean, std, interpolation)
        self.size = self.preprocessing.size
        # Weights stay as they are: their matrices are views, which another format would turn into copies.
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.progress, self.tf32 = silent, tf32
        self._quicker = Quicker(found.net, self.device, self.dtype, tf32, compile)
        check_weights(found.net)
        ready = found.net.to(self.device, self.dtype).eval().requires_grad_(False)
        if fast and self.device.type == "cpu":
            run_as_linear(ready)
        self._quicker.ready(ready, self.name)
        self._order = self._calls(ready)
        self.n_classes = count_classes(ready, self.sample(2), self.name, n_classes)
        self.classes = _class_names(class_names, self.n_classes) or found.classes
        self.blocks: tuple[Block, ...] = self._find_blocks(ready, layers)
        super().__init__(ready, {b.layer.name: b.layer for b in self.blocks}, self._stored_transposed(ready))
        self.base = self.position = with_buffers(self.base, ready)
        self._split: dict[str, SplitNetwork] = {}
        self._values: EditedValues | None = None  # kept from batch to batch inside `at_base`
        self._turn = {v.name: i for i, v in reversed(list(enumerate(self._order)))}  # of every module's first call

    def _calls(self, net: nn.Module) -> list[Visit]:
        """The calls of all modules in the order in which they begin."""
        if not any(True for _ in net.parameters()):
            raise UserError(f"{self.name} has no parameters: there is nothing to edit")
        try:
            return visits(net, self.size)
        except Exception as e:  # a module of one's own may raise anything
            raise UserError(f"{self.name} cannot take images of {self.size} x {self.size}: {_line(e)}") from e

    def _find_blocks(self, net: nn.Module, layers: str) -> tuple[Block, ...]:
        """The blocks with the layers to edit."""
        return find_blocks(net, self._order, layers)

    def _stored_transposed(self, net: nn.Module) -> frozenset[str]:
        """Names of bare parameters that are stored as [d_in, d_out]."""
        return frozenset()

    def weights_in(self, path: str) -> dict[str, Tensor]:
        """Every parameter's value in a checkpoint of the same network; see `models.vision.checkpoints`."""
        return weights_in(self.net, path, self.name)

    # -- structure ---------------------------------------------------------------------------------------------------

    def layer_at(self, index: int) -> Layer:
        """The edited projection of block `index` (negative counts from the end)."""
        if not -self.n_layers <= index < self.n_layers:
            raise UserError(f"layer.index={index} does not exist: {self.name} has layers 0 to {self.n_layers - 1}")
        return self.blocks[index % self.n_layers].layer

    def block_of(self, layer: str) -> Block:
        """The block that a layer belongs to."""
        return self.blocks[self.layers[layer].index]

    def parameters_between(self, first: str | None, last: str | None) -> list[str]:
        """Names of the parameters that act from the layer `first` on, and that the output of `last`'s block depends on.

        first: None: from the beginning; otherwise what runs before the layer is taken as fixed, and a parameter counts
        where it is used after the layer's call begins.   last: a layer, or any module; None: the network's output.
        Parameters come in the order in which the modules that own them are called, whether a module uses them by
        itself (class tokens, position embeddings) or is never called (`out_proj` of nn.MultiheadAttention).
        Where the uses cannot be traced, the parameters of all modules that are called in between are taken.
        Running statistics of batch norms are no parameters.
        """
        start = self._turn[first] if first else 0
        end = None if last is None else self.block_of(last).end if last in self.layers else self.net.get_submodule(last)
        uses = uses_of(self.net, self._order, self.sample(1), self.name)
        owner = owners(self.net, list(self._turn))
        if uses is not None:
            found = uses.of(start, end)
        else:
            called = {v.name for v in self._order[start : self._stop(end)]} - {""}
            found = {n for n, o in owner.items() if o in called}
        later = {v.name: i for i, v in reversed(list(enumerate(self._order))) if i >= start}
        return sorted((n for n in owner if n in found), key=lambda n: later.get(owner[n], self._turn[owner[n]]))

    def _stop(self, end: nn.Module | None) -> int:
        """How many calls have begun when a module's last call ends."""
        inside = set(self.net.modules() if end is None else end.modules())
        return max(i for i, v in enumerate(self._order) if v.module in inside) + 1

    def depths(self, names: Sequence[str]) -> dict[str, float]:
        """How deep parameters lie, from 0 (the first block, and what stands before it) to 1 (the last one)."""
        called = {m: n for n, m in self.net.named_modules()}
        ends = [(called[b.end], b.layer.name) for b in self.blocks]
        prefixes = [f"{end if layer.startswith(f'{end}.') else layer}." for end, layer in ends]
        return depths(names, prefixes, self.parameters_between(self.blocks[-1].layer.name, None))

    def first_of(self, parameters: Sequence[str]) -> str:
        """The module from which the network must be run again when these parameters change: the last one that begins
        before any of them is used."""
        return self._order[min(min(self._used_in[self._aliases[p]]) for p in parameters)].name

    def used_once(self, layer: str) -> bool:
        """Whether a layer's module is called once in a forward pass, and nothing else uses its parameters."""
        module, turn, names = self.layers[layer].module, self._turn[layer], self._aliases
        own = [p for n in ("weight", "bias") if (p := f"{layer}.{n}") in names]
        called = sum(v.module is module for v in self._order)
        tied = any(names[p] == q for p in own for n, q in names.items() if n != p)
        return called == 1 and not tied and all(self._used_in[names[p]] == {turn} for p in own)

    @cached_property
    def _aliases(self) -> dict[str, str]:
        return aliases(self.net)

    @cached_property
    def _used_in(self) -> dict[str, set[int]]:
        """For every parameter: the calls (indices of `_order`) during or after which it is used."""
        owner = owners(self.net, list(self._turn))
        uses = uses_of(self.net, self._order, self.sample(1), self.name)
        return {n: {self._turn[o]} for n, o in owner.items()} | (uses.calls() if uses else {})

    def split_at(self, module: str) -> SplitNetwork:
        """The network as what runs before a module, and the rest."""
        if module not in self._split:
            split = SplitNetwork(
                self.net, self.net.get_submodule(module), self.sample(2), self.fast, self._quicker.compiled
            )
            self._split[module] = split
            if self.fast and not split.fast:
                log.warning(
                    "%s cannot be split at %s with the same logits; the whole network runs instead", self.name, module
                )
        return self._split[module]

    # -- images ------------------------------------------------------------------------------------------------------

    @property
    def cropping(self) -> str:
        """What `crop` does, in words: "resize 256 (bilinear), crop 224"."""
        return in_words(self.preprocessing)

    def crop(self, image: Pixels) -> UInt8[np.ndarray, "size size 3"]:
        """The model's own resizing and centre crop, before normalisation: what a corruption is applied to."""
        return crop(image, self.preprocessing)

    def crop_mask(self, mask: np.ndarray) -> np.ndarray:
        """The same geometry for a mask [height, width] of True and False; [size, size]."""
        grey = np.repeat((mask.astype(np.uint8) * 255)[:, :, None], 3, axis=2)
        return crop(grey, self.preprocessing, fill=(0, 0, 0))[:, :, 0] >= 128

    def normalise(self, pixels: Sequence[Pixels] | UInt8[np.ndarray, "n size size 3"]) -> Float[Tensor, "n 3 s s"]:
        """Cropped images as the network takes them."""
        return self._normalised(pixels, self.dtype)

    def _normalised(self, pixels: Sequence[Pixels] | UInt8[np.ndarray, "n s s 3"], dtype: torch.dtype) -> Tensor:
        x = torch.from_numpy(np.stack([*pixels]))
        if self.device.type == "cuda":  # the copy then runs beside what the device is at
            x = x.pin_memory()
        x = x.to(self.device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32).div_(255)
        mean = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)
        return x.sub_(mean).div_(std).to(dtype, memory_format=self._format)

    def see(self, images: Sequence[Pixels]) -> Float[Tensor, "n 3 s s"]:
        """Decoded images, cropped and normalised."""
        return self.normalise([self.crop(i) for i in images])

    @torch.no_grad()
    def logits(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n c"]:
        """The plain path: the whole network, as it stands."""
        return torch.cat([self._whole(part) for part in x.split(self.batch_size)]).float()

    @torch.no_grad()
    def _uncompiled(self, x: Tensor) -> Tensor:
        return torch.cat([self.net(part) for part in x.split(self.batch_size)]).float()

    @property
    def _whole(self) -> Callable[[Tensor], Tensor]:
        """The whole network; compiled where that was asked for."""
        return self._quicker.compiled or self.net

    def sample(self, n: int) -> Float[Tensor, "n 3 s s"]:
        """Noise to try the network on; the same every time."""
        noise = torch.randn(n, 3, self.size, self.size, generator=torch.Generator().manual_seed(0))
        return noise.to(self.device, self.dtype)

    def precision_note(self, images: Callable[[], Sequence[Pixels]]) -> str | None:
        """What `dtype`, `tf32` and `compile` do to the answers of the model as it stands, in words; None where none of
        them was asked for.

        images: gives decoded images to try it on; not called where the options have no effect.
        """

        def see(dtype: torch.dtype) -> Tensor:
            return self._normalised([self.crop(i) for i in images()], dtype)

        return self._quicker.note(see, self._uncompiled, self.logits)

    judge = staticmethod(judge)

    # -- many changes at once ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits_along(self, x: Float[Tensor, "n 3 s s"], directions: Sequence[Line]) -> list[list[Float[Tensor, "n c"]]]:
        """Logits of x at the present weights + alpha * delta, for every delta and each of its alphas.

        Everything below the first changed module runs once. A change of one projection alone is linear: its output
        is that of the present weights plus alpha times that of the change, so the projection runs once a delta, and
        what lies above it runs on several alphas and deltas as one batch.
        Other changes take the place of the weights for as long as the rest of the network runs; their values are made
        once, and kept from one call to the next inside `at_base`.
        The plain path (`fast` False) changes the weights and runs the whole network every time.
        """
        return next(self.logits_along_each(x, [directions]))[1]

    @torch.no_grad()
    def logits_along_each(
        self, x: Float[Tensor, "n 3 s s"], several: Sequence[Sequence[Line]]
    ) -> Iterator[tuple[int, list[list[Float[Tensor, "n c"]]]]]:
        """(i, what `logits_along(x, several[i])` gives, to the bit) for each i, in any order.

        What lies below the first changed modules runs once for all of them; what lies above runs for each by itself, in
        the batches that it would have alone.
        """
        for directions in several:
            for delta, _ in directions:
                self._refuse(delta, self._announced)
        if not self.fast:
            for i, directions in enumerate(several):
                yield i, [[self._plain(x, delta, a) for a in alphas] for delta, alphas in directions]
            return
        values = self._values or EditedValues(self, 0)
        pending = Pending([len(directions) for directions in several])
        groups: dict[str, dict[int, list[int]]] = {}  # of lines whose first changed module is the same, by asker
        start: dict[int, str] = {}  # the module at which an asker's unedited logits are continued
        for i, directions in enumerate(several):
            for k, (delta, _) in enumerate(directions):
                if delta.terms:
                    module = self.first_of(list(delta.terms))
                    groups.setdefault(module, {}).setdefault(i, []).append(k)
                    start.setdefault(i, module)
        if len(start) < len(several):
            logits = self._whole(x).float()
            for i in (i for i in range(len(several)) if i not in start):
                pending.found[i] = [[logits for _ in alphas] for _, alphas in several[i]]
        for module, network, features in Prefixes(self, x, self._turn.__getitem__).at(list(groups)):
            unedited: Tensor | None = None
            shared = Unchanged(self.layers.get(module), features)
            for i, members in groups[module].items():
                for k, some in self._from(module, network, shared, several[i], members, values):
                    pending.found[i][k] = some
                rest = [k for k, (delta, _) in enumerate(several[i]) if not delta.terms and start[i] == module]
                for k in rest:  # from the features that are there anyway
                    unedited = network.suffix(features).float() if unedited is None else unedited
                    pending.found[i][k] = [unedited for _ in several[i][k][1]]
            yield from pending.whole()
        yield from pending.whole()

    def _from(
        self,
        module: str,
        network: SplitNetwork,
        shared: Unchanged,
        directions: Sequence[Line],
        members: Sequence[int],
        values: EditedValues,
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """(k, logits along line k) for some lines, all of which change `module` first."""
        own = {f"{module}.weight", f"{module}.bias"} if module in self.layers and self.used_once(module) else set()
        linear = [k for k in members if set(directions[k][0].terms) <= own]
        along = self._along_one_projection(network, shared, module, [directions[k] for k in linear], values)
        yield from zip(linear, along, strict=True)
        for k in (k for k in members if k not in linear):
            delta, alphas = directions[k]
            found = []
            for a in alphas:
                with values.swapped_in(delta, a):
                    found.append(network.suffix(shared.features).float())
            yield k, found

    def _along_one_projection(
        self, network: SplitNetwork, shared: Unchanged, module: str, lines: Sequence[Line], values: EditedValues
    ) -> list[list[Tensor]]:
        """Logits along straight lines of one projection's weights."""
        if not lines:
            return []
        layer, features, unchanged = self.layers[module], shared.features, shared.output
        h = features.input
        rows = [(i, a) for i, (_, alphas) in enumerate(lines) for a in alphas]
        at_once = max(1, SIDE_BY_SIDE // unchanged.numel())
        found: list[list[Tensor]] = [[] for _ in lines]
        added: dict[int, Tensor] = {}
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            added = {i: added[i] if i in added else added_by(layer, lines[i][0], h, values) for i, _ in some}
            parts = [torch.add(unchanged, added[i], alpha=a) for i, a in some]
            out = parts[0] if len(parts) == 1 else torch.cat(parts)
            logits = network.suffix(features.repeat(len(some)), out).float()
            for (i, _), one in zip(some, logits.split(len(features)), strict=True):
                found[i].append(one)
        return found

    def _plain(self, x: Tensor, delta: Delta, alpha: float) -> Tensor:
        with self.patched(delta.scale(alpha)):
            return self.logits(x)

    @contextmanager
    def at_base(self, base: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside the block the named parameters have the given values; afterwards they are as before, to the bit.

        Edited values that `logits_along` makes are kept until the block ends, as far as there is room for them.
        """
        before, outer = self.snapshot(base), self._values
        try:
            with torch.no_grad():
                for name, value in base.items():
                    self.param(name).copy_(value)
            self._values = EditedValues(self, room(self.device))
            yield
        finally:
            self._values = outer
            self.restore(before)


def with_buffers(base: str, net: nn.Module) -> str:
    """The fingerprint, with running statistics counted in: they are part of what the network computes."""
    h = hashlib.sha256(base.encode())
    for name, b in net.named_buffers():
        if b.is_floating_point():
            h.update(name.encode() + b.detach().float().cpu().numpy().tobytes())
    return h.hexdigest()[:16]


def _class_names(given: Sequence[str] | None, n: int) -> tuple[str, ...] | None:
    """Names of the classes; UserError where they are not as many as the classes."""
    if given is not None and len(given) != n:
        raise UserError(f"model.class_names has {len(given)} names, but the network has {n} classes")
    return None if given is None else tuple(given)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
