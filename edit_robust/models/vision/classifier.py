"""Any timm or torchvision image classifier, adapted by structure, with a plain path and a fast one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from edit_robust.core import Delta, Editable, Layer, UserError, nearest
from edit_robust.core.images import Pixels
from edit_robust.core.options import DataFile
from edit_robust.core.work import ShowProgress, silent
from edit_robust.models.devices import DTYPES, resolve_device
from edit_robust.models.vision.anatomy import Block, find_blocks, visits
from edit_robust.models.vision.fully_connected import run_as_linear
from edit_robust.models.vision.networks import Preprocessing, load_net
from edit_robust.models.vision.split import Branch, Spine

log = logging.getLogger(__name__)
SIDE_BY_SIDE = 1 << 20  # outputs of a changed projection that go up as one batch: more leave the cache
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Classifier(Editable):
    """An image classifier.

    path:        weights: a .safetensors or .pth file, `builtin:NAME` for a shipped model, `random` for untrained ones,
                 or null for the library's own pretrained ones, downloaded once.
    name:        the architecture's name in its library (vgg16, resnet50, vit_base_patch16_224, squeezenet1_0, ...).
    library:     timm or torchvision.          n_classes: null: as the architecture has it.
    layers:      auto, or a pattern over module names (`blocks.*.mlp.fc1`, `*.attn.proj`).
    input_size, resize_size, mean, std, interpolation: null: the model's own preprocessing.
    fast:        False runs the plain path everywhere.          batch_size: images that run side by side.
    channels_last: how images lie in memory: quicker or slower, by network and machine; results differ by rounding.
    """

    asks: ClassVar[str] = "images"

    def __init__(
        self,
        path: Literal["random"] | DataFile | None = None,
        name: str | None = None,
        library: Literal["timm", "torchvision"] = "timm",
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
        batch_size: int = 64,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"model.dtype={dtype} is not a type of number; {nearest(dtype, DTYPES)}")
        if batch_size < 1:
            raise UserError(f"model.batch_size={batch_size} must be at least 1")
        self.device = resolve_device(device)
        net, own, self.name, self.classes = load_net(path, name, library, n_classes, input_size)
        self.dtype, self.fast, self.batch_size = DTYPES[dtype], fast, batch_size
        # Weights stay as they are: their matrices are views, which another format would turn into copies.
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.preprocessing = own.changed(input_size, resize_size, mean, std, interpolation)
        self.size = self.preprocessing.size
        self.progress: ShowProgress = silent
        net = net.to(self.device, self.dtype).eval().requires_grad_(False)
        if fast and self.device.type == "cpu":
            run_as_linear(net)
        try:
            self._order = visits(net, self.size)
        except RuntimeError as e:
            raise UserError(f"{self.name} cannot take images of {self.size} x {self.size}: {_line(e)}") from e
        self.blocks: tuple[Block, ...] = find_blocks(net, self._order, layers)
        super().__init__(net, {b.layer.name: b.layer for b in self.blocks})
        self.base = self.position = _with_buffers(self.base, net)
        with torch.no_grad():
            self.n_classes = int(net(self._sample(1)).shape[-1])
        self._spines: dict[str, Spine] = {}
        self._turn = {v.name: i for i, v in reversed(list(enumerate(self._order)))}

    # -- structure ---------------------------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    def layer_at(self, index: int) -> Layer:
        """The edited projection of block `index` (negative counts from the end)."""
        if not -self.n_layers <= index < self.n_layers:
            raise UserError(f"layer.index={index} does not exist: {self.name} has layers 0 to {self.n_layers - 1}")
        return self.blocks[index % self.n_layers].layer

    def block_of(self, layer: str) -> Block:
        return self.blocks[self.layers[layer].index]

    def parameters_between(self, first: str | None, last: str | None) -> list[str]:
        """Names of all parameters of modules that begin after `first` does (or with it) and before `last` ends.

        None stands for the network's beginning or end. Running statistics of batch norms are no parameters.
        """
        start = self._turn[first] if first else 0
        stop = len(self._order)
        if last:
            end = self.block_of(last).end if last in self.layers else self.net.get_submodule(last)
            inside = set(end.modules())
            stop = max(i for i, v in enumerate(self._order) if v.module in inside or v.name == last) + 1
        modules = [v.name for v in self._order[start:stop]]
        return [
            f"{n}.{p}" if n else p
            for n in dict.fromkeys(modules)
            if n
            for p, _ in self.net.get_submodule(n).named_parameters(recurse=False)
        ]

    def first_of(self, parameters: Sequence[str]) -> str:
        """The module that runs first of those that own the parameters."""
        owners = {p.rpartition(".")[0] for p in parameters}
        return min(owners, key=lambda n: self._turn.get(n, 0))

    def spine(self, module: str) -> Spine:
        """The network, ready to be entered at a module."""
        if module not in self._spines:
            self._spines[module] = Spine(self.net, self.net.get_submodule(module), self._sample(2), self.fast)
            if self.fast and not self._spines[module].fast:
                log.warning("%s cannot be entered at %s with the same result; it is run whole", self.name, module)
        return self._spines[module]

    # -- images ------------------------------------------------------------------------------------------------------

    def crop(self, image: Pixels) -> UInt8[np.ndarray, "size size 3"]:
        """The model's own resizing and centre crop, before normalisation: what a corruption is applied to."""
        return crop(image, self.preprocessing)

    def crop_mask(self, mask: np.ndarray) -> np.ndarray:
        """The same geometry for a mask [height, width] of True and False; [size, size]."""
        grey = np.repeat((mask.astype(np.uint8) * 255)[:, :, None], 3, axis=2)
        return crop(grey, self.preprocessing)[:, :, 0] >= 128

    def normalise(self, pixels: Sequence[Pixels] | UInt8[np.ndarray, "n size size 3"]) -> Float[Tensor, "n 3 s s"]:
        """Cropped images as the network takes them."""
        x = torch.from_numpy(np.stack([*pixels]))
        x = x.to(self.device).permute(0, 3, 1, 2).to(torch.float32).div_(255)
        mean = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)
        return x.sub_(mean).div_(std).to(self.dtype, memory_format=self._format)

    def see(self, images: Sequence[Pixels]) -> Float[Tensor, "n 3 s s"]:
        """Decoded images, cropped and normalised."""
        return self.normalise([self.crop(i) for i in images])

    @torch.no_grad()
    def logits(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n c"]:
        """The plain path: the whole network, as it stands."""
        return torch.cat([self.net(part) for part in x.split(self.batch_size)]).float()

    def _sample(self, n: int) -> Float[Tensor, "n 3 s s"]:
        """Noise to try the network on; the same every time."""
        noise = torch.randn(n, 3, self.size, self.size, generator=torch.Generator().manual_seed(0))
        return noise.to(self.device, self.dtype)

    # -- many changes at once ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def panel(
        self, x: Float[Tensor, "n 3 s s"], directions: Sequence[tuple[Delta, Sequence[float]]]
    ) -> list[list[Float[Tensor, "n c"]]]:
        """Logits of x at the present weights + alpha * delta, for every delta and each of its alphas.

        Everything below the first changed module runs once. A change of one projection alone is linear: its output
        is that of the present weights plus alpha times that of the change, so the projection runs once a delta, and
        what lies above it runs on several alphas and deltas as one batch.
        The plain path (`fast` False) changes the weights and runs the whole network every time.
        """
        if not self.fast:
            return [[self._plain(x, delta, a) for a in alphas] for delta, alphas in directions]
        found: list[list[Tensor]] = [[] for _ in directions]
        groups: dict[str, list[int]] = {}
        for i, (delta, _) in enumerate(directions):
            groups.setdefault(self.first_of(list(delta.terms)) if delta.terms else "", []).append(i)
        still = groups.pop("", [])  # the present weights are on the way to any others
        logits = None if groups else self.net(x).float()
        for module, members in groups.items():
            spine = self.spine(module)
            branch = spine.enter(x)
            if still and logits is None:
                logits = spine.leave(branch).float()
            own = {f"{module}.weight", f"{module}.bias"}
            lines = [i for i in members if set(directions[i][0].terms) <= own and module in self.layers]
            along = self._lines(spine, branch, module, [directions[i] for i in lines])
            for i, some in zip(lines, along, strict=True):
                found[i] = some
            for i in (i for i in members if i not in lines):
                delta, alphas = directions[i]
                for a in alphas:
                    with self.patched(delta.scale(a)):
                        found[i].append(spine.leave(branch).float())
        for i in still:
            assert logits is not None
            found[i] = [logits for _ in directions[i][1]]
        return found

    def _lines(
        self, spine: Spine, branch: Branch, module: str, lines: Sequence[tuple[Delta, Sequence[float]]]
    ) -> list[list[Tensor]]:
        """Logits along straight lines of one projection's weights."""
        if not lines:
            return []
        layer, entry = self.layers[module], branch.entry
        still = layer.module(entry)
        rows = [(i, a) for i, (_, alphas) in enumerate(lines) for a in alphas]
        at_once = max(1, SIDE_BY_SIDE // still.numel())
        found: list[list[Tensor]] = [[] for _ in lines]
        moved: dict[int, Tensor] = {}
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            moved = {i: moved[i] if i in moved else self._moved(layer, lines[i][0], entry) for i, _ in some}
            out = torch.cat([still + a * moved[i] for i, a in some])
            logits = spine.leave(branch.repeat(len(some)), out).float()
            for (i, _), one in zip(some, logits.split(len(branch)), strict=True):
                found[i].append(one)
        return found

    @staticmethod
    def _moved(layer: Layer, delta: Delta, h: Tensor) -> Tensor:
        """What a change of a projection's weight and bias adds to its output."""
        moved = torch.zeros((), device=h.device, dtype=h.dtype)
        for name, term in delta.terms.items():
            change = term.dense().to(h.device, h.dtype)
            if name == layer.weight_name:
                moved = moved + apply(layer, layer.native(change), h)
            else:
                b = change.reshape(-1)
                moved = moved + (b.view(1, -1, 1, 1) if layer.kind == "conv2d" else b)
        return moved

    def _plain(self, x: Tensor, delta: Delta, alpha: float) -> Tensor:
        with self.patched(delta.scale(alpha)):
            return self.logits(x)

    @contextmanager
    def at_base(self, base: Mapping[str, Tensor]):  # type: ignore[no-untyped-def]
        """Inside the block the named parameters have the given values; afterwards they are as before, to the bit."""
        before = self.snapshot(base)
        try:
            with torch.no_grad():
                for name, value in base.items():
                    self.param(name).copy_(value)
            yield
        finally:
            self.restore(before)


def apply(layer: Layer, weight: Tensor, h: Tensor) -> Tensor:
    """What a layer would give with another weight (in the weight's own shape) and no bias."""
    m = layer.module
    if isinstance(m, nn.Conv2d):
        if m.padding_mode != "zeros":  # the module's own padding, with our weight
            return m._conv_forward(h, weight, None)
        return nn.functional.conv2d(h, weight, None, m.stride, m.padding, m.dilation, m.groups)
    return nn.functional.linear(h, weight)


def crop(image: Pixels, how: Preprocessing) -> UInt8[np.ndarray, "size size 3"]:
    """Resize the shorter side to `how.resize`, then cut the centre; nothing is done to an image of the right size."""
    h, w = image.shape[:2]
    if h == w == how.size == how.resize:
        return image
    short = min(h, w)
    height, width = int(how.resize * h / short), int(how.resize * w / short)
    picture = Image.fromarray(image)
    if (height, width) != (h, w):
        picture = picture.resize((width, height), RESAMPLING[how.interpolation])
    top, left = round((height - how.size) / 2), round((width - how.size) / 2)
    return np.asarray(picture.crop((left, top, left + how.size, top + how.size)))


def _with_buffers(base: str, net: nn.Module) -> str:
    """The fingerprint, with running statistics counted in: they are part of what the network computes."""
    h = hashlib.sha256(base.encode())
    for name, b in net.named_buffers():
        if b.is_floating_point():
            h.update(name.encode() + b.detach().float().cpu().numpy().tobytes())
    return h.hexdigest()[:16]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
