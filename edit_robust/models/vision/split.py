"""Run a network once up to a module, and from there on as often as needed.

What ran to its end before the module begins is not run again: its outputs are put back in its place, and of these
only the ones that something later looks at are kept (found by asking autograd once). So any network can be started
in its middle, with shortcuts, without knowing how it is built. Where the halves do not give the whole network's own
numbers, the whole is run instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

#: Largest difference of logits, relative to the largest, that counts as none: a GPU's last bits differ between calls.
EQUAL = 1e-5
Place = tuple[int, int]  # (call, which of its outputs)


class _Enough(Exception):
    """Stops a forward pass."""


@dataclass(frozen=True)
class Branch:
    """Where a batch stands when the module begins: the tensors that later modules look at, and the module's input."""

    x: Tensor | None
    kept: dict[Place, Tensor]
    entry: Tensor

    def __len__(self) -> int:
        return len(self.entry)

    def take(self, rows: Tensor | slice) -> Branch:
        """The same for some of the images."""
        x = None if self.x is None else self.x[rows]
        return Branch(x, {k: t[rows] for k, t in self.kept.items()}, self.entry[rows])

    @staticmethod
    def cat(parts: Sequence[Branch]) -> Branch:
        """Several batches as one."""
        x = torch.cat([p.x for p in parts if p.x is not None]) if parts[0].x is not None else None
        kept = {k: torch.cat([p.kept[k] for p in parts]) for k in parts[0].kept}
        return Branch(x, kept, torch.cat([p.entry for p in parts]))

    def repeat(self, times: int) -> Branch:
        """The batch over and over, `times` times."""
        if times == 1:
            return self
        return Branch.cat([self] * times)


class Spine:
    """A network that can be entered at `module`.

    sample: one batch of normalised images, to find out with.   fast: False runs the whole network always.
    """

    def __init__(self, net: nn.Module, module: nn.Module, sample: Float[Tensor, "n 3 h w"], fast: bool = True) -> None:
        self.net, self.module, self.size = net, module, tuple(sample.shape[-2:])
        self._stubs: list[tuple[nn.Module, int]] = []  # (module, which of its calls), in the order they ended
        self._forms: list[tuple[list[torch.Size | None], TreeSpec]] = []  # of the calls' outputs
        self._live: frozenset[Place] = frozenset()
        self.fast = True
        self.fast = fast and self._works(sample)

    # -- the two halves ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def enter(self, x: Float[Tensor, "n 3 h w"]) -> Branch:
        """Run a batch up to the module. Where nothing runs before it, the images themselves are kept."""
        if not self.fast or not self._stubs:
            return Branch(x, {}, self._entry(x))
        outputs, entry = self._record(x, [m for m, _ in self._stubs])
        return Branch(None, {(i, j): tree_flatten(outputs[i])[0][j] for i, j in self._live}, entry)

    def leave(self, branch: Branch, output: Tensor | None = None, until: nn.Module | None = None) -> Tensor:
        """Run from the module on: logits, or the output of `until`. `output`: what the module gives, if it is known."""
        with self._giving(output), self._stopping(until) as seen:
            try:
                if branch.x is not None:
                    return self.net(branch.x)
                with self._restored(branch):
                    return self.net(self._blank(branch))
            except _Enough:
                return seen[0]

    # -- finding out -------------------------------------------------------------------------------------------------

    def _works(self, sample: Tensor) -> bool:
        """Learn what to keep from a sample, and see that the halves make the whole."""
        try:
            self._learn(sample[:1])
            branch = self.enter(sample)
            with torch.no_grad():
                whole = self.net(sample)
                close = EQUAL * float(whole.abs().max())
                return all(  # twice: nothing kept has changed
                    float((self.leave(branch) - whole).abs().max()) <= close for _ in range(2)
                )
        except Exception:  # a network that cannot be cut, for whatever reason, is run whole
            return False

    def _learn(self, sample: Tensor) -> None:
        open_calls: list[tuple[nn.Module, int]] = []
        counts: dict[nn.Module, int] = {}
        ended: list[tuple[nn.Module, int, int]] = []  # module, call, depth
        began: list[bool] = []

        def begin(m: nn.Module, args: Any) -> None:
            if m is self.module:
                began.append(True)
                raise _Enough
            counts[m] = counts.get(m, 0) + 1
            open_calls.append((m, counts[m] - 1))

        def end(m: nn.Module, args: Any, out: Any) -> None:
            _, call = open_calls.pop()
            depth = len(open_calls)
            while ended and ended[-1][2] > depth:  # its own parts are covered by it
                ended.pop()
            ended.append((m, call, depth))

        with _hooked([*self.net.modules()], begin, end), torch.no_grad(), suppress(_Enough):
            self.net(sample)
        if not began:
            raise ValueError("the module is never called")
        self._stubs = [(m, call) for m, call, _ in ended]
        if not self._stubs:
            return
        outputs, entry = self._record(sample, [m for m, _ in self._stubs])
        leaves: dict[Place, Tensor] = {}
        for i, out in enumerate(outputs):
            flat, spec = tree_flatten(out)
            self._forms.append(([o.shape[1:] if isinstance(o, Tensor) else None for o in flat], spec))
            leaves |= {(i, j): o.clone().requires_grad_(True) for j, o in enumerate(flat) if isinstance(o, Tensor)}
        with torch.enable_grad():  # whoever asks may have switched it off
            kept = {place: leaf.view_as(leaf) for place, leaf in leaves.items()}
            with self._restored(Branch(None, kept, entry)):
                out = self.net(sample)
            grads = torch.autograd.grad(out.sum(), list(leaves.values()), allow_unused=True)
        self._live = frozenset(place for place, g in zip(leaves, grads, strict=True) if g is not None)

    def _record(self, x: Tensor, modules: Sequence[nn.Module]) -> tuple[list[Any], Tensor]:
        """Outputs of the calls that end before the module begins, and what it is called with."""
        outputs: dict[tuple[nn.Module, int], Any] = {}
        counts: dict[nn.Module, int] = {}
        entry: list[Tensor] = []

        def keep(m: nn.Module, args: Any, out: Any) -> None:
            call = counts.get(m, 0)
            counts[m] = call + 1
            outputs[m, call] = out

        def stop(m: nn.Module, args: Any) -> None:
            entry.append(args[0])
            raise _Enough

        hooks = [m.register_forward_hook(keep) for m in dict.fromkeys(modules)]
        hooks.append(self.module.register_forward_pre_hook(stop))
        try:
            self.net(x)
        except _Enough:
            pass
        finally:
            for h in hooks:
                h.remove()
        return [outputs[stub] for stub in self._stubs], entry[0]

    def _entry(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def stop(m: nn.Module, args: Any) -> None:
            seen.append(args[0])
            raise _Enough

        hook = self.module.register_forward_pre_hook(stop)
        try:
            self.net(x)
        except _Enough:
            pass
        finally:
            hook.remove()
        return seen[0]

    # -- standing in for what has run --------------------------------------------------------------------------------

    def _blank(self, branch: Branch) -> Tensor:
        """An image batch that nothing looks at, of the right length."""
        return branch.entry.new_zeros(()).expand(len(branch), 3, *self.size)

    @contextmanager
    def _restored(self, branch: Branch) -> Iterator[None]:
        """Modules that have run give what they gave; later calls of the same modules run as ever."""
        blank = branch.entry.new_zeros(())
        waiting: dict[nn.Module, list[Any]] = {}
        for i, (m, _) in enumerate(self._stubs):
            shapes, spec = self._forms[i]
            flat = [
                branch.kept[i, j] if (i, j) in branch.kept else None if s is None else blank.expand(len(branch), *s)
                for j, s in enumerate(shapes)
            ]
            waiting.setdefault(m, []).append(tree_unflatten(flat, spec))

        def stand_in(m: nn.Module, outs: list[Any]) -> Callable[..., Any]:
            own = m.forward
            left = iter(outs)

            def forward(*args: Any, **kwargs: Any) -> Any:
                for out in left:
                    return out
                return own(*args, **kwargs)

            return forward

        try:
            for m, outs in waiting.items():
                m.forward = stand_in(m, outs)  # type: ignore[method-assign]
            yield
        finally:
            for m in waiting:
                m.__dict__.pop("forward", None)

    @contextmanager
    def _giving(self, output: Tensor | None) -> Iterator[None]:
        if output is None:
            yield
            return
        self.module.forward = lambda *_: output  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.module.__dict__.pop("forward", None)

    @contextmanager
    def _stopping(self, until: nn.Module | None) -> Iterator[list[Tensor]]:
        seen: list[Tensor] = []
        if until is None:
            yield seen
            return

        def stop(m: nn.Module, args: Any, out: Tensor) -> None:
            seen.append(out)
            raise _Enough

        hook = until.register_forward_hook(stop)
        try:
            yield seen
        finally:
            hook.remove()


@contextmanager
def _hooked(modules: Sequence[nn.Module], begin: Callable[..., None], end: Callable[..., None]) -> Iterator[None]:
    hooks = [h for m in modules for h in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))]
    try:
        yield
    finally:
        for h in hooks:
            h.remove()
