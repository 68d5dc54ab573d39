"""Every parameter as a matrix [d_out, d_in]: y = M x, whatever module owns it and however it is stored."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edit_robust.core import Delta, Dense, Editable, UserError
from edit_robust.core.projections import is_projection, kind_of


class Net(nn.Module):
    """Of every kind of owner one, all of them square, so that shapes tell nothing."""

    def __init__(self, d: int = 6) -> None:
        super().__init__()
        self.linear = nn.Linear(d, d, bias=False)
        self.conv1d = Conv1D(d, d)
        self.conv2d = nn.Conv2d(d, d, (2, 3), bias=False)
        self.grouped = nn.Conv2d(d, d, 3, groups=2)
        self.attention = nn.MultiheadAttention(d, 2)
        self.embedding = nn.Embedding(d, d)
        self.proj = nn.Parameter(torch.randn(d, d))
        self.other = nn.Parameter(torch.randn(d, d))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.token = nn.Parameter(torch.randn(1, 1, d))
        nn.init.normal_(self.conv1d.weight)
        self.requires_grad_(False)


@pytest.fixture
def model() -> Editable:
    return Editable(Net(), {}, transposed=frozenset({"proj"}))


def test_matrices_map_inputs_to_outputs(model: Editable) -> None:
    net, x = model.net, torch.randn(6)
    assert isinstance(net, Net)
    values = {
        "linear.weight": (net.linear(x), x),
        "conv1d.weight": (net.conv1d(x) - net.conv1d.bias, x),
        "attention.out_proj.weight": (net.attention.out_proj(x) - net.attention.out_proj.bias, x),
        "attention.in_proj_weight": (net.attention.in_proj_weight @ x, x),
        "embedding.weight": (net.embedding.weight @ x, x),  # as an output head that is tied to it would use it
        "proj": (x @ net.proj, x),
        "other": (net.other @ x, x),
    }
    for name, (y, z) in values.items():
        assert torch.allclose(model.matrix(name) @ z, y, atol=1e-6), name
    patch = torch.randn(1, 6, 2, 3)
    assert torch.allclose(model.matrix("conv2d.weight") @ patch.flatten(), net.conv2d(patch).flatten(), atol=1e-5)
    assert model.matrix("grouped.weight").shape == (6, 27)
    assert model.matrix("token").shape == (1, 6) and model.matrix("scale").shape == (1, 1)
    inputs_first = [n for n, _ in net.named_parameters() if model.stored_as(n) == "inputs-first"]
    assert sorted(inputs_first) == ["conv1d.weight", "proj"]


def test_changes_arrive_the_right_way_round(model: Editable) -> None:
    """Adding, taking the difference and storing agree for every parameter."""
    net = model.net
    names = [n for n, _ in net.named_parameters()]
    with model.held(names) as before:
        change = {n: Dense(torch.randn(model.matrix(n).shape)) for n in names}
        was = {n: model.matrix(n).clone() for n in names}
        model.add(Delta(change))
        found = model.difference(before)
        for n in names:
            assert torch.equal(model.matrix(n), was[n] + change[n].dense()), n
            assert torch.equal(found.terms[n].dense(), model.matrix(n) - was[n]), n
            assert torch.equal(model.as_stored(n, model.matrix(n)), model.param(n)), n
            assert torch.equal(model.as_matrix(n, before.values[n]), was[n]), n
    x = torch.randn(6)
    wanted = x @ net.proj + change["proj"].dense() @ x  # type: ignore[operator]
    with model.patched(Delta({"proj": change["proj"]})):
        assert torch.allclose(x @ net.proj, wanted, atol=1e-5)  # type: ignore[operator]


def test_weights_whose_matrix_is_no_view_are_changed_all_the_same() -> None:
    """A convolution in channels-last memory: its matrix is a copy, and the change must reach the weight."""
    net = nn.Sequential(nn.Conv2d(4, 5, 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = Editable(net.requires_grad_(False), {})
    before = model.param("0.weight").clone()
    with model.patched(Delta({"0.weight": Dense(torch.ones(5, 36))})):
        assert torch.equal(model.param("0.weight"), before + 1)
    assert torch.equal(model.param("0.weight"), before)


def test_every_projection_of_gpt2(tiny_gpt2: nn.Module) -> None:
    """All four Conv1D of a block are stored transposed, not the down-projection alone."""
    model = Editable(tiny_gpt2, {})
    for name, module in tiny_gpt2.named_modules():
        if isinstance(module, Conv1D):
            x = torch.randn(module.nx)
            assert torch.allclose(model.matrix(f"{name}.weight") @ x + module.bias, module(x), atol=1e-4), name
    assert model.matrix("transformer.h.0.mlp.c_fc.weight").shape == (64, 16)
    assert model.matrix("transformer.wte.weight").shape == (50, 16)


@pytest.fixture
def tiny_gpt2() -> nn.Module:
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    return transformers.GPT2LMHeadModel(config).eval().requires_grad_(False)


def test_what_a_projection_is() -> None:
    net = Net()
    found = {name: is_projection(m) for name, m in net.named_children()}
    assert found == {
        **dict.fromkeys(("linear", "conv1d", "conv2d"), True),
        **dict.fromkeys(("grouped", "attention", "embedding"), False),
    }
    assert is_projection(net.attention.out_proj)
    assert [kind_of(m) for m in (net.linear, net.conv1d, net.conv2d)] == ["linear", "conv1d", "conv2d"]
    assert not is_projection(nn.Conv1d(2, 2, 1)), "torch's Conv1d is a convolution, whatever its name resembles"


def test_declared_parameters_must_be_there_and_be_matrices() -> None:
    with pytest.raises(UserError, match="no parameter 'visual'"):
        Editable(Net(), {}, transposed=frozenset({"visual"}))
    with pytest.raises(ValueError, match="token is declared"):
        Editable(Net(), {}, transposed=frozenset({"token"}))


def test_matrices_share_memory(model: Editable) -> None:
    for name in ("linear.weight", "conv1d.weight", "conv2d.weight", "proj", "attention.in_proj_weight"):
        matrix: Tensor = model.matrix(name)
        assert matrix.untyped_storage().data_ptr() == model.param(name).untyped_storage().data_ptr(), name
