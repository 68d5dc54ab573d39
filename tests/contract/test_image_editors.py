"""What every editor of images must keep to, and its numbers against plain re-implementations on whole networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_nets import NETS, SIZE, TinyTask, images, tiny_classifier, triples
from torch import Tensor, nn

from edit_robust.core import ImageRequest, LowRank, Request, UserError
from edit_robust.core.images import Triples
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State
from edit_robust.editors.vision.collision import Collision
from edit_robust.editors.vision.helpers.moments import directions, image_moments, on_map, pixels
from edit_robust.editors.vision.helpers.pairs import Asked, Selection, entered, pairs_of
from edit_robust.editors.vision.helpers.side_by_side import (
    Fed,
    Reach,
    add_changes,
    goal,
    optimise,
    spread,
    tapped,
    taps,
)
from edit_robust.editors.vision.helpers.training import Training, learning_rates
from edit_robust.editors.vision.low_rank import DirectLowRank
from edit_robust.editors.vision.rewriting import Rewriting
from edit_robust.editors.vision.supervised import Supervised
from edit_robust.models.vision.classifier import Classifier

ROOT = Path(__file__).parents[2]
GRID = [0.001, 0.1]
STEPS: dict[str, Any] = {"lr_grid": GRID, "max_epochs": 6, "check_every": 3}
EDITORS: dict[str, Callable[..., Any]] = {
    "local-collision": lambda **o: Collision(**{**STEPS, **o}),
    "global-collision": lambda **o: Collision(scope="global", **{**STEPS, **o}),
    "local-ft": lambda **o: Supervised(**{**STEPS, **o}),
    "global-ft": lambda **o: Supervised(scope="global", **{**STEPS, **o}),
    "low-rank": lambda **o: DirectLowRank(restarts=2, **{**STEPS, **o}),
    "rewriting": lambda **o: Rewriting(restarts=2, lr_grid=GRID, num_steps=6, check_every=3, **o),
    "rewriting-all": lambda **o: Rewriting(variant="santurkar2021", num_steps=20, **{"lr": 0.01, **o}),
}


@pytest.fixture(scope="module")
def model() -> Callable[[str], Classifier]:
    made: dict[str, Classifier] = {}
    return lambda kind: made.setdefault(kind, tiny_classifier(kind))


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "cache")


def start(editor: Any, model: Classifier, work: Workspace, layer: int = 1) -> State:
    return editor.prepare(model, [model.layer_at(layer).name], TinyTask(), work)


def bits(model: Classifier) -> dict[str, Tensor]:
    """Parameters and running statistics."""
    return {k: v.clone() for k, v in model.net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def request(n: int = 3, seed: int = 0) -> ImageRequest:
    return ImageRequest("one", triples(n, seed), None, search=triples(4, 99))


def block_output(net: nn.Module, end: nn.Module, x: Tensor) -> Tensor:
    """What a module gives in a run of the whole network."""
    seen: list[Tensor] = []
    hook = end.register_forward_hook(lambda m, a, o: seen.append(o))
    try:
        net(x)
    finally:
        hook.remove()
    return seen[0]


def layer_input(model: Classifier, name: str, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = model.layers[name].module.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    try:
        with torch.no_grad():
            model.net(x)
    finally:
        hook.remove()
    return seen[0]


# -- every editor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", EDITORS)
def test_the_model_is_left_as_found_and_only_its_own_parameters_change(
    name: str, kind: str, model: Callable[[str], Classifier], work: Workspace
) -> None:
    m, editor = model(kind), EDITORS[name]()
    state, before = start(editor, m, work), bits(m)
    both = editor.edit(m, TinyTask().requests(), state)
    one, other = editor.edit_each(m, TinyTask().requests(), state)
    assert same(before, bits(m)) and not m.net.training
    assert not any(p.requires_grad or p.grad is not None for p in m.net.parameters())
    layer = m.layer_at(1)
    local = {layer.weight_name} | ({layer.bias_name} if layer.bias_name and "rewriting" not in name else set())
    wanted = {
        "global-collision": set(m.parameters_between(None, layer.name)),
        "global-ft": set(m.parameters_between(layer.name, None)),
        "low-rank": {layer.weight_name},
    }.get(name, local)
    for edit, n in ((both, 2), (one, 1), (other, 1)):
        assert set(edit.delta.terms) == wanted == set(state.changes(m))
        assert len(edit.info) == n and not edit.refused and edit.delta.finite() and edit.delta.norm() > 0
        assert edit.delta.base == m.position
        for info in edit.info:
            assert all(isinstance(v, float) and np.isfinite(v) for v in info.values())
            assert info["refused"] == 0 and info["delta_norm"] == pytest.approx(edit.delta.norm(), rel=1e-5)
    again = editor.edit(m, TinyTask().requests()[:1], state)
    assert again.delta.digest() == one.delta.digest() != other.delta.digest()
    with m.patched(both.delta):
        assert not same(before, bits(m))
        assert all(torch.equal(v, bits(m)[k]) for k, v in before.items() if "running" in k or "num_batches" in k)
    assert same(before, bits(m))


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("lr", [1e38, 1e200])
def test_a_learning_rate_that_diverges_is_refused(
    name: str, lr: float, model: Callable[[str], Classifier], work: Workspace
) -> None:
    m, editor = model("vgg"), EDITORS[name](lr=lr)
    before = bits(m)
    edit: Edit = editor.edit(m, [request()], start(editor, m, work))
    assert edit.refused and edit.info[0]["refused"] == 1.0 and edit.delta.info["refused"] == "diverged"
    assert same(before, bits(m))


@pytest.mark.parametrize("name", ["local-ft", "global-collision", "low-rank", "rewriting"])
def test_a_search_passes_over_rates_that_diverge(
    name: str, model: Callable[[str], Classifier], work: Workspace
) -> None:
    options = {"lr_grid": [1e-3, 1e38]}
    m = model("vgg")
    editor = Rewriting(num_steps=6, restarts=1, **options) if name == "rewriting" else EDITORS[name](**options)
    edit = editor.edit(m, [request()], start(editor, m, work))
    assert not edit.refused and edit.info[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("name", EDITORS)
def test_what_is_reported_is_what_the_edited_network_does(
    name: str, model: Callable[[str], Classifier], work: Workspace
) -> None:
    m, asked = model("resnet"), request()
    options = {"select": "search"} if name == "rewriting-all" else {}
    editor = EDITORS[name](**options)
    edit = editor.edit(m, [asked], start(editor, m, work))
    train, search = pairs_of(m, [asked.x]), pairs_of(m, [asked.search])
    with m.patched(edit.delta):
        for pairs, key in ((train, "train_accuracy"), (search, "search_accuracy")):
            found = (m.logits(pairs.edited).argmax(1) == pairs.labels).float().mean()
            assert edit.info[0][key] == pytest.approx(float(found))


def test_a_limited_drop_is_kept_to_where_it_can_be(model: Callable[[str], Classifier], work: Workspace) -> None:
    """Labels of the clean images are what the model says, so that there is something to lose."""
    m = model("vgg")
    t = triples(16, 5)
    said = m.logits(m.see(t.clean)).argmax(1).numpy()
    held = Triples(t.ids, t.clean, t.edited, said, t.masks)
    r = ImageRequest("r", triples(3, 1), None, search=held)
    drops = {}
    for limit in (None, 0.0):
        editor = Supervised(lr_grid=[1e-5, 0.03, 0.3], max_epochs=40, max_drop=limit)
        edit = editor.edit(m, [r], start(editor, m, work))
        with m.patched(edit.delta):
            drops[limit] = 1 - float((m.logits(m.see(t.clean)).argmax(1).numpy() == said).mean())
    assert drops[0.0] == 0.0 <= drops[None]
    low = DirectLowRank(lr_grid=[1e-5, 10.0], restarts=2, max_epochs=20, max_drop=0.0)
    with m.patched(low.edit(m, [r], start(low, m, work)).delta):
        assert (m.logits(m.see(t.clean)).argmax(1).numpy() == said).all()


# -- against plain loops on the whole network --------------------------------------------------------------------------


def plain_training(
    model: Classifier, names: list[str], loss: Callable[[], Tensor], lr: float, steps: int, decay: float = 1e-4
) -> dict[str, Tensor]:
    """SGD as the paper has it; the changes as matrices."""
    params = {n: model.net.get_parameter(n) for n in names}
    before = {n: p.detach().clone() for n, p in params.items()}
    momenta = {n: torch.zeros_like(p) for n, p in params.items()}
    for p in params.values():
        p.requires_grad_(True)
    for _ in range(steps):
        for (n, p), g in zip(params.items(), torch.autograd.grad(loss(), list(params.values())), strict=True):
            with torch.no_grad():
                momenta[n] = 0.9 * momenta[n] + g + (decay * p if "weight" in n else 0.0)
                p -= lr * momenta[n]
    changes = {
        n: (p.detach() - before[n]).flatten(1) if p.ndim > 1 else p.detach() - before[n] for n, p in params.items()
    }
    with torch.no_grad():
        for n, p in params.items():
            p.requires_grad_(False)
            p.copy_(before[n])
    return changes


@pytest.mark.parametrize("kind", ["vgg", "resnet", "vit"])
@pytest.mark.parametrize("name", ["local-ft", "global-ft", "local-collision", "global-collision", "frozen"])
def test_training_below_cached_features_is_training_of_the_whole_network(
    name: str, kind: str, model: Callable[[str], Classifier], work: Workspace
) -> None:
    m, asked = model(kind), request()
    options: dict[str, Any] = {"lr": 0.05, "select": "none", "max_epochs": 5, "weight_decay": 0.01}
    target = {"target": "frozen"} if name == "frozen" else {}
    editor = EDITORS["local-collision" if name == "frozen" else name](**options, **target)
    state = start(editor, m, work)
    found = editor.edit(m, [asked], state).delta
    pairs, end = pairs_of(m, [asked.x]), m.blocks[1].end
    with torch.no_grad():
        still = block_output(m.net, end, pairs.clean).clone()

    def loss() -> Tensor:
        if "ft" in name:
            return nn.functional.cross_entropy(m.net(pairs.edited), pairs.labels)
        goal = still if name == "frozen" else block_output(m.net, end, pairs.clean)
        return (block_output(m.net, end, pairs.edited) - goal).square().mean()

    wanted = plain_training(m, state.changes(m), loss, 0.05, 5, 0.01)
    for n, term in found.terms.items():
        expected = wanted[n].reshape(term.shape)
        assert torch.allclose(term.dense(), expected, rtol=1e-3, atol=1e-6), n
    assert found.norm() > 1e-4


def test_collision_brings_the_outputs_together(model: Callable[[str], Classifier], work: Workspace) -> None:
    m, asked = model("vgg"), request()
    pairs, end = pairs_of(m, [asked.x]), m.blocks[1].end
    with torch.no_grad():
        x, x1 = block_output(m.net, end, pairs.clean).clone(), block_output(m.net, end, pairs.edited).clone()
    before = float((x - x1).square().mean())
    for target in ("live", "frozen"):
        editor = Collision(target=target, lr=0.3, select="none", max_epochs=60)  # type: ignore[arg-type]
        edit = editor.edit(m, [asked], start(editor, m, work))
        with m.patched(edit.delta), torch.no_grad():
            goal = block_output(m.net, end, pairs.clean) if target == "live" else x
            after = float((block_output(m.net, end, pairs.edited) - goal).square().mean())
        assert after < 0.8 * before and edit.info[0]["edit_loss"] == pytest.approx(after, rel=1e-3)


def test_paint_and_batches(model: Callable[[str], Classifier], work: Workspace) -> None:
    """AdamW with warm-up: the first step is lr / warmup in size, with .1 of decay on every parameter."""
    m, asked = model("vgg"), request(6)
    editor = Supervised(recipe="paint", lr=1e-3, warmup=4, max_epochs=1, select="none")
    edit = editor.edit(m, [asked], start(editor, m, work))
    layer = m.layer_at(1)
    step = edit.delta.terms[layer.weight_name].dense()
    rate = 1e-3 / 4
    away = (step + rate * 0.1 * layer.matrix()).abs()
    assert float(away.max()) <= rate * 1.01 and float(away.median()) == pytest.approx(rate, rel=1e-2)
    parted = Supervised(lr=0.01, batch_size=2, max_epochs=2, select="none")
    found = [parted.edit(m, [asked], start(parted, m, work)) for _ in range(2)]
    assert found[0].delta.digest() == found[1].delta.digest() and found[0].info[0]["edit_steps"] == 6


# -- low rank ----------------------------------------------------------------------------------------------------------


def conv(kernel: int | tuple[int, int], **options: Any) -> nn.Conv2d:
    return nn.Conv2d(5, 7, kernel, **options)


SHAPES = [
    conv(3, padding=1), conv(1), conv(5, padding=2, stride=2), conv(3), conv(2), conv(4, padding=1, stride=2),
    conv((3, 2), padding=(1, 0)), conv(3, padding=2, dilation=2), conv(3, padding=1, padding_mode="reflect"),
]  # fmt: skip


@pytest.mark.parametrize("module", SHAPES, ids=lambda m: f"{m.kernel_size}-{m.stride}-{m.dilation}-{m.padding_mode}")
def test_a_change_at_the_taps_is_a_dense_change(module: nn.Conv2d) -> None:
    from edit_robust.core import Layer

    layer = Layer("0", 0, "conv2d", module)
    h, u, v = torch.randn(2, 5, 9, 8), torch.randn(3, 7, 2), torch.randn(3, 5, 2)
    with torch.no_grad():
        still = module(h)
        got = add_changes(layer, still, tapped(layer, h), u, v).reshape(3, *still.shape)
        own = module.weight.clone()
        for g in range(3):
            module.weight.copy_(own + layer.native(LowRank(u[g], spread(layer, v[g])).dense()))
            assert torch.allclose(got[g], module(h), atol=1e-4)
            module.weight.copy_(own)


def test_taps() -> None:
    from edit_robust.core import Layer

    odd, even = (taps(Layer("0", 0, "conv2d", conv(k))) for k in (3, 4))
    assert odd.nonzero().tolist() == [[1, 1]]
    assert even.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert taps(Layer("0", 0, "conv2d", conv(2))).sum() == 4


def low_rank_parts(m: Classifier, live: bool, asked: Request) -> tuple[Any, ...]:
    layer, end = m.layer_at(1), m.blocks[1].end
    spine, pairs = m.spine(layer.name), pairs_of(m, [asked.x])
    train = Asked(entered(m, spine, pairs.edited), pairs.labels)
    edited, clean = Fed.of(layer, train.branch, 2), Fed.of(layer, entered(m, spine, pairs.clean), 2)
    reach = Reach(edited, end, None if live else goal(spine, clean, end), clean if live else None)
    return layer, spine, reach, train, pairs, end


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("live", [True, False])
def test_runs_side_by_side_are_runs_one_by_one(kind: str, live: bool, model: Callable[[str], Classifier]) -> None:
    m, asked = model(kind), request()
    layer, spine, reach, train, _, _ = low_rank_parts(m, live, asked)
    held = pairs_of(m, [asked.search])
    chosen = Selection(Asked(entered(m, spine, held.edited), held.labels), None, 0.1)
    u = torch.randn(2, layer.shape[0], 2) * 0.1
    v = torch.randn(2, reach.edited.x.shape[1], 2)
    lrs = (0.01, 0.3, 1e30)
    together = optimise(m, layer, spine, reach, train, chosen, Training(lrs, 6, 2), (u, v), True)
    assert len(together) == 6
    for i, fit in enumerate(together):
        one = (u[i % 2][None], v[i % 2][None])
        (alone,) = optimise(m, layer, spine, reach, train, chosen, Training((lrs[i // 2],), 6, 2), one, True)
        assert (fit is None) == (alone is None)
        if fit is None or alone is None:
            continue
        assert (fit.lr, fit.step, fit.accuracy) == (alone.lr, alone.step, alone.accuracy)
        a, b = (f.delta.terms[layer.weight_name].dense() for f in (fit, alone))
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6) and fit.loss == pytest.approx(alone.loss, rel=1e-4)


@pytest.mark.parametrize("kind", ["vgg", "even", "vit"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_factors_are_trained_as_torch_would(kind: str, optimizer: str, model: Callable[[str], Classifier]) -> None:
    """The same factors inside the dense weight of the whole network, with torch's own optimiser."""
    m, asked = model(kind), request()
    layer, spine, reach, train, pairs, end = low_rank_parts(m, False, asked)
    u0, v0 = torch.randn(1, layer.shape[0], 1) * 0.1, torch.randn(1, reach.edited.x.shape[1], 1)
    how = Training((0.02,), 5, select="none", optimizer=optimizer, weight_decay=0.0)  # type: ignore[arg-type]
    (fit,) = optimise(m, layer, spine, reach, train, Selection(None, None), how, (u0, v0), True)
    u, v = u0[0].clone().requires_grad_(True), v0[0].clone().requires_grad_(True)
    torch_optimiser = torch.optim.Adam([u, v], 0.02) if optimizer == "adam" else torch.optim.SGD([u, v], 0.02, 0.9)
    with torch.no_grad():
        still = block_output(m.net, end, pairs.clean).clone()
    for _ in range(5):
        weight = layer.weight + layer.native(u @ spread(layer, v).T)
        seen: list[Tensor] = []
        hook = end.register_forward_hook(lambda m, a, o, seen=seen: seen.append(o))  # type: ignore[misc]
        torch.func.functional_call(m.net, {layer.weight_name: weight}, (pairs.edited,))
        hook.remove()
        torch_optimiser.zero_grad()
        (seen[0] - still).square().mean().backward()
        torch_optimiser.step()
    assert fit is not None
    wanted = (u @ spread(layer, v).T).detach()
    assert torch.allclose(fit.delta.terms[layer.weight_name].dense(), wanted, rtol=1e-3, atol=1e-5)


# -- rewriting ---------------------------------------------------------------------------------------------------------


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
    pairs = pairs_of(m, [asked.x])
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
    layer, end, pairs = m.layer_at(1), m.blocks[1].end, pairs_of(m, [asked.x])
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


# -- options -----------------------------------------------------------------------------------------------------------


def test_options_are_checked_with_one_line(model: Callable[[str], Classifier], work: Workspace) -> None:
    m = model("vgg")
    for make in (
        lambda: Supervised(lr=0.0), lambda: Supervised(lr=-1.0), lambda: Supervised(lr_grid=[]),
        lambda: Supervised(select="none"), lambda: Supervised(max_epochs=0), lambda: Supervised(max_drop=-0.1),
        lambda: DirectLowRank(rank=0), lambda: Rewriting(restarts=0), lambda: Rewriting(ridge=-1.0),
        lambda: Collision(batch_size=0), lambda: Supervised(lr=float("nan")),
    ):  # fmt: skip
        with pytest.raises(UserError, match="editor") as e:
            make()
        assert "\n" not in str(e.value)
    editor = EDITORS["local-ft"]()
    with pytest.raises(UserError, match="one layer"):
        editor.prepare(m, list(m.layers)[:2], TinyTask(), work)
    bare = Request("bare", triples(2, 0), None)
    with pytest.raises(UserError, match=r"editor\.select=train"):
        editor.edit(m, [bare], start(editor, m, work))
    chosen = EDITORS["local-ft"](select="train")
    assert not chosen.edit(m, [bare], start(chosen, m, work)).refused
    with pytest.raises(UserError, match="validation"):
        validation = EDITORS["local-ft"](select="validation")
        validation.edit(m, [bare], start(validation, m, work))
    shown = EDITORS["local-ft"](select="validation")
    assert "search_accuracy" in shown.edit(m, TinyTask().requests(), start(shown, m, work)).info[0]
    t = triples(2, 0)
    strange = Request("s", Triples(t.ids, t.clean, t.edited, np.array([0, 77]), t.masks), None)
    with pytest.raises(UserError, match="classes"):
        chosen.edit(m, [strange], start(chosen, m, work))
    with pytest.raises(UserError, match="moments"):
        Rewriting().prepare(m, [m.layer_at(0).name], object(), work)
    assert learning_rates("search", None)[0] == pytest.approx(1e-5) and learning_rates(2.0, None) == (2.0,)


def test_the_plain_path_makes_the_same_edits(work: Workspace) -> None:
    """With model.fast=false nothing is cached below the layer."""
    for name in EDITORS:
        found = []
        for fast in (True, False):
            m = tiny_classifier("resnet", fast=fast)
            editor = EDITORS[name]()
            found.append(editor.edit(m, [request()], start(editor, m, work)))
        a, b = found
        assert a.info[0]["lr"] == b.info[0]["lr"]
        for n, term in a.delta.terms.items():
            assert torch.allclose(term.dense(), b.delta.terms[n].dense(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["local-collision", "global-collision", "local-ft", "global-ft", "rewriting", "low-rank"]
)
def test_configs_hold_the_options_and_their_defaults(name: str) -> None:
    import importlib

    import yaml

    held = yaml.safe_load((ROOT / "conf" / "editor" / f"{name}.yaml").read_text())
    module, _, kind = held.pop("_target_").rpartition(".")
    made = getattr(importlib.import_module(module), kind)
    options = {k: p.default for k, p in inspect.signature(made.__init__).parameters.items() if k != "self"}
    assert list(held) and set(held) == set(options)
    assert {k: v for k, v in held.items() if k not in ("name", "scope")} == {
        k: v for k, v in options.items() if k not in ("name", "scope")
    }
    for preset in (ROOT / "conf" / "preset").glob(f"{name}-*.yaml"):
        made(**{**held, **(yaml.safe_load(preset.read_text()) or {})})
