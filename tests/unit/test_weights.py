"""Weights that no change can be added to are refused by name: packed, sharded, offloaded, of other types."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edit_robust.core import Editable, UserError
from edit_robust.core.weights import check_weights


def inside(module: nn.Module) -> nn.Module:
    """A network with the module somewhere in it."""
    block = nn.Module()
    block.add_module("fc", nn.Linear(2, 2))
    block.add_module("down", module)
    return nn.Sequential(nn.Embedding(3, 2), block)


def refused(module: nn.Module, *words: str) -> None:
    with pytest.raises(UserError) as e:
        Editable(inside(module), {})
    text = str(e.value)
    assert "\n" not in text and len(text) < 250, text
    assert "1.down" in text, f"the module is not named: {text}"
    assert all(w in text for w in words), text


@pytest.mark.parametrize("name", ["Linear8bitLt", "Linear4bit", "QuantLinear", "TorchQuantLinear", "WQLinear_GEMM"])
def test_quantised_by_the_name_of_the_class(name: str) -> None:
    kind = type(name, (nn.Linear,), {})
    refused(kind(2, 2), "quantised", name)


def test_quantised_by_what_stands_in_for_the_weight() -> None:
    module = nn.Module()
    module.register_buffer("qweight", torch.zeros(2, 2, dtype=torch.int32))
    refused(module, "quantised")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.complex64])
def test_quantised_by_the_type_of_the_numbers(dtype: torch.dtype) -> None:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(torch.zeros(2, 2, dtype=dtype), requires_grad=False))
    refused(module, "1.down.weight", str(dtype).removeprefix("torch."))


class _Packed(Tensor):
    """A tensor class that looks like bfloat16 from outside, as torchao's are."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [torch.zeros(a.shape) if isinstance(a, _Packed) else a for a in args]
        out = func(*plain, **(kwargs or {}))
        return _Packed._make_wrapper_subclass(cls, out.shape, dtype=torch.bfloat16)  # type: ignore[attr-defined]


class DTensor(_Packed):
    """Named as torch's sharded tensor."""


@pytest.mark.parametrize(("kind", "says"), [(_Packed, "stored as _Packed"), (DTensor, "sharded over several")])
def test_weights_in_tensor_classes(kind: type[_Packed], says: str) -> None:
    module = nn.Module()
    weight = kind._make_wrapper_subclass(kind, (2, 2), dtype=torch.bfloat16)  # type: ignore[attr-defined]
    module.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    refused(module, "1.down.weight", says)


def test_sharded_flat_parameters() -> None:
    flat = type("FlatParameter", (nn.Parameter,), {})
    module = nn.Module()
    module.register_parameter("_flat_param", flat(torch.zeros(4), requires_grad=False))
    refused(module, "sharded")


def test_offloaded_and_missing_weights() -> None:
    refused(nn.Linear(2, 2, device="meta"), "1.down.weight", "offloaded")
    refused(nn.LazyLinear(2), "1.down.weight", "no values yet")


def test_torchs_own_quantised_modules() -> None:
    if not torch.backends.quantized.supported_engines:
        pytest.skip("this build of torch has no quantised kernels")
    quantised = torch.ao.nn.quantized.dynamic.Linear(2, 2)
    refused(quantised, "quantised")


def test_plain_weights_pass() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        check_weights(inside(nn.Linear(2, 2, dtype=dtype)))
    check_weights(inside(nn.MultiheadAttention(4, 2)))
