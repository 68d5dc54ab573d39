"""Warning signs: what they tell of keys, and which of several values is the worst."""

from __future__ import annotations

import math

import pytest
import torch

from edit_robust.core.signs import BY_KEY, SIGNS
from edit_robust.editors.language.helpers.moments import Inverse
from edit_robust.editors.language.helpers.signs import TOLD, key_signs, over_layers


def test_of_keys_against_their_definitions() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=g, dtype=torch.float64)
    c = x.T @ x / 50
    bare, mean = torch.randn(2, 3, 4, generator=g)
    told = key_signs(bare, mean, Inverse.of(c))
    for k0, k, signs in zip(bare.double(), mean.double(), told, strict=True):
        u = torch.linalg.solve(c, k)
        assert signs["key_leverage"] == pytest.approx(float(k @ u), rel=1e-8)
        assert signs["key_ratio"] == pytest.approx(float(k0 @ u) / float(k @ u), rel=1e-8)
        assert signs["cos_bare_mean"] == pytest.approx(float(k0 @ k / k0.norm() / k.norm()), rel=1e-6)
    same = key_signs(mean, mean, Inverse.of(c))
    assert all(s["key_ratio"] == pytest.approx(1) and s["cos_bare_mean"] == pytest.approx(1) for s in same)
    assert [set(s) for s in key_signs(bare, mean, None)] == [{"cos_bare_mean"}] * 3
    assert set(told[0]) == set(TOLD) <= set(BY_KEY)


def test_the_worst_layer_counts() -> None:
    layers = {"a": [{"key_ratio": 0.9}, {"key_ratio": 0.5}], "b": [{"key_ratio": -0.01}, {"key_ratio": 0.6}]}
    first, second = over_layers(layers, 2)
    assert first == {"key_ratio@a": 0.9, "key_ratio@b": -0.01, "key_ratio": -0.01}
    assert second["key_ratio"] == 0.5 and over_layers({}, 2) == [{}, {}]


@pytest.mark.parametrize("sign", SIGNS, ids=lambda s: s.key)
def test_risk_rises_with_the_danger(sign) -> None:  # type: ignore[no-untyped-def]
    good, bad = (1.0, 10.0) if sign.danger == "high" else (1.0, 0.1)
    assert sign.risk(bad) > sign.risk(good) and sign.risk(-bad) == sign.risk(bad)
    assert sign.risk(math.nan) == math.inf and sign.passes(math.nan, 1.0)
    line = sign.line(good, 5.0)
    assert sign.passes(bad, line) and not sign.passes(good, line)
