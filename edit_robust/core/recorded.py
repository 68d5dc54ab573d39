"""A function of one tensor and its gradient, evaluated many times: recorded once, and then run as a list of operations.

Where tensors are small, most of a step's time goes into the Python code of the network and into building and walking
the graph of its gradient. All of that comes to the same operations at every step: they are noted the first time, and
what does not depend on the argument is never computed again. The arithmetic is the same, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_MASKS = (torch.bool, torch.uint8)


class Differentiable:
    """values(x): what `function` gives for x.   gradient(): that of the sum of its first value, at the latest x.

    record: note the operations of the first evaluation and run them from the second on. They must be those of any
        other argument of the same shape; where that cannot be (`refused` says why), the function itself is called.
    """

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, ...]], record: bool = False) -> None:
        self.function, self.record, self.refused = function, record, ""
        self._operations: list[_Operation] = []
        self._tape: _Tape | None = None

    def values(self, x: Tensor) -> tuple[Tensor, ...]:
        if self._tape is not None:
            return self._tape.values(x)
        self._x = x.detach().clone().requires_grad_(True)
        self._operations = []
        with _Recording(self._operations if self.record else None), torch.enable_grad():
            self._out = self.function(self._x)
        return tuple(y.detach() for y in self._out)

    def gradient(self) -> Tensor:
        if self._tape is not None:
            return self._tape.gradient()
        ahead = len(self._operations)
        with _Recording(self._operations if self.record else None):
            (found,) = torch.autograd.grad(self._out[0].sum(), self._x)
        if self.record:
            try:
                self._tape = _Tape(self._operations, ahead, self._x, self._out, found)
            except _Refused as e:
                self.record, self.refused = False, str(e)
            self._operations = []
        return found


class _Refused(Exception):
    """These operations are not those of another argument."""


class _Operation:
    """One call of the kind that PyTorch dispatches, with everything it was given and gave."""

    def __init__(self, call: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        self.call, self.args, self.kwargs = call, args, kwargs
        self.result = result
        self.given = {_memory(t) for t in _tensors((args, list(kwargs.values())))}
        self.gave = {_memory(t) for t in _tensors(result)}

    def arguments(self) -> Iterator[tuple[Any, Any]]:
        """(argument of its schema, value), without those left out."""
        arguments = self.call._schema.arguments
        yield from zip(arguments, self.args, strict=False)
        yield from ((a, self.kwargs[a.name]) for a in arguments if a.name in self.kwargs)

    def written(self) -> set[int]:
        """The memory that it changes in place."""
        if not self.call._schema.is_mutable:
            return set()
        changed = [v for a, v in self.arguments() if a.alias_info is not None and a.alias_info.is_write]
        return {_memory(t) for t in _tensors(changed)}

    def varies(self) -> bool:
        """Whether its result's shape, or a number outside of tensors, depends on the numbers in what it is given, or
        on a generator: such an operation is not the same for another argument."""
        tags = self.call.tags
        if torch.Tag.nondeterministic_seeded in tags:
            rates = {a.name: a.default_value for a in self.call._schema.arguments}
            rates |= {a.name: value for a, value in self.arguments()}
            return rates.get("dropout_p") != 0  # attention draws nothing where nothing is dropped
        if torch.Tag.dynamic_output_shape in tags:  # an index is one by its numbers where it is a mask
            masks = [t.dtype in _MASKS for a, v in self.arguments() if a.name == "indices" for t in _tensors(v)]
            return not masks or any(masks)
        return torch.Tag.data_dependent_output in tags


class _Recording(TorchDispatchMode):
    """Inside the block every operation is added to the list; None: nothing is."""

    def __init__(self, operations: list[_Operation] | None) -> None:
        super().__init__()
        self.operations = operations

    def __enter__(self) -> Any:
        return self if self.operations is None else super().__enter__()

    def __exit__(self, *about: Any) -> None:
        if self.operations is not None:
            super().__exit__(*about)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        assert self.operations is not None
        self.operations.append(_Operation(func, args, kwargs or {}, result))
        return result


def _tensors(x: Any) -> Iterator[Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for part in x:
            yield from _tensors(part)


def _memory(x: Tensor) -> int:
    """The same for tensors that share memory."""
    return x.untyped_storage()._cdata


class _Tape:
    """The operations that depend on the argument, in order; every tensor among them has a number."""

    def __init__(
        self, operations: Sequence[_Operation], ahead: int, x: Tensor, out: Sequence[Tensor], gradient: Tensor
    ) -> None:
        moving = _moving(operations, x)
        self._number, self._held = {id(x): 0}, [None]
        self._forward = list(self._steps(operations[:ahead], moving))
        self._backward = list(self._steps(operations[ahead:], moving))
        self._out, self._gradient = [self._reference(y) for y in out], self._reference(gradient)
        del self._number  # the recorded tensors go with the operations, and their ids mean nothing any more
        self._forget_early()

    def _steps(self, operations: Sequence[_Operation], moving: set[int]) -> Iterator[tuple[Any, ...]]:
        """(call, arguments, keyword arguments, places in them to be filled with tensors, numbers of the results), to
        which `_forget_early` adds the numbers of tensors that no later step uses."""
        for op in operations:
            if not op.gave & moving:
                continue
            if op.call is torch.ops.aten.detach.default:
                self._number[id(op.result)] = self._number[id(op.args[0])]
                continue
            args, kwargs = [_copied(a) for a in op.args], {k: _copied(a) for k, a in op.kwargs.items()}
            places = [*self._places(args), *self._places(kwargs)]
            one = isinstance(op.result, Tensor)
            numbers = [self._new(y) for y in ((op.result,) if one else op.result)]
            yield op.call, args, kwargs, places, numbers[0] if one else numbers

    def _forget_early(self) -> None:
        """Let go of every tensor after its last use: memory that is warm is used again."""
        kept = {r for r in (*self._out, self._gradient) if isinstance(r, int)}
        for steps in (self._backward, self._forward):
            for k in reversed(range(len(steps))):
                *step, places, numbers = steps[k]
                given = numbers if isinstance(numbers, list) else [numbers]
                used = {n for _, _, n in places} | {n for n in given if n is not None}
                steps[k] = (*step, places, numbers, tuple(used - kept))
                kept |= used

    def _new(self, y: Any) -> int | None:
        """The number of a result; an operation in place gives back a tensor that has one."""
        if not isinstance(y, Tensor):
            return None
        if id(y) not in self._number:
            self._number[id(y)] = len(self._held)
            self._held.append(None)
        return self._number[id(y)]

    def _places(self, box: Any) -> Iterator[tuple[Any, Any, int]]:
        """(list or dict, index or key, number of the tensor that belongs there)"""
        for i, value in box.items() if isinstance(box, dict) else enumerate(box):
            if isinstance(value, Tensor) and id(value) in self._number:
                yield box, i, self._number[id(value)]
            elif isinstance(value, list):
                yield from self._places(value)

    def _reference(self, y: Tensor) -> int | Tensor:
        return self._number.get(id(y), y.detach())

    def _run(self, steps: Sequence[tuple[Any, ...]]) -> None:
        held: list[Any] = self._held
        for call, args, kwargs, places, numbers, last in steps:
            for box, i, n in places:
                box[i] = held[n]
            result = call(*args, **kwargs)
            if type(numbers) is int:
                held[numbers] = result
            else:
                for n, y in zip(numbers, result, strict=True):
                    if n is not None:
                        held[n] = y
            result = y = None
            for box, i, _ in places:
                box[i] = None
            for n in last:
                held[n] = None

    def _given(self, reference: int | Tensor) -> Tensor:
        found: Any = self._held[reference] if isinstance(reference, int) else reference
        return found.clone()

    def values(self, x: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            self._held[0] = x.detach()  # type: ignore[call-overload]
            self._run(self._forward)
        return tuple(self._given(y) for y in self._out)

    def gradient(self) -> Tensor:
        with torch.inference_mode():
            self._run(self._backward)
        return self._given(self._gradient)


def _copied(x: Any) -> Any:
    """Lists and tuples as new lists, so that places in them can be filled."""
    return [_copied(part) for part in x] if isinstance(x, list | tuple) else x


def _moving(operations: Sequence[_Operation], x: Tensor) -> set[int]:
    """The memory of whatever differs for another argument, or is written to. _Refused where that leads astray."""
    made: set[int] = set()
    written: set[int] = set()
    for op in operations:
        made |= op.gave - op.given
        written |= op.written()
    if not written <= made:
        raise _Refused("something that was there before is written to")
    moving = {_memory(x)} | written
    for op in operations:
        if op.given & moving:
            if op.varies():
                raise _Refused(f"{op.call} decides by numbers, or draws them")
            moving |= op.gave
    return moving
