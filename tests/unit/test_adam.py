"""Adam for runs side by side is torch's Adam, a run at a time."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from edit_robust.editors.helpers.adam import Adam

Rounding = Literal["separate", "fused"]


@pytest.mark.parametrize("rounding", ["separate", "fused"])
def test_it_is_torchs(rounding: Rounding) -> None:
    """Each row with its own learning rate."""
    draw = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(3, 4, generator=draw), torch.randn(6, 3, 4, generator=draw)
    rates = torch.tensor([0.5, 0.1, 1e-3])
    ours, adam = start.clone(), Adam.like(start, rounding)
    for step, g in enumerate(gradients, start=1):
        ours = ours - adam.move(g, step, rates[:, None])
    for row, lr in enumerate(rates.tolist()):
        p = start[row].clone().requires_grad_(True)
        optimiser = torch.optim.Adam([p], lr=lr)
        for g in gradients:
            p.grad = g[row].clone()
            optimiser.step()
        assert torch.allclose(ours[row], p.detach(), rtol=1e-5, atol=1e-6)


def test_the_two_roundings_are_one_algorithm() -> None:
    draw = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(3, 4, generator=draw).double(), torch.randn(6, 3, 4, generator=draw).double()
    one, two = Adam.like(start, "separate"), Adam.like(start, "fused")
    for step, g in enumerate(gradients, start=1):
        assert torch.allclose(one.move(g, step, 0.5), two.move(g, step, 0.5), rtol=1e-6)


@pytest.mark.parametrize("rounding", ["separate", "fused"])
def test_runs_that_are_over_leave(rounding: Rounding) -> None:
    """The others go on as if they had been alone from the start."""
    draw = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, 3, 4, generator=draw)
    together, alone = Adam.like(gradients[0], rounding), Adam.like(gradients[0, [0, 2]], rounding)
    for step, g in enumerate(gradients[:2], start=1):
        together.move(g, step, 0.1)
        alone.move(g[[0, 2]], step, 0.1)
    together.keep(torch.tensor([True, False, True]))
    for step, g in enumerate(gradients[2:, [0, 2]], start=3):
        assert torch.equal(together.move(g, step, 0.1), alone.move(g, step, 0.1))
