"""Functions that are recorded once and then run as a list of operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edit_robust.core.recorded import Differentiable

Function = Callable[[Tensor], tuple[Tensor, ...]]
N, D = 5, 8


def network() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(D, 2, 16, dropout=0.0, batch_first=True, activation="gelu")
    return layer.eval().requires_grad_(False)


def with_attention() -> Function:
    net, beside = network(), torch.randn(N, 3, D)
    return lambda x: ((net(torch.cat([x[:, None], beside], 1)) ** 2).mean((1, 2)), x.norm(dim=1))


def in_place(x: Tensor) -> tuple[Tensor, ...]:
    """Writes into memory that is made on the way: all of it, and a part."""
    y = torch.zeros(N, D).index_put((torch.arange(N), torch.arange(N)), x[:, 0])
    z = torch.empty_like(y).fill_(2.0)
    z[1:3] += y[1:3] * x[1:3]
    return ((z * y).sum(1).exp(), z)


def several_results(x: Tensor) -> tuple[Tensor, ...]:
    values, index = x.sort(1)
    parts = values.split([3, D - 3], 1)
    return ((parts[0] * torch.linspace(1, 2, 3)).sum(1) + index.float().mean(), parts[1])


def joined(x: Tensor) -> tuple[Tensor, ...]:
    """Tensors that stay before, between and behind those that move; one result is written to afterwards, one begins
    with an empty tensor of one dimension, as PyTorch still allows."""
    stays = torch.linspace(0, 1, 2 * N).reshape(N, 2)
    wide = torch.cat([stays, x, stays + 1, x.square()], -1)
    written = torch.cat([x, stays], 1)
    written[:, -1] += x[:, 0]
    unused = torch.cat([stays, x], 1).exp()
    assert unused.shape == written.shape
    with_nothing = torch.cat([torch.empty(0), x, stays], 1)
    return ((wide * torch.linspace(-1, 1, wide.shape[1])).sum(1) * written.sum(1), wide, written, with_nothing)


FUNCTIONS: dict[str, Callable[[], Function]] = {
    "attention": with_attention,
    "in place": lambda: in_place,
    "joined": lambda: joined,
    "several results": lambda: several_results,
    "a constant beside it": lambda: lambda x: (x.square().sum(1), torch.ones(2)),
    "its argument itself": lambda: lambda x: (x.sum(1), x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_bits_as_the_function_itself(name: str) -> None:
    function = FUNCTIONS[name]()
    plain, recorded = Differentiable(function), Differentiable(function, record=True)
    for seed in range(4):
        x = torch.randn(N, D, generator=torch.Generator().manual_seed(seed))
        for _ in range(2):  # values may be asked for alone, as at an optimisation's last step
            found, wanted = recorded.values(x), plain.values(x)
            assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(found, wanted, strict=True))
            if seed != 2:
                assert torch.equal(recorded.gradient(), plain.gradient())
    assert recorded.refused == ""


def test_what_nobody_uses_is_not_run_again() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        x.exp().sin()
        return (x.square().sum(1),)

    recorded = Differentiable(function, record=True)
    recorded.values(torch.ones(2, 3))
    recorded.gradient()
    assert recorded._tape is not None
    assert len(recorded._tape._forward) == 2


def test_the_function_is_called_once_and_its_results_stay_as_they_are() -> None:
    calls: list[int] = []

    def function(x: Tensor) -> tuple[Tensor, ...]:
        calls.append(1)
        return (x.square().sum(1),)

    recorded = Differentiable(function, record=True)
    kept = []
    for i in range(5):
        (y,) = recorded.values(torch.full((2, 3), float(i)))
        kept.append((y, recorded.gradient()))
    assert calls == [1]
    for i, (y, gradient) in enumerate(kept):
        assert torch.equal(y, torch.full((2,), 3.0 * i * i)) and torch.equal(gradient, torch.full((2, 3), 2.0 * i))
    kept[0][1].requires_grad_(True)  # results are ordinary tensors


def refused() -> dict[str, Function]:
    outside = torch.zeros(N, D)

    def writes(x: Tensor) -> tuple[Tensor, ...]:
        outside.copy_(x.detach())
        return ((x * outside).sum(1),)

    def decides(x: Tensor) -> tuple[Tensor, ...]:
        return (x.sum(1) if bool(x[0, 0] > 0) else -x.sum(1),)

    return {
        "something that was there": writes,
        "_local_scalar_dense|is_nonzero": decides,
        "index": lambda x: (x[x > 0].sum()[None],),
        "bernoulli|rand|dropout": lambda x: (nn.functional.dropout(x, 0.5).sum(1),),
    }


@pytest.mark.parametrize("why", refused())
def test_what_is_not_the_same_for_other_arguments_is_never_run_from_a_record(why: str) -> None:
    function = refused()[why]
    recorded = Differentiable(function, record=True)
    for sign in (1.0, -1.0, 1.0):
        x = sign * torch.arange(1.0, N * D + 1).reshape(N, D)
        torch.manual_seed(1)
        (found,) = recorded.values(x)
        gradient = recorded.gradient()
        torch.manual_seed(1)
        plain = Differentiable(function)
        assert torch.equal(found, plain.values(x)[0]) and torch.equal(gradient, plain.gradient())
    assert any(word in recorded.refused for word in why.split("|")), recorded.refused
