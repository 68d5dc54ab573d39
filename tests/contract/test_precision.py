"""TensorFloat-32 is off unless it is asked for; then the status says how many answers it changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edit_robust.models.vision import classifier, precision
from edit_robust.models.vision.classifier import Classifier


@pytest.fixture(autouse=True)
def flags() -> Any:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def network(**options: Any) -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 200, bias=False), nn.Linear(200, 4, bias=False))
    return Classifier(net=net, input_size=8, device="cpu", mean=[0.5] * 3, std=[0.25] * 3, **options)


def test_it_is_off_unless_it_is_asked_for() -> None:
    precision.set_tf32(True)  # as torch has it for convolutions
    assert network().tf32 is False and allowed() == (False, False)
    network(tf32=True)
    assert allowed() == (True, True)
    network()
    assert allowed() == (False, False), "a model does not inherit what the one before it asked for"
    with precision.tf32(True):
        assert allowed() == (True, True)
    assert allowed() == (False, False)


def pictures(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(n)]


def coarse(x: Tensor) -> Tensor:
    """Rounded to 3 bits behind the point: a caricature of what a GPU does with 10."""
    m, e = torch.frexp(x)
    return torch.ldexp((m * 8).round() / 8, e)


@contextmanager
def coarsely(model: Classifier) -> Iterator[None]:
    """Inside the block every linear map rounds what it is given and its weights."""
    hooks = []
    for m in model.net.modules():
        if isinstance(m, nn.Linear):
            hooks.append(m.register_forward_hook(lambda m, a, o: nn.functional.linear(coarse(a[0]), coarse(m.weight))))
    try:
        yield
    finally:
        for h in hooks:
            h.remove()


def test_flips_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(tf32=True)
    images = pictures(60)
    x = model.see(images)
    exact = model.logits(x).argmax(-1)
    with coarsely(model):
        flipped = int((model.logits(x).argmax(-1) != exact).sum())
    assert 0 < flipped < 60
    monkeypatch.setattr(classifier, "has_tf32", lambda device, dtype: True)
    assert model.precision_note(lambda: images) == "tf32 is on: 0 of 60 images are answered otherwise than in float32"
    monkeypatch.setattr(precision, "lowered", lambda: coarsely(model))
    assert f"{flipped} of 60 images" in str(model.precision_note(lambda: images))
    assert allowed() == (True, True), "as the run has it"


def test_where_it_has_no_effect_it_says_so() -> None:
    def never() -> Any:
        raise AssertionError("no image needs to be decoded")

    assert "has no effect: cpu computes in float32" in str(network(tf32=True).precision_note(never))
    assert network().precision_note(never) is None
    assert not precision.has_tf32(torch.device("cuda"), torch.bfloat16)
