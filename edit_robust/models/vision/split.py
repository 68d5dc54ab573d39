"""Run a network once up to a module, and from there on as often as needed.

Calls that ended before the module begins are not run again: `SplitNetwork.prefix` records their outputs, and
`SplitNetwork.suffix` puts these outputs in the calls' places. Only the outputs that later calls use are kept; a run of
autograd on a sample tells which ones. So any network can be split at any module, shortcuts included, without knowing
how it is built. Where the two halves do not give the whole network's logits, the whole network is run instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

#: Two sets of logits are equal when they differ by at most this share of the largest: a GPU's last bits vary.
EQUAL = 1e-5
Place = tuple[int, int]  # (index of a call, index of one of its outputs)


class _Stop(Exception):
    """Ends a forward pass early."""


@dataclass(frozen=True)
class Features:
    """A batch of images where the prefix ends: all that the suffix needs to run.

    images: the normalised images [n, 3, h, w], where the suffix is the whole network; None elsewhere.
    kept:   outputs of the prefix that the suffix uses, each [n, ...].
    input:  what the split module is called with, [n, ...].
    calls:  what the prefix's calls return, by module, once a suffix has run.
    """

    images: Tensor | None
    kept: dict[Place, Tensor]
    input: Tensor
    calls: dict[nn.Module, list[Any]] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.input)

    def take(self, rows: Tensor | slice) -> Features:
        """The features of some of the images."""
        images = None if self.images is None else self.images[rows]
        return Features(images, {k: t[rows] for k, t in self.kept.items()}, self.input[rows])

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """Several batches as one."""
        images = torch.cat([p.images for p in parts if p.images is not None]) if parts[0].images is not None else None
        kept = {k: torch.cat([p.kept[k] for p in parts]) for k in parts[0].kept}
        return Features(images, kept, torch.cat([p.input for p in parts]))

    @property
    def nbytes(self) -> int:
        """Memory of all of it."""
        images = [] if self.images is None else [self.images]
        return sum(t.numel() * t.element_size() for t in (*images, *self.kept.values(), self.input))

    def repeat(self, times: int) -> Features:
        """The batch `times` times in a row."""
        if times == 1:
            return self
        return Features.cat([self] * times)


class SplitNetwork:
    """A network as prefix and suffix: what runs before `module` is first called, and the rest, `module` included.

    sample: a batch of normalised images to learn the split from and to test it on.
    fast:   False makes the prefix empty, so that every suffix runs the whole network. As an attribute it says whether
            the network is split: it also becomes False where the halves do not give the whole network's logits.
    whole:  runs the whole network where nothing is replaced in it, such as a compiled one.
    """

    def __init__(
        self,
        net: nn.Module,
        module: nn.Module,
        sample: Float[Tensor, "n 3 h w"],
        fast: bool = True,
        whole: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.whole = whole or net
        self.net, self.module, self.size = net, module, tuple(sample.shape[-2:])
        self._calls: list[tuple[nn.Module, int]] = []  # of the prefix: (module, how often it was called before)
        self._forms: list[tuple[list[torch.Size | None], TreeSpec]] = []  # shapes and structure of the calls' outputs
        self._used: frozenset[Place] = frozenset()
        self.fast, self.bytes_each = True, 0  # bytes of an image's features
        self.fast = fast and self._works(sample)

    # -- the two halves ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prefix(self, x: Float[Tensor, "n 3 h w"]) -> Features:
        """The features of normalised images where the module begins; the images themselves where nothing precedes."""
        if not self.fast or not self._calls:
            return Features(x, {}, self._module_input(x))
        outputs, module_input = self._record(x, [m for m, _ in self._calls])
        return Features(None, {(i, j): tree_flatten(outputs[i])[0][j] for i, j in self._used}, module_input)

    def suffix(self, features: Features, output: Tensor | None = None, until: nn.Module | None = None) -> Tensor:
        """The network's logits [n, classes] from features on, at the present weights.

        output: taken as the split module's output instead of calling it.   until: stop after this module, and return
        its output instead of the logits.
        """
        with self._with_output(output), self._stop_after(until) as found:
            try:
                if features.images is not None:
                    as_it_is = until is None and output is None  # no hook is on it, and no call is replaced
                    return (self.whole if as_it_is else self.net)(features.images)
                with self._replaced(features):
                    return self.net(self._placeholder(features))
            except _Stop:
                return found[0]

    @property
    def used_calls(self) -> frozenset[tuple[nn.Module, int]]:
        """The prefix's calls whose outputs the suffix uses: (module, how often it was called before)."""
        return frozenset(self._calls[i] for i, _ in self._used)

    @property
    def has_prefix(self) -> bool:
        """Whether anything runs before the module, and need not run again."""
        return self.fast and bool(self._calls)

    def features_of(self, outputs: Mapping[tuple[nn.Module, int], Any], module_input: Tensor) -> Features:
        """The features, from the outputs of `used_calls` and the split module's input."""
        kept = {(i, j): tree_flatten(outputs[self._calls[i]])[0][j] for i, j in self._used}
        return Features(None, kept, module_input)

    # -- learning the split ------------------------------------------------------------------------------------------

    def _works(self, sample: Tensor) -> bool:
        """Learn what to keep from a sample, and compare the halves' logits with the whole network's."""
        try:
            self._learn(sample[:1])
            features = self.prefix(sample)
            self.bytes_each = features.nbytes // len(features)
            with torch.no_grad():
                whole = self.net(sample)
                close = EQUAL * float(whole.abs().max())
                return all(  # twice: the suffix must not have changed what is kept
                    float((self.suffix(features) - whole).abs().max()) <= close for _ in range(2)
                )
        except Exception:  # a network that cannot be split, for whatever reason, is run whole
            return False

    def _learn(self, sample: Tensor) -> None:
        self._calls = self._calls_before(sample)
        if not self._calls:
            return
        outputs, module_input = self._record(sample, [m for m, _ in self._calls])
        leaves: dict[Place, Tensor] = {}
        for i, out in enumerate(outputs):
            flat, spec = tree_flatten(out)
            self._forms.append(([o.shape[1:] if isinstance(o, Tensor) else None for o in flat], spec))
            leaves |= {(i, j): o.clone().requires_grad_(True) for j, o in enumerate(flat) if isinstance(o, Tensor)}
        with torch.enable_grad():  # the caller may have switched it off
            kept = {place: leaf.view_as(leaf) for place, leaf in leaves.items()}
            with self._replaced(Features(None, kept, module_input)):
                out = self.net(sample)
            grads = torch.autograd.grad(out.sum(), list(leaves.values()), allow_unused=True)
        self._used = frozenset(place for place, g in zip(leaves, grads, strict=True) if g is not None)

    def _calls_before(self, sample: Tensor) -> list[tuple[nn.Module, int]]:
        """Calls that end before the split module begins, without the calls inside them, in the order of their ends."""
        running: list[tuple[nn.Module, int]] = []
        counts: dict[nn.Module, int] = {}
        ended: list[tuple[nn.Module, int, int]] = []  # module, how often it was called before, depth of the call
        reached: list[bool] = []

        def begin(m: nn.Module, args: Any) -> None:
            if m is self.module:
                reached.append(True)
                raise _Stop
            counts[m] = counts.get(m, 0) + 1
            running.append((m, counts[m] - 1))

        def end(m: nn.Module, args: Any, out: Any) -> None:
            _, call = running.pop()
            depth = len(running)
            while ended and ended[-1][2] > depth:  # calls inside this one
                ended.pop()
            ended.append((m, call, depth))

        with _hooked([*self.net.modules()], begin, end), torch.no_grad(), suppress(_Stop):
            self.net(sample)
        if not reached:
            raise ValueError("the module is never called")
        return [(m, call) for m, call, _ in ended]

    def _record(self, x: Tensor, modules: Sequence[nn.Module]) -> tuple[list[Any], Tensor]:
        """Outputs of the prefix's calls, and the split module's input."""
        outputs: dict[tuple[nn.Module, int], Any] = {}
        counts: dict[nn.Module, int] = {}

        def keep(m: nn.Module, args: Any, out: Any) -> None:
            call = counts.get(m, 0)
            counts[m] = call + 1
            outputs[m, call] = out

        hooks = [m.register_forward_hook(keep) for m in dict.fromkeys(modules)]
        try:
            module_input = self._module_input(x)
        finally:
            for h in hooks:
                h.remove()
        return [outputs[call] for call in self._calls], module_input

    def _module_input(self, x: Tensor) -> Tensor:
        """What the split module is called with; nothing runs after that."""
        found: list[Tensor] = []

        def stop(m: nn.Module, args: Any, kwargs: Any) -> None:
            found.append(next(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)))
            raise _Stop

        hook = self.module.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with suppress(_Stop):
                self.net(x)
        finally:
            hook.remove()
        return found[0]

    # -- the suffix: recorded outputs in place of calls --------------------------------------------------------------

    def _placeholder(self, features: Features) -> Tensor:
        """A batch of images of the right length, whose values nothing uses."""
        return features.input.new_zeros(()).expand(len(features), 3, *self.size)

    @contextmanager
    def _replaced(self, features: Features) -> Iterator[None]:
        """Inside the block the prefix's calls return the kept outputs; later calls of the same modules run as usual."""
        waiting = features.calls
        if not waiting:
            zero = features.input.new_zeros(())
            for i, (m, _) in enumerate(self._calls):
                shapes, spec = self._forms[i]
                blank = [None if s is None else zero.expand(len(features), *s) for s in shapes]
                flat = [features.kept.get((i, j), blank[j]) for j in range(len(shapes))]
                waiting.setdefault(m, []).append(tree_unflatten(flat, spec))

        def replacement(m: nn.Module, outputs: list[Any]) -> Callable[..., Any]:
            own = m.forward
            left = iter(outputs)

            def forward(*args: Any, **kwargs: Any) -> Any:
                for out in left:
                    return out
                return own(*args, **kwargs)

            return forward

        try:
            for m, outputs in waiting.items():
                m.forward = replacement(m, outputs)  # type: ignore[method-assign]
            yield
        finally:
            for m in waiting:
                m.__dict__.pop("forward", None)

    @contextmanager
    def _with_output(self, output: Tensor | None) -> Iterator[None]:
        """Inside the block the split module returns `output` without running; None: it runs."""
        if output is None:
            yield
            return
        self.module.forward = lambda *_, **__: output  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.module.__dict__.pop("forward", None)

    @contextmanager
    def _stop_after(self, until: nn.Module | None) -> Iterator[list[Tensor]]:
        """Inside the block a forward pass ends when `until` has run; the list then holds its output."""
        found: list[Tensor] = []
        if until is None:
            yield found
            return

        def stop(m: nn.Module, args: Any, out: Tensor) -> None:
            found.append(out)
            raise _Stop

        hook = until.register_forward_hook(stop)
        try:
            yield found
        finally:
            hook.remove()


@torch.no_grad()
def features_at(networks: Sequence[SplitNetwork], x: Float[Tensor, "n 3 h w"]) -> list[Features]:
    """The features of the same images at several splits of one network, from one run of it up to the last of them.

    They are those that each split's own `prefix` gives: where a split was found to work, what runs behind it leaves its
    features as they are.
    """
    shared = [n for n in networks if n.has_prefix]
    if len(shared) < 2:
        return [n.prefix(x) for n in networks]
    wanted = frozenset[tuple[nn.Module, int]]().union(*(n.used_calls for n in shared))
    outputs: dict[tuple[nn.Module, int], Any] = {}
    inputs: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def begin(m: nn.Module, args: Any, kwargs: Any) -> None:
        if m not in inputs:
            inputs[m] = next(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
            if all(n.module in inputs for n in shared):
                raise _Stop

    def end(m: nn.Module, args: Any, out: Any) -> None:
        call = counts.get(m, 0)
        counts[m] = call + 1
        if (m, call) in wanted:
            outputs[m, call] = out

    hooks = [m.register_forward_hook(end) for m in dict.fromkeys(m for m, _ in wanted)]
    hooks += [m.register_forward_pre_hook(begin, with_kwargs=True) for m in dict.fromkeys(n.module for n in shared)]
    try:
        with suppress(_Stop):
            shared[0].net(x)
    finally:
        for h in hooks:
            h.remove()
    return [n.features_of(outputs, inputs[n.module]) if n.has_prefix else n.prefix(x) for n in networks]


@contextmanager
def _hooked(modules: Sequence[nn.Module], begin: Callable[..., None], end: Callable[..., None]) -> Iterator[None]:
    hooks = [h for m in modules for h in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))]
    try:
        yield
    finally:
        for h in hooks:
            h.remove()
