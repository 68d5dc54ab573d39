"""A model's weights: changed, put back to the bit, in the right orientation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edit_robust.core import Delta, Dense, Editable, Layer, LowRank, UserError


class Net(nn.Module):
    def __init__(self, d_in: int = 6, d_out: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(d_in, d_out)
        self.conv1d = Conv1D(d_out, d_in)
        self.conv2d = nn.Conv2d(3, d_out, (2, 5), bias=False)
        self.other = nn.Parameter(torch.randn(3))
        nn.init.normal_(self.conv1d.bias)
        self.requires_grad_(False)


def editable(d_in: int = 6, d_out: int = 4, seed: int = 0) -> Editable:
    torch.manual_seed(seed)
    net = Net(d_in, d_out)
    kinds = ("linear", "conv1d", "conv2d")
    return Editable(net, {k: Layer(k, i, k, net.get_submodule(k)) for i, k in enumerate(kinds)})  # type: ignore[arg-type]


def state(model: Editable) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.net.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in a) and set(a) == set(b)


@pytest.mark.parametrize("shape", [(6, 4), (5, 5)])
def test_a_matrix_maps_inputs_to_outputs(shape: tuple[int, int]) -> None:
    """Also where the matrix is square, and its shape says nothing about its orientation."""
    model = editable(*shape)
    x = torch.randn(shape[0])
    for kind in ("linear", "conv1d"):
        layer = model.layers[kind]
        assert layer.shape == (shape[1], shape[0])
        out = layer.matrix() @ x + model.param(str(layer.bias_name))
        assert torch.allclose(out, layer.module(x), atol=1e-6)
        assert torch.equal(layer.native(layer.matrix()), layer.weight)
    conv = model.layers["conv2d"]
    patch = torch.randn(1, 3, 2, 5)
    assert torch.allclose(conv.matrix() @ patch.flatten(), conv.module(patch).flatten(), atol=1e-5)
    assert torch.equal(conv.native(conv.matrix()), conv.weight) and conv.bias_name is None


@pytest.mark.parametrize("shape", [(6, 4), (5, 5)])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_a_change_maps_inputs_to_changes_of_outputs(shape: tuple[int, int], kind: str) -> None:
    model = editable(*shape)
    layer, x = model.layers[kind], torch.randn(shape[0])
    term = LowRank(torch.randn(shape[1], 2), torch.randn(shape[0], 2))
    before = layer.module(x)
    with model.patched(Delta({layer.weight_name: term, str(layer.bias_name): Dense(torch.ones(shape[1], 1))})):
        assert torch.allclose(layer.module(x) - before, term.dense() @ x + 1, atol=1e-5)
    with model.patched(Delta({layer.weight_name: Dense(term.dense())})):
        assert torch.allclose(layer.module(x) - before, term.dense() @ x, atol=1e-5)


def change(model: Editable) -> Delta:
    return Delta({n: Dense(torch.randn(model.matrix(n).shape)) for n in model.parameter_names(model.layers)})


def test_patched_puts_every_bit_back() -> None:
    model = editable()
    before, position, delta = state(model), model.position, change(model)
    with model.patched(delta):
        assert not any(torch.equal(model.param(n), before[n]) for n in delta.terms)
        assert model.position != position
        inside = state(model)
        with model.patched(change(model)):
            pass
        assert same(state(model), inside)
    assert same(state(model), before) and model.position == position
    with pytest.raises(ZeroDivisionError), model.patched(delta):
        raise ZeroDivisionError
    assert same(state(model), before) and model.position == position


def test_a_change_that_does_not_fit_leaves_nothing_behind() -> None:
    model = editable()
    before = state(model)
    good = Dense(torch.ones(4, 6))
    half = Delta({"linear.weight": good, "conv1d.weight": Dense(torch.ones(6, 4))})
    with pytest.raises(UserError, match=r"\(6, 4\)"), model.patched(half):
        pass
    assert same(state(model), before)
    with pytest.raises(UserError, match="no parameter"), model.patched(Delta({"linear.weight": good, "nope": good})):
        pass
    assert same(state(model), before)


def test_alpha() -> None:
    model = editable()
    before, delta = state(model), change(model)
    with model.patched(delta.scale(0.0)):
        assert same(state(model), before), "alpha 0 is the unedited model"
    with model.patched(delta.scale(1.0)):
        one = state(model)
    with model.patched(delta):
        assert same(state(model), one)
    with model.patched(delta.scale(0.25)):
        for n in delta.terms:
            assert torch.allclose(model.param(n), before[n] + 0.25 * (one[n] - before[n]), atol=1e-6)


def test_held_and_difference() -> None:
    model = editable()
    before, position = state(model), model.position
    first, second = change(model), change(model)
    with pytest.raises(ZeroDivisionError), model.held(model.parameter_names(["linear", "conv1d"])) as snapshot:
        for d in (first, second):
            model.add(Delta({n: t for n, t in d.terms.items() if "conv2d" not in n}))
        total = model.difference(snapshot)
        assert total.base == position and set(total.terms) == {
            f"{k}.{p}" for k in ("linear", "conv1d") for p in ("weight", "bias")
        }
        for n, t in total.terms.items():
            assert torch.allclose(t.dense(), first.terms[n].dense() + second.terms[n].dense(), atol=1e-5)
        raise ZeroDivisionError
    assert same(state(model), before) and model.position == position


def test_scratch_trains_and_puts_back() -> None:
    model = editable()
    before, position = state(model), model.position
    names = model.parameter_names(["linear", "conv1d"])
    with pytest.raises(ZeroDivisionError), model.scratch(names) as scratch:
        x = torch.randn(6)
        loss = (model.net.linear(x) ** 2).sum() + (model.net.conv1d(x) ** 2).sum()  # type: ignore[operator]
        loss.backward()
        gradient = {n: model.param(n).grad.clone() for n in names}  # type: ignore[union-attr]
        torch.optim.SGD([model.param(n) for n in names], lr=0.1).step()
        found = scratch.diff()
        assert torch.allclose(found.terms["linear.weight"].dense(), -0.1 * gradient["linear.weight"], atol=1e-6)
        assert torch.allclose(found.terms["conv1d.weight"].dense(), -0.1 * gradient["conv1d.weight"].T, atol=1e-6)
        assert found.terms["conv1d.bias"].shape == (4, 1)
        raise ZeroDivisionError
    assert same(state(model), before) and model.position == position
    assert all(not p.requires_grad and p.grad is None for p in model.net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    model = editable()
    model.net.to(dtype)
    before = model.matrix("conv1d.weight").float()
    step = 3e-3 * torch.randn(4, 6)
    with model.patched(Delta({"conv1d.weight": Dense(step)})):
        assert torch.equal(model.matrix("conv1d.weight"), (before + step).to(dtype))


def test_fingerprints() -> None:
    one, two, other = editable(), editable(), editable(seed=1)
    assert one.base == two.base != other.base and one.position == one.base
    with torch.no_grad():
        two.param("other")[1] += 1e-3
    assert Editable(two.net, two.layers).base != one.base
    delta = change(one)
    one.add(delta)
    third = editable()
    third.add(delta)
    assert one.position == third.position != one.base and one.base == third.base
    third.add(delta.scale(-1.0))
    assert third.position not in (one.position, third.base), "the same weights up to rounding are not the same bits"


def test_names() -> None:
    model = editable()
    assert model.parameter_names(["conv2d", "linear"]) == ["conv2d.weight", "linear.weight", "linear.bias"]
    assert model.matrix("other").shape == (3, 1)
    with pytest.raises(UserError, match=r"no parameter 'linear\.wait'"):
        model.param("linear.wait")


# -- what was announced --------------------------------------------------------------------------------------------


def test_changes_of_what_was_not_announced_are_refused() -> None:
    model = editable()
    before, position = state(model), model.position
    good, other = Dense(torch.ones(4, 6)), Dense(torch.ones(3, 1))
    with pytest.raises(UserError) as e, model.held(["linear.weight"]):
        model.add(Delta({"linear.weight": good}))
        model.add(Delta({"linear.weight": good, "other": other}))
    assert str(e.value) == "the change touches other, which was not announced: only linear.weight may change here"
    assert same(state(model), before) and model.position == position
    inner = Delta({"other": other})
    with pytest.raises(UserError, match="touches other"), model.held(["linear.weight"]), model.patched(inner):
        pass
    with model.held(["linear.weight"]):
        with pytest.raises(UserError, match="touches other"):
            model.add(Delta({"linear.weight": good, "other": other}))
        assert torch.equal(model.param("linear.weight"), before["linear.weight"]), "half of it has been added"
        with model.held(["other"]):  # a block of its own puts it back
            model.add(Delta({"other": other}))
            with pytest.raises(UserError, match=r"touches linear\.weight"):
                model.add(Delta({"linear.weight": good}))
        assert same(state(model), before)
    with model.patched(Delta({"other": other})), pytest.raises(UserError, match=r"touches linear\.weight"):
        model.add(Delta({"linear.weight": good}))
    assert same(state(model), before) and model.position == position
    model.add(Delta({"other": other}))
    assert torch.equal(model.param("other"), before["other"] + 1), "outside of every block anything may be added"


def test_tied_weights_have_two_names() -> None:
    net = Net()
    net.linear.weight = nn.Parameter(net.other.reshape(3, 1).expand(3, 2).clone(), requires_grad=False)
    net.add_module("tied", nn.Linear(2, 3))
    net.tied.weight = net.linear.weight  # type: ignore[union-attr]
    model = Editable(net, {})
    before = state(model)
    with model.held(["linear.weight"]):
        model.add(Delta({"tied.weight": Dense(torch.ones(3, 2))}))
        assert torch.equal(model.param("linear.weight"), before["linear.weight"] + 1)
    assert same(state(model), before)


def test_many_announced_names_are_not_all_listed() -> None:
    model = editable()
    with pytest.raises(UserError) as e, model.held(model.parameter_names(model.layers)):
        model.add(Delta({"other": Dense(torch.ones(3, 1))}))
    assert "only linear.weight, linear.bias, conv1d.weight and 2 others may change here" in str(e.value)


def test_patched_hashes_a_change_only_when_its_position_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, hashed = editable(), []
    inner = Delta.digest
    monkeypatch.setattr(Delta, "digest", lambda self: hashed.append(1) or inner(self))
    one, two = change(model), change(model)
    with model.patched(one), model.patched(two):
        pass
    assert not hashed
    with model.patched(one):
        first = model.position
        with model.patched(two):
            second = model.position
        assert model.position == first != second != model.base
    assert model.position == model.base and len(hashed) == 2
    kept = editable()
    kept.add(one)
    assert kept.position == first, "a change that is added and one that is patched lead to the same place"
    kept.add(two)
    assert kept.position == second
