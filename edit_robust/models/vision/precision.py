"""What a quicker arithmetic costs: how many images are answered otherwise than in plain float32.

TensorFloat-32: on a GPU since Ampere, products of float32 numbers may be computed with 10 bits behind the point. It is
off unless `model.tf32=true`, in convolutions, too, where torch has it on. `model.dtype` stores and computes in 16 bits.
`model.compile` lets torch compile whole forward passes. A run with any of them tells what it does to answers.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

log = logging.getLogger(__name__)
AMPERE = (8, 0)  # the first compute capability that has it
BACKEND = "inductor"  # of torch.compile


def set_tf32(on: bool) -> None:
    """Let float32 matrix products and convolutions of this process use TensorFloat-32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Inside the block TensorFloat-32 is on or off; afterwards as before."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_tf32(on)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def has_tf32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the option changes anything: on a GPU since Ampere, for float32 numbers."""
    if device.type != "cuda" or dtype != torch.float32:
        return False
    return torch.cuda.get_device_capability(device) >= AMPERE


def lowered() -> AbstractContextManager[None]:
    """Inside the block float32 products have the lower precision."""
    return tf32(True)


def flips(answer: Callable[[], Float[Tensor, "n c"]]) -> int:
    """How many rows of logits have another largest entry in the lower precision than in float32."""
    with tf32(False):
        exact = answer().argmax(-1)
    with lowered():
        quick = answer().argmax(-1)
    return int((exact != quick).sum())


def differing(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"]) -> str:
    """How many of n images two ways of computing answer differently, in words."""
    return f"{int((a.argmax(-1) != b.argmax(-1)).sum())} of {len(a)} images are answered otherwise than"


class Quicker:
    """What of a quicker arithmetic was asked for, and what it does.

    net: as it was loaded, before it takes another type of number; `ready` is told of it afterwards.
    """

    def __init__(self, net: nn.Module, device: torch.device, dtype: torch.dtype, tf32: bool, compiled: bool) -> None:
        set_tf32(tf32)
        self.device, self.dtype, self.tf32, self._wanted = device, dtype, tf32, compiled
        self._exact = Exact(net) if dtype != torch.float32 else None
        self.compiled: Compiled | None = None

    def ready(self, net: nn.Module, name: str) -> None:
        """The network as it will run."""
        self.compiled = Compiled(net, name) if self._wanted else None

    def note(
        self,
        see: Callable[[torch.dtype], Float[Tensor, "n 3 s s"]],
        plain: Callable[[Tensor], Float[Tensor, "n c"]],
        logits: Callable[[Tensor], Float[Tensor, "n c"]],
    ) -> str | None:
        """What it does to the answers about some images, in words; None where nothing was asked for.

        see: gives the images as numbers of a type; not called where no option has an effect.   plain, logits: what the
        network gives, uncompiled and as it runs.   Float32 weights are let go afterwards.
        """
        kind, effect, told = str(self.dtype).removeprefix("torch."), has_tf32(self.device, self.dtype), []
        if self.tf32 and not effect:
            told.append(f"tf32 was asked for, and has no effect: {self.device.type} computes in {kind}")
        if (self.tf32 and effect) or self._exact or self.compiled:
            x = see(self.dtype)
            if self.tf32 and effect:
                many = flips(lambda: logits(x))
                told.append(f"tf32 is on: {many} of {len(x)} images are answered otherwise than in float32")
            if self._exact:
                exact = self._exact.logits(see(torch.float32))
                told.append(
                    f"{kind}: {differing(exact, plain(x))} in float32"
                    if exact is not None
                    else f"{kind}: it cannot be compared with float32, as the network cannot be copied"
                )
                self._exact = None
            if self.compiled:
                words = differing(plain(x), logits(x))
                why = self.compiled.failed
                told.append(
                    f"compile was asked for, and has no effect: {why}" if why else f"compile: {words} uncompiled"
                )
        return "; ".join(told) or None


class Exact:
    """A network's float32 weights, kept in main memory while another type of number is compared with them.

    None of it is there where the network cannot be copied.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net: nn.Module | None = None
        try:
            self._net = copy.deepcopy(net).float().eval().requires_grad_(False)
        except Exception as e:  # a module of one's own may hold anything
            log.info("float32 weights are not kept for a comparison: %s", e)

    @torch.no_grad()
    def logits(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n c"] | None:
        """Its logits, on the device of x."""
        if self._net is None:
            return None
        net = self._net.to(x.device)
        with tf32(False):
            return torch.cat([net(part) for part in x.split(8)])


class Compiled:
    """A network whose whole forward passes are compiled by torch. Call it only while no hook is on the network and no
    call of it is replaced.

    Where there is no compiler, or the network cannot be compiled, it runs as it is, and a warning says so once.
    """

    def __init__(self, net: nn.Module, name: str) -> None:
        self.net, self.name, self.failed = net, name, ""
        self._run: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n c"]:
        if not self.failed:
            try:
                if self._run is None:
                    self._run = torch.compile(self.net, backend=BACKEND)
                return self._run(x)
            except Exception as e:  # compilers raise nearly anything
                text = " ".join(str(e).split())
                self.failed = text[:120] or type(e).__name__
                log.warning("model.compile=true has no effect, %s runs uncompiled: %s", self.name, self.failed)
        out: Tensor = self.net(x)
        return out
