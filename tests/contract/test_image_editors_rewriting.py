"""Rewriting: its closed form, its directions, masks and second moments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.image_edits import (
    block_output,
    layer_input,
    request,
    start,
)
from helpers.tiny_nets import SIZE, images, tiny_classifier
from torch import Tensor, nn

from edit_robust.core import LowRank, Request, UserError
from edit_robust.core.images import Triples
from edit_robust.core.work import Workspace
from edit_robust.editors.vision.helpers.moments import directions, image_moments, on_map, pixels
from edit_robust.editors.vision.helpers.pairs import image_pairs
from edit_robust.editors.vision.rewriting import Rewriting
from edit_robust.models.vision.classifier import Classifier


@pytest.fixture(scope="module")
def model() -> Callable[[str], Classifier]:
    made: dict[str, Classifier] = {}
    return lambda kind: made.setdefault(kind, tiny_classifier(kind))


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "cache")


def one_token(seed: int = 3) -> Request:
    """One pair that differs in one patch of the tiny ViT."""
    r = np.random.default_rng(seed)
    clean = r.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[4:8, 8:12] = True
    edited = np.where(mask[..., None], np.uint8(200), clean).astype(np.uint8)
    return Request("token", Triples(("t",), [clean], [edited], np.array([1]), [mask]), None)


@pytest.mark.parametrize("taps_", ["center", "all"])
def test_at_full_steps_the_key_gets_its_value_and_nothing_else_changes(
    taps_: Any, model: Callable[[str], Classifier], work: Workspace
) -> None:
    """W' k = v, W' q = W q for every q orthogonal to C^-1 k; the change is the closed form (v - W k) d^T / (d . k)."""
    m, asked = model("vit"), one_token()
    layer, at = m.layer_at(1), 1 + 6  # the class token, then row 1, column 2 of 4
    pairs = image_pairs(m, [asked.x])
    k = layer_input(m, layer.name, pairs.edited)[0, at].double()
    with torch.no_grad():
        wanted, has = (block_output(m.net, m.blocks[1].end, x)[0, at].double() for x in (pairs.clean, pairs.edited))
    c = image_moments(m, layer.name, images(24, 7), 24, work).second
    d = torch.linalg.solve(c + 0.3 * c.diagonal().mean() * torch.eye(len(c)), k)
    d = d / d.norm()
    steepest = 2 * (d @ k if taps_ == "center" else k.norm()) ** 2 / (17 * 16)  # of the loss, over 17 tokens
    editor = Rewriting(
        masked=True, moment="second", taps=taps_, optimizer="sgd", lr=float(0.5 / steepest), momentum=0.0,
        num_steps=600, select="none", ridge=0.3, restarts=2,
    )  # fmt: skip
    edit = editor.edit(m, [asked], start(editor, m, work))
    closed = (wanted - has)[:, None] * d[None] / (d @ k)  # the block adds W k to what passes it by
    got = edit.delta.terms[layer.weight_name].dense().double()
    assert (got @ k - (wanted - has)).norm() < 1e-3 * (wanted - has).norm()
    assert (got - closed).norm() < 1e-3 * closed.norm()
    q = torch.randn(len(k), 8, dtype=torch.float64)
    q -= d[:, None] * (d @ q)
    assert (got @ q).norm() < 1e-5 * closed.norm() * q.norm()
    with m.patched(edit.delta), torch.no_grad():
        now = block_output(m.net, m.blocks[1].end, pairs.edited)[0, at].double()
    assert (now - wanted).norm() < 1e-3 * (has - wanted).norm()


@pytest.mark.parametrize("kind", ["vgg", "even"])
def test_every_tap_changes_along_the_directions_alone(
    kind: str, model: Callable[[str], Classifier], work: Workspace
) -> None:
    """Against Adam on the dense weight of the whole network, projected every 10 steps."""
    m, asked = model(kind), request()
    editor = Rewriting(variant="santurkar2021", lr=0.003, num_steps=25, rank=2)
    state = start(editor, m, work)
    term = editor.edit(m, [asked], state).delta.terms[m.layer_at(1).weight_name]
    layer, end, pairs = m.layer_at(1), m.blocks[1].end, image_pairs(m, [asked.x])
    entry = layer_input(m, layer.name, pairs.edited)
    d = editor.key_directions(layer, entry, pairs, state.given).float()
    p = d @ d.T
    with torch.no_grad():
        still = block_output(m.net, end, pairs.clean).clone()
    weight = layer.weight.detach().clone().requires_grad_(True)
    share = nn.functional.adaptive_avg_pool2d(pairs.masks, still.shape[2:]).sqrt()
    adam = torch.optim.Adam([weight], 0.003)
    for step in range(1, 26):
        seen: list[Tensor] = []
        hook = end.register_forward_hook(lambda m, a, o, seen=seen: seen.append(o))  # type: ignore[misc]
        torch.func.functional_call(m.net, {layer.weight_name: weight}, (pairs.edited,))
        hook.remove()
        adam.zero_grad()
        ((seen[0] - still) * share).abs().mean().backward()
        adam.step()
        if step % 10 == 0 or step == 25:
            with torch.no_grad():
                weight.copy_(layer.weight + torch.einsum("oihw,ij->ojhw", weight - layer.weight, p))
    wanted = (weight.detach() - layer.weight).flatten(1)
    assert isinstance(term, LowRank)
    assert (term.dense() - wanted).norm() < 1e-3 * wanted.norm()
    change = layer.native(term.dense())
    off = torch.eye(len(p)) - p
    assert torch.einsum("oihw,ij->ojhw", change, off).norm() < 1e-5 * change.norm()


def test_directions_by_the_book() -> None:
    """Rank 1 is C^-1 k; rank r spans Z times the strongest right singular vectors."""
    a = torch.randn(40, 6, dtype=torch.float64)
    c = a.T @ a / 40
    values, vectors = torch.linalg.eigh(c)
    z = vectors @ torch.diag(values**-0.5) @ vectors.T
    k = torch.randn(1, 6, dtype=torch.float64)
    d = directions(k, torch.ones(1), z, 3)
    wanted = torch.linalg.solve(c, k[0])
    assert d.shape == (6, 1) and torch.allclose(d[:, 0], wanted / wanted.norm(), atol=1e-9)
    keys, w = torch.randn(9, 6, dtype=torch.float64), torch.rand(9, dtype=torch.float64)
    d = directions(keys, w, z, 2)
    rows = torch.linalg.svd(w[:, None] * (keys @ z)).Vh[:2]
    q, _ = torch.linalg.qr(z @ rows.T)
    assert torch.allclose(d @ d.T, q @ q.T, atol=1e-9) and torch.allclose(d.T @ d, torch.eye(2).double(), atol=1e-12)
    assert bool((keys.sum(0) @ d >= 0).all())
    with pytest.raises(UserError, match="all zero"):
        directions(torch.zeros(3, 6), torch.ones(3), z, 1)


def test_masks_say_where_keys_and_losses_are(model: Callable[[str], Classifier], work: Workspace) -> None:
    m, asked = model("vgg"), request()
    other = [np.roll(mask, 6, axis=1) for mask in asked.x.masks]
    moved = Request("one", Triples(asked.x.ids, asked.x.clean, asked.x.edited, asked.x.labels, other), None)
    for masked in (True, False):
        for options in ({"taps": "center"}, {"taps": "all", "loss": "l1"}):
            editor = Rewriting(masked=masked, lr=0.1, num_steps=10, select="none", **options)  # type: ignore[arg-type]
            state = start(editor, m, work)
            a, b = (editor.edit(m, [r], state).delta.digest() for r in (asked, moved))
            assert (a != b) == masked


def test_masks_on_every_kind_of_map(model: Callable[[str], Classifier]) -> None:
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., :4, 4:] = 1
    layer, linear = model("vgg").layer_at(0), model("vit").layer_at(0)
    square = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(on_map(masks, torch.zeros(1, 8, 2, 2), 8, layer, "mean")[0, 0], square)
    assert torch.equal(on_map(masks, torch.zeros(1, 2, 2, 16), 16, linear, "bilinear")[0, :, :, 0], square)
    tokens = on_map(masks, torch.zeros(1, 6, 16), 16, linear, "bilinear")  # two tokens before the four of the image
    assert tokens[0, :, 0].tolist() == [0, 0, 0, 1, 0, 0]
    spot = torch.zeros(1, 1, 8, 8)
    spot[..., 0, 0] = 1  # between the points that sampling looks at
    assert float(on_map(spot, torch.zeros(1, 8, 2, 2), 8, layer, "bilinear").sum()) > 0


@pytest.mark.parametrize("kind", ["vgg", "vit"])
def test_second_moments_are_what_they_say_and_never_another_models(
    kind: str, model: Callable[[str], Classifier], work: Workspace
) -> None:
    m = model(kind)
    layer, held = m.layer_at(1), images(24, 7)
    x = m.see([held.load(i) for i in range(20)])
    k = pixels(layer, layer_input(m, layer.name, x)).reshape(-1, layer.weight.shape[1]).double()
    found = image_moments(m, layer.name, held, 20, work, chunk=7)
    assert torch.allclose(found.second, k.T @ k / len(k), rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.covariance(), torch.cov(k.T, correction=0), rtol=1e-3, atol=1e-5)
    z = found.whitener(True, 1e-3)
    c = found.covariance()
    regular = c + 1e-3 * c.diagonal().mean() * torch.eye(len(c))
    assert torch.allclose(z @ regular @ z, torch.eye(len(c), dtype=torch.float64), atol=1e-6)
    folder = work.cache / "image-moments"
    count = lambda: len(list(folder.glob("*.npz")))  # noqa: E731
    stamp = {p: p.stat().st_mtime_ns for p in folder.glob("*.npz")}
    again = image_moments(m, layer.name, held, 20, work)
    assert torch.equal(again.second, found.second) and {p: p.stat().st_mtime_ns for p in stamp} == stamp
    image_moments(m, layer.name, held, 19, work)
    image_moments(m, m.layer_at(0).name, held, 20, work)
    image_moments(m, layer.name, images(24, 8), 20, work)
    changed = tiny_classifier(kind)
    with torch.no_grad():
        changed.layers[m.layer_at(0).name].weight.add_(0.1)
    changed.base = changed.position = "another"
    other = image_moments(changed, layer.name, held, 20, work)
    assert count() == 5 and not torch.equal(other.second, found.second)
    next(iter(stamp)).write_bytes(b"broken")
    with pytest.raises(UserError, match="delete it"):
        image_moments(m, layer.name, held, 20, work)
