"""A function of one tensor and its gradient, evaluated many times: recorded once, and then run as a list of operations.

Where tensors are small, most of a step's time goes into the Python code of the network and into building and walking
the graph of its gradient. All of that comes to the same operations at every step: they are noted the first time, and
what does not depend on the argument is never computed again. The arithmetic is the same, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
#: PyTorch's own functions for operations as they are recorded: the same kernels, found in half the time.
_DIRECT: dict[Any, Callable[..., Any]] = {
    _ATEN.view.default: Tensor.view,
    _ATEN.expand.default: Tensor.expand,
    _ATEN.transpose.int: torch.transpose,
    _ATEN.t.default: torch.t,
    _ATEN.unsqueeze.default: torch.unsqueeze,
    _ATEN.squeeze.dim: torch.squeeze,
    _ATEN.select.int: torch.select,
    _ATEN.add.Tensor: torch.add,
    _ATEN.sub.Tensor: torch.sub,
    _ATEN.mul.Tensor: torch.mul,
    _ATEN.div.Tensor: torch.div,
    _ATEN.mm.default: torch.mm,
    _ATEN.bmm.default: torch.bmm,
    _ATEN.addmm.default: torch.addmm,
    _ATEN.native_layer_norm.default: torch.native_layer_norm,
}
_MASKS = (torch.bool, torch.uint8)
_NESTED = (list, tuple)  # made once: `list | tuple` is made anew wherever it stands


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
    """One call of the kind that PyTorch dispatches, with everything it was given and gave.

    given, gave: the memory of the tensors among its arguments and results.
    """

    def __init__(self, call: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        self.call, self.args, self.kwargs, self.result = call, args, kwargs, result
        self.given: set[int] = set()
        self.gave: set[int] = set()

    def locate(self, memory: dict[int, int]) -> None:
        """Find out `given` and `gave`; memory: of the tensors met so far, by id."""
        _note(self.args, memory, self.given)
        if self.kwargs:
            _note(self.kwargs.values(), memory, self.given)
        _note((self.result,), memory, self.gave)

    def arguments(self) -> Iterator[tuple[Any, Any]]:
        """(argument of its schema, value), without those left out."""
        arguments = self.call._schema.arguments
        yield from zip(arguments, self.args, strict=False)
        yield from ((a, self.kwargs[a.name]) for a in arguments if a.name in self.kwargs)

    def written(self) -> list[Tensor]:
        """The tensors that it changes in place."""
        if not self.call._schema.is_mutable:
            return []
        changed = [v for a, v in self.arguments() if a.alias_info is not None and a.alias_info.is_write]
        return _tensors(changed)

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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and what sees to that takes longer than a small operation

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


def _note(values: Iterable[Any], memory: dict[int, int], found: set[int]) -> None:
    """Add the memory of all tensors in nested lists and tuples."""
    for t in values:
        if isinstance(t, Tensor):
            name = id(t)
            if name not in memory:
                memory[name] = t.untyped_storage()._cdata  # the same for tensors that share memory
            found.add(memory[name])
        elif isinstance(t, _NESTED):
            _note(t, memory, found)


def _tensors(x: Any) -> list[Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(x, Tensor):
        return [x]
    return [t for part in x for t in _tensors(part)] if isinstance(x, _NESTED) else []


#: Call the function with the values of some numbers, note its result under another one; whether that is all it does.
_Call = tuple[Callable[..., Any], tuple[int, ...], int, bool]
#: The same, and then forget further numbers.
_Step = tuple[Callable[..., Any], tuple[int, ...], int, tuple[int, ...]]


class _Tape:
    """The operations that depend on the argument, in order. Every value that goes in or comes out has a number."""

    def __init__(
        self, operations: Sequence[_Operation], ahead: int, x: Tensor, out: Sequence[Tensor], gradient: Tensor
    ) -> None:
        moving, self._written = _moving(operations, x)
        self._held: list[Any] = [None]
        self._number = {id(x): 0}  # of tensors that move
        self._constant: set[int] = set()
        forward = [step for op in operations[:ahead] for step in self._steps(op, moving)]
        backward = [step for op in operations[ahead:] for step in self._steps(op, moving)]
        self._out, self._gradient = [self._input(y) for y in out], self._input(gradient)
        del self._number, self._written  # the recorded tensors go with the operations, and their ids mean nothing
        kept = {*self._constant, *self._out, self._gradient}
        self._backward = _forgetting(backward, kept)
        self._forward = _forgetting(forward, kept)

    def _steps(self, op: _Operation, moving: set[int]) -> Iterator[_Call]:
        if not op.gave & moving:
            return
        if op.call is _ATEN.detach.default:
            self._number[id(op.result)] = self._number[id(op.args[0])]
            return
        nested = any(isinstance(a, _NESTED) and _tensors(a) for a in op.args)
        if op.call is _ATEN.cat.default and not op.gave & self._written:
            moves = [id(y) in self._number for y in op.args[0]]
            if not all(moves) and len({y.dim() for y in op.args[0]}) == 1:  # empty ones may have fewer dimensions
                joined = _Joined(op, moves)
                yield joined, tuple(map(self._input, compress(op.args[0], moves))), self._output(op.result), True
                return
        if nested or any(id(v) in self._number for v in op.kwargs.values()):
            given: Sequence[Any] = _tensors((op.args, tuple(op.kwargs.values())))
            function = _filled(op.call, op.args, op.kwargs)
        else:
            call = _DIRECT.get(op.call, op.call)
            given, function = op.args, partial(call, **op.kwargs) if op.kwargs else call
        inputs = tuple(self._input(value) for value in given)
        pure = not op.call._schema.is_mutable
        if isinstance(op.result, Tensor):
            yield function, inputs, self._output(op.result), pure
            return
        together = self._output(None)
        yield function, inputs, together, pure
        for k, y in enumerate(op.result):
            if isinstance(y, Tensor):
                yield itemgetter(k), (together,), self._output(y), True

    def _input(self, value: Any) -> int:
        """The number of a tensor that moves; a new one for anything else, which stays as it is."""
        if id(value) in self._number:
            return self._number[id(value)]
        self._held.append(value.detach() if isinstance(value, Tensor) else value)
        self._constant.add(len(self._held) - 1)
        return len(self._held) - 1

    def _output(self, y: Tensor | None) -> int:
        """The number of a result; an operation in place gives back a tensor that has one."""
        if y is not None and id(y) in self._number:
            return self._number[id(y)]
        self._held.append(None)
        if y is not None:
            self._number[id(y)] = len(self._held) - 1
        return len(self._held) - 1

    def _run(self, steps: Sequence[_Step]) -> None:
        held = self._held
        for function, given, number, last in steps:
            held[number] = function(*[held[i] for i in given])
            for n in last:
                held[n] = None

    def values(self, x: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            self._held[0] = x.detach()
            self._run(self._forward)
        return tuple(self._held[n].clone() for n in self._out)

    def gradient(self) -> Tensor:
        with torch.inference_mode():
            self._run(self._backward)
        found: Tensor = self._held[self._gradient].clone()
        return found


def _forgetting(steps: Sequence[_Call], kept: set[int]) -> list[_Step]:
    """The steps whose results are used, each forgetting what no later one uses: memory that is warm is used again.
    kept: numbers that are used later; those that the steps use are added."""
    found: list[_Step] = []
    for function, given, number, pure in reversed(steps):
        if pure and number not in kept:
            continue
        used = {*given, number}
        found.append((function, given, number, tuple(used - kept)))
        kept |= used
    return found[::-1]


class _Joined:
    """`cat` of tensors, some of which never change: those are put into the result once, and the others every time.

    moves: whether each of its tensors is one of the others.
    """

    def __init__(self, op: _Operation, moves: Sequence[bool]) -> None:
        parts, axis = op.args[0], op.args[1] if len(op.args) > 1 else 0
        with torch.no_grad():
            self.whole = op.result.detach().clone()
            places = self.whole.split([y.shape[axis] for y in parts], axis)
        self.places = list(compress(places, moves))

    def __call__(self, *parts: Tensor) -> Tensor:
        for place, x in zip(self.places, parts, strict=True):
            place.copy_(x)
        return self.whole


_PLACE = object()


def _filled(call: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """The call as a function of all tensors in its arguments, one after the other."""

    def emptied(x: Any) -> Any:
        return _PLACE if isinstance(x, Tensor) else [emptied(y) for y in x] if isinstance(x, list | tuple) else x

    def put(x: Any, tensors: Iterator[Tensor]) -> Any:
        return next(tensors) if x is _PLACE else [put(y, tensors) for y in x] if isinstance(x, list) else x

    frame, named = emptied(args), {k: emptied(v) for k, v in kwargs.items()}

    def run(*tensors: Tensor) -> Any:
        left = iter(tensors)
        return call(*[put(x, left) for x in frame], **{k: put(v, left) for k, v in named.items()})

    return run


def _moving(operations: Sequence[_Operation], x: Tensor) -> tuple[set[int], set[int]]:
    """The memory of whatever differs for another argument, or is written to; and of the latter alone. _Refused where
    that leads astray."""
    memory: dict[int, int] = {id(x): x.untyped_storage()._cdata}
    made: set[int] = set()
    written: set[int] = set()
    for op in operations:
        op.locate(memory)
        made |= op.gave - op.given
        written |= {memory[id(t)] for t in op.written()}
    if not written <= made:
        raise _Refused("something that was there before is written to")
    moving = {memory[id(x)], *written}
    for op in operations:
        if op.given & moving:
            if op.varies():
                raise _Refused(f"{op.call} decides by numbers, or draws them")
            moving |= op.gave
    return moving, written
