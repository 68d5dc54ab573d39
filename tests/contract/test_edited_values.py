"""Changes of many parameters take the weights' place: nothing is hashed, copied or left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from edit_robust.core import Delta, Dense, LowRank
from edit_robust.models.vision import classifier, edited_values
from edit_robust.models.vision.classifier import Classifier

ALPHAS = [0.0, 0.25, 0.5, 1.0]


def network(dtype: str = "float32", **options: Any) -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(200, 5)
    )
    return Classifier(net=net, input_size=16, device="cpu", dtype=dtype, batch_size=4, **options)


def everywhere(model: Classifier, seed: int = 0) -> Delta:
    """A change of every parameter, of low rank at the second convolution."""
    g = torch.Generator().manual_seed(seed)
    terms: dict[str, Any] = {}
    for name, _ in model.net.named_parameters():
        d_out, d_in = model.matrix(name).shape
        terms[name] = Dense(0.1 * torch.randn(d_out, d_in, generator=g))
    u, v = torch.randn(8, 2, generator=g), torch.randn(72, 2, generator=g)
    return Delta(terms | {"2.weight": LowRank(0.1 * u, v)}, model.base)


def one_by_one(model: Classifier, x: Tensor, deltas: list[Delta]) -> list[list[Tensor]]:
    """The reference: the weights are changed, the whole network is run, the weights are put back."""
    found: list[list[Tensor]] = []
    for delta in deltas:
        found.append([])
        for a in ALPHAS:
            with model.patched(delta.scale(a)):
                found[-1].append(model.net(x).float())
    return found


def same(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
    return all(torch.equal(p, q) for some, others in zip(a, b, strict=True) for p, q in zip(some, others, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_are_those_of_changed_weights_to_the_bit(dtype: str) -> None:
    model = network(dtype)
    deltas, x = [everywhere(model, seed) for seed in (0, 1)], model.sample(4)
    with torch.no_grad():
        expected = one_by_one(model, x, deltas)
        assert same(model.logits_along(x, [(d, ALPHAS) for d in deltas]), expected)
        with model.at_base(model.snapshot([]).values):
            for _ in range(2):
                assert same(model.logits_along(x, [(d, ALPHAS) for d in deltas]), expected)


def test_nothing_is_hashed_or_written_and_values_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    deltas, x = [everywhere(model, seed) for seed in (0, 1)], model.sample(4)
    before = {n: (p.data_ptr(), p._version, p.detach().clone()) for n, p in model.net.named_parameters()}
    made: list[float] = []
    scale = Dense.scale
    monkeypatch.setattr(Dense, "scale", lambda self, alpha: made.append(alpha) or scale(self, alpha))
    with mock.patch.object(Delta, "digest", side_effect=AssertionError("a change was hashed")), model.at_base({}):
        for _ in range(3):
            model.logits_along(x, [(d, ALPHAS) for d in deltas])
    assert len(made) == (len(deltas[0].terms) - 1) * len(deltas) * len(ALPHAS)  # one term is of low rank
    for name, (place, version, value) in before.items():
        p = model.net.get_parameter(name)
        assert (p.data_ptr(), p._version) == (place, version) and torch.equal(p, value), "never moved, never written to"


def test_values_that_do_not_fit_are_made_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    deltas, x = [everywhere(model, seed) for seed in (0, 1)], model.sample(4)
    size = sum(p.numel() * 4 for p in model.net.parameters())
    lines = [(d, ALPHAS) for d in deltas]
    for limit, kept in ((0, 0), (3 * size, 3), (100 * size, 8)):
        monkeypatch.setattr(classifier, "room", lambda device, limit=limit: limit)
        values: list[edited_values.EditedValues] = []
        monkeypatch.setattr(classifier, "EditedValues", _noted(values))
        with model.at_base({}), torch.no_grad():
            assert same(model.logits_along(x, lines), one_by_one(model, x, deltas))
            assert same(model.logits_along(x, lines), one_by_one(model, x, deltas))
        assert values[0].kept_bytes <= limit
        assert len(values[0]._kept) == kept


def _noted(made: list[edited_values.EditedValues]) -> Callable[..., edited_values.EditedValues]:
    def make(*args: Any) -> edited_values.EditedValues:
        made.append(edited_values.EditedValues(*args))
        return made[-1]

    return make


def test_values_of_other_weights_are_not_used() -> None:
    model = network()
    delta, x = everywhere(model), model.sample(4)
    with model.at_base({}), torch.no_grad():
        model.logits_along(x, [(delta, ALPHAS)])
        with model.patched(everywhere(model, 5)):
            assert same(model.logits_along(x, [(delta, ALPHAS)]), one_by_one(model, x, [delta]))
        assert same(model.logits_along(x, [(delta, ALPHAS)]), one_by_one(model, x, [delta]))


def test_tied_weights_take_both_changes() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48), nn.Linear(48, 3))
    net[3].weight = net[1].weight
    model = Classifier(net=net, input_size=4, device="cpu")
    g = torch.Generator().manual_seed(3)
    delta = Delta({f"{i}.weight": Dense(0.1 * torch.randn(48, 48, generator=g)) for i in (1, 3)}, model.base)
    x = model.sample(2)
    with torch.no_grad():
        assert same(model.logits_along(x, [(delta, ALPHAS)]), one_by_one(model, x, [delta]))
    assert net[3].weight is net[1].weight


def test_weights_come_back_when_the_network_fails() -> None:
    model = network()
    before = {n: (p.data_ptr(), p.detach().clone()) for n, p in model.net.named_parameters()}
    delta, x = everywhere(model), model.sample(4)
    split = model.split_at("0")
    failing = mock.patch.object(split, "suffix", side_effect=RuntimeError("out of memory"))
    with failing, pytest.raises(RuntimeError, match="out of memory"):
        model.logits_along(x, [(delta, ALPHAS)])
    for name, (place, value) in before.items():
        p = model.net.get_parameter(name)
        assert p.data_ptr() == place and torch.equal(p, value)


@pytest.mark.parametrize("place", ["2", "3"])
def test_a_change_of_few_directions_runs_through_its_factors(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a convolution and at a linear layer, with a bias beside; its product is never made."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(768, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 5))
    model = network() if place == "2" else Classifier(net=linear, input_size=16, device="cpu", batch_size=4)
    layer = next(one for one in model.layers.values() if one.name == place)
    d_out, d_in = layer.shape
    g = torch.Generator().manual_seed(3)
    rank = 2 if place == "2" else 1
    low = LowRank(0.1 * torch.randn(d_out, rank, generator=g), torch.randn(d_in, rank, generator=g))
    bias = Dense(0.1 * torch.randn(d_out, 1, generator=g))
    delta = Delta({layer.weight_name: low, f"{place}.bias": bias}, model.base)
    x = model.sample(4)
    with torch.no_grad():
        expected = one_by_one(model, x, [delta])[0]
    monkeypatch.setattr(LowRank, "dense", mock.Mock(side_effect=AssertionError("made")))
    found = model.logits_along(x, [(delta, ALPHAS)])[0]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert (found[-1] - found[0]).abs().max() > 0.01


def test_what_several_askers_share_runs_once() -> None:
    """The unedited module whose changes several ask about runs once for all; each gets what it would get alone."""
    model = network()
    g = torch.Generator().manual_seed(3)
    few = [Delta({"2.weight": LowRank(torch.randn(8, 1, generator=g), torch.randn(72, 1, generator=g))}, model.base)]
    few += [Delta({"2.weight": Dense(torch.randn(8, 72, generator=g))}, model.base) for _ in range(3)]
    x, ran = model.sample(4), []
    alone = [model.logits_along(x, [(d, ALPHAS)]) for d in few]
    hook = model.net[2].register_forward_hook(lambda m, a, o: ran.append(len(o)))
    together = dict(model.logits_along_each(x, [[(d, ALPHAS)] for d in few]))
    hook.remove()
    assert all(same(together[i], one) for i, one in enumerate(alone))
    own = [n for n in ran if n == len(x)]  # what is put in the module's place counts as a call of more images
    assert len(own) == 1 and len(ran) == 1 + len(few)
