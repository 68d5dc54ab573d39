"""What every editor of images must keep to, and its numbers against plain training of whole networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.image_edits import (
    EDITORS,
    bits,
    block_output,
    plain_training,
    request,
    same,
    start,
)
from helpers.tiny_nets import NETS, TinyTask, tiny_classifier, triples
from torch import Tensor, nn

from edit_robust.core import ImageRequest, Request, UserError
from edit_robust.core.images import Triples
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit
from edit_robust.editors.vision.collision import Collision
from edit_robust.editors.vision.helpers.options import learning_rates
from edit_robust.editors.vision.helpers.pairs import image_pairs
from edit_robust.editors.vision.low_rank import DirectLowRank
from edit_robust.editors.vision.rewriting import Rewriting
from edit_robust.editors.vision.supervised import Supervised
from edit_robust.models.vision.classifier import Classifier

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> Callable[[str], Classifier]:
    made: dict[str, Classifier] = {}
    return lambda kind: made.setdefault(kind, tiny_classifier(kind))


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "cache")


# -- every editor ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
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
    train, search = image_pairs(m, [asked.x]), image_pairs(m, [asked.search])
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


@pytest.mark.parametrize("kind", ["vgg", "resnet", "vit", "mha", "tower"])
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
    pairs, end = image_pairs(m, [asked.x]), m.blocks[1].end
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
    pairs, end = image_pairs(m, [asked.x]), m.blocks[1].end
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


@pytest.mark.slow
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
