"""A quicker arithmetic is off unless it is asked for; then the status says how many answers it changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edit_robust.core import Delta, Dense
from edit_robust.models.vision import precision
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
    monkeypatch.setattr(precision, "has_tf32", lambda device, dtype: True)
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


def images_net(**options: Any) -> Classifier:
    """A small convolutional network that is wavering: its classes' logits are close."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)),
    )
    with torch.no_grad():
        net[-1].bias -= net(torch.randn(50, 3, 8, 8)).mean(0)
    return Classifier(net=net, input_size=8, device="cpu", mean=[0.5] * 3, std=[0.25] * 3, **options)


def test_bfloat16_on_a_processor_is_compared_with_float32() -> None:
    images = pictures(200)
    exact = images_net()
    expected = exact.logits(exact.see(images)).argmax(-1)
    model = images_net(dtype="bfloat16", batch_size=7)
    assert model.param("0.weight").dtype == torch.bfloat16 and model.see(images[:1]).dtype == torch.bfloat16
    flipped = int((model.logits(model.see(images)).argmax(-1) != expected).sum())
    assert 0 < flipped < 50
    assert model.precision_note(lambda: images) == (
        f"bfloat16: {flipped} of 200 images are answered otherwise than in float32"
    )
    assert model.precision_note(lambda: images) is None, "the float32 weights are let go"


def test_answers_in_bfloat16_along_a_line() -> None:
    model = images_net(dtype="bfloat16")
    layer = model.layer_at(1)
    g = torch.Generator().manual_seed(0)
    delta = Delta({layer.weight_name: Dense(0.1 * torch.randn(layer.shape, generator=g))}, model.base)
    x = model.see(pictures(16))
    (found,) = model.logits_along(x, [(delta, [0.0, 0.5, 1.0])])
    model.fast = False
    (plain,) = model.logits_along(x, [(delta, [0.0, 0.5, 1.0])])
    for a, b in zip(found, plain, strict=True):
        assert a.dtype == torch.float32 and float((a - b).abs().max()) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.thorough)])
def test_whole_passes_are_compiled(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "BACKEND", backend)  # aot_eager: all of torch.compile but the compiler itself
    torch._dynamo.reset()
    plain, model, images = images_net(), images_net(compile=True), pictures(20)
    x = model.see(images)
    assert torch.allclose(model.logits(x), plain.logits(x), atol=1e-6)
    assert model.precision_note(lambda: images) == "compile: 0 of 20 images are answered otherwise than uncompiled"
    g = torch.Generator().manual_seed(0)
    terms = {n: Dense(0.1 * torch.randn(plain.matrix(n).shape, generator=g)) for n, _ in plain.net.named_parameters()}
    deltas = [(Delta(terms), [0.0, 0.5, 1.0]), (Delta({"2.weight": terms["2.weight"]}), [1.0])]
    with model.at_base({}):
        for a, b in zip(model.logits_along(x, deltas), plain.logits_along(x, deltas), strict=True):
            assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(a, b, strict=True))
    assert model.base == plain.base


def test_without_a_compiler_it_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing(*args: Any) -> Any:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(precision, "BACKEND", missing)
    torch._dynamo.reset()
    model, images = images_net(compile=True), pictures(4)
    x = model.see(images)
    for _ in range(2):
        assert torch.equal(model.logits(x), images_net().logits(x))
    (said,) = [r.getMessage() for r in caplog.records if "compile" in r.getMessage()]
    assert "model.compile=true has no effect" in said and "no working C++ compiler" in said
    assert "compile was asked for, and has no effect" in str(model.precision_note(lambda: images))
