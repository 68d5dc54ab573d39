"""PRUNE's function of singular values: what it leaves, what it takes away, and what the public code got."""

from __future__ import annotations

import json
import math

import pytest
import torch
from helpers.golden import WHOLE
from helpers.small import relative

from edit_robust.core import LowRank
from edit_robust.editors.language.helpers.spectrum import excess, largest_singular_value, pruned_values, singular_above

LATER = WHOLE / "later-editors"


def change(rank: int, sizes: tuple[int, int], seed: int = 0) -> LowRank:
    """Factors with singular values of very different sizes."""
    draw = torch.Generator().manual_seed(seed)
    scale = torch.logspace(1.5, -1, rank)
    u, v = (torch.randn(n, rank, generator=draw) / n**0.5 for n in sizes)
    return LowRank(u * scale, v)


@pytest.mark.parametrize("base", [1.2, 2.0, math.e, 10.0])
def test_the_function(base: float) -> None:
    top = 3.0
    sigma = torch.tensor([0.0, 1.0, 3.0, 3.0 * (1 + 1e-9), 30.0, 300.0], dtype=torch.float64)
    found = pruned_values(sigma, top, base)
    assert torch.equal(found[:3], sigma[:3]), "the identity up to sigma_max"
    assert float(found[3]) == pytest.approx(top, abs=1e-6), "continuous"
    assert float(found[5] - found[4]) == pytest.approx(math.log(10, base), rel=1e-12), "logarithmic above it"
    assert (found.diff() > 0).all()
    enlarged = bool(pruned_values(torch.tensor([3.1]), top, base) > 3.1)
    assert enlarged == (top * math.log(base) < 1), "a small base makes values just above sigma_max larger"


@pytest.mark.parametrize("rank", [1, 6, 20, 40, 70])
@pytest.mark.parametrize("sizes", [(32, 48), (48, 32)])
def test_what_is_taken_away(rank: int, sizes: tuple[int, int]) -> None:
    """Against the singular value decomposition of the whole matrix, through factors and through the Gram matrix."""
    delta, top = change(rank, sizes), 1.0
    a, s, b = torch.linalg.svd(delta.dense().double(), full_matrices=False)
    less, sigma = excess(delta, top, math.e)
    assert len(sigma) == int((s > top).sum()) == less.u.shape[1] > 0
    assert torch.allclose(sigma, s[: len(sigma)], rtol=1e-5)
    left = delta.dense() - less.dense()
    assert relative(left, a @ torch.diag(pruned_values(s, top, math.e)) @ b) < 1e-5
    u, values, v = singular_above(delta, top)
    assert relative(u @ torch.diag(values) @ v.T, (a[:, : len(values)] * s[: len(values)]) @ b[: len(values)]) < 1e-5
    assert relative(u.T @ u, torch.eye(len(values)).double()) < 1e-6
    assert relative(v.T @ v, torch.eye(len(values)).double()) < 1e-6


def test_nothing_is_taken_from_a_small_change() -> None:
    delta = change(3, (32, 48)).scale(1e-3)
    less, sigma = excess(delta, 1.0, math.e)
    assert less.u.shape == (32, 0) and less.v.shape == (48, 0) and len(sigma) == 0
    assert float(less.dense().abs().max()) == 0.0


def test_largest_singular_value() -> None:
    w = torch.randn(20, 50)
    for m in (w, w.T):
        assert largest_singular_value(m) == pytest.approx(float(torch.linalg.svdvals(m.double())[0]), rel=1e-10)


@pytest.mark.skipif(not (LATER / "expected.json").is_file(), reason="recorded outputs do not lie beside the repository")
@pytest.mark.parametrize("run", ["prune_b1", "prune_b5"])
def test_recorded_spectra(run: str) -> None:
    """Singular values before and after, as PRUNE's own code had them with each base."""
    recorded = json.loads((LATER / "expected.json").read_text())[run]["variants"]
    for variant, base in (("log_e", math.e), ("log_1.2", 1.2), ("log_2", 2.0)):
        assert len(recorded[variant]["spectrum"]) == 3
        for found in recorded[variant]["spectrum"].values():
            before = torch.tensor(found["sigma_before"], dtype=torch.float64)
            after = pruned_values(before, found["sigma_max_original"], base)
            assert after.tolist() == pytest.approx(found["sigma_after"], rel=1e-5)
