"""The quick form of GPT-2's activation gives the module's own numbers and gradients, wherever it stands."""

from pathlib import Path

import pytest
import torch
from helpers.tiny import tiny_checkpoint
from torch import nn
from transformers.activations import GELUTanh, NewGELUActivation

from edit_robust.core.recorded import Differentiable
from edit_robust.models.language.activations import QuickGelu, quicken
from edit_robust.models.language.causal_lm import CausalLM

OWN = [NewGELUActivation(), GELUTanh(), nn.GELU(approximate="tanh")]


def quick(own: nn.Module) -> nn.Module:
    net = nn.Sequential(own)
    quicken(net)
    assert isinstance(net[0], QuickGelu)
    return net[0]


@pytest.mark.parametrize("own", OWN, ids=lambda m: type(m).__name__)
def test_numbers_and_gradients_are_the_modules_own(own: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.linspace(-40, 40, 10001), torch.randn(7001) * 2]).reshape(2, -1).t().requires_grad_(True)
    wanted = own.double()(x.double())
    found = quick(own)(x)
    given = torch.randn(wanted.shape)
    assert (found - wanted).abs().max() < 5e-6
    (right,) = torch.autograd.grad(wanted, x, given.double())
    (mine,) = torch.autograd.grad(found, x, given)
    assert (mine - right).abs().max() < 2e-5
    with torch.no_grad():
        assert torch.equal(quick(own)(x), found)


def test_what_is_broken_stays_broken_and_other_numbers_are_the_modules() -> None:
    module = quick(nn.GELU(approximate="tanh"))
    odd = module(torch.tensor([float("nan"), float("inf"), -1e30, 0.0, 1e-40]))
    assert odd[0].isnan() and odd[1] == torch.inf and odd[2].abs() < 1e-6 and odd[3] == 0 and odd[4] == 5e-41
    half = torch.linspace(-3, 3, 50).bfloat16()
    assert torch.equal(module(half), nn.functional.gelu(half, approximate="tanh"))
    assert module(torch.empty(0, 3)).shape == (0, 3)


def test_a_recorded_step_holds_it() -> None:
    module = quick(nn.GELU(approximate="tanh"))
    weight = torch.linspace(-1, 1, 30)
    plain, recorded = (Differentiable(lambda x: ((module(x) * weight).sum(1),), record=r) for r in (False, True))
    for scale in (0.5, 2.0, -1.0):
        x = scale * torch.linspace(-2, 2, 60).reshape(2, 30)
        for one in (plain, recorded):
            one.found = (*one.values(x), one.gradient())  # type: ignore[attr-defined]
        assert all(torch.equal(a, b) for a, b in zip(plain.found, recorded.found, strict=True))  # type: ignore[attr-defined]
    assert not recorded.refused and recorded._tape is not None


def test_narrow_networks_and_the_plain_path_keep_their_own(tmp_path: Path) -> None:
    net = nn.Sequential(nn.GELU(approximate="tanh"), nn.GELU(), nn.ReLU())
    quicken(net)
    assert [type(m) for m in net] == [QuickGelu, nn.GELU, nn.ReLU]
    fast, plain = (CausalLM("builtin:fact-gpt", device="cpu", fast=f) for f in (True, False))
    assert [sum(isinstance(m, QuickGelu) for m in one.net.modules()) for one in (fast, plain)] == [4, 0]
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        torch.testing.assert_close(fast.whole(ids), plain.whole(ids), rtol=1e-5, atol=2e-5)
    assert list(fast.net.state_dict()) == list(plain.net.state_dict())
    narrow = CausalLM(str(tiny_checkpoint("gpt2", tmp_path)), device="cpu")
    assert not narrow.quick and not any(isinstance(m, QuickGelu) for m in narrow.net.modules())
