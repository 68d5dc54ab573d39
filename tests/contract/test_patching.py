"""PAINT, one-layer interpolation and WiSE-FT: what is trained, how, and that nothing else moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.image_edits import bits, request, same, start
from helpers.tiny_nets import NETS, SIZE, TinyTask, tiny_classifier, triples
from torch import Tensor, nn

from edit_robust.core import ImageRequest, UserError
from edit_robust.core.images import Triples
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit
from edit_robust.editors.vision.helpers.heads import head_parameters, tower_parameters
from edit_robust.editors.vision.helpers.patching import Patching
from edit_robust.editors.vision.helpers.schedule import warm_cosine
from edit_robust.editors.vision.helpers.stream import RATIO, TrainingImages, crop_box, random_crop
from edit_robust.editors.vision.one_layer import OneLayer
from edit_robust.editors.vision.paint import Paint
from edit_robust.editors.vision.wise_ft import WiseFt
from edit_robust.models.vision.classifier import Classifier
from edit_robust.tasks.vision.textures import Lazy
from edit_robust.trajectories import Interpolate, Ledger

EDITORS: dict[str, type[Patching]] = {"paint": Paint, "one-layer": OneLayer, "wise-ft": WiseFt}
QUICK: dict[str, Any] = {"lr": 1e-2, "warmup": 1, "batch_size": 2, "epochs": 2}


@pytest.fixture(scope="module")
def model() -> Callable[[str], Classifier]:
    made: dict[str, Classifier] = {}
    return lambda kind: made.setdefault(kind, tiny_classifier(kind))


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "cache")


# -- what is trained ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", EDITORS)
def test_only_its_own_parameters_move(
    name: str, kind: str, model: Callable[[str], Classifier], work: Workspace
) -> None:
    m, editor = model(kind), EDITORS[name](**QUICK)
    if (name, kind) == ("wise-ft", "tower"):
        with pytest.raises(UserError, match="no parameter of it"):
            start(editor, m, work)
        return
    state, before = start(editor, m, work), bits(m)
    edit, again = (editor.edit(m, [request()], state) for _ in range(2))
    assert same(before, bits(m)) and not m.net.training
    assert not any(p.requires_grad or p.grad is not None for p in m.net.parameters())
    head, layer, everything = set(head_parameters(m)), m.layer_at(1), set(m.parameters_between(None, None))
    assert head == {n for n in everything if kind != "tower" and m.param(n).shape[0] == 5}
    own = {layer.weight_name} | ({layer.bias_name} if layer.bias_name else set())
    wanted = {"paint": everything - head, "one-layer": own, "wise-ft": everything}[name]
    assert set(edit.delta.terms) == wanted == set(state.changes(m))
    assert all(term.dense().abs().max() > 0 for term in edit.delta.terms.values())
    assert edit.delta.digest() == again.delta.digest() and edit.info == again.info
    assert edit.info[0]["edit_steps"] == 4 and edit.info[0]["delta_norm"] == pytest.approx(edit.delta.norm())
    with m.patched(edit.delta):
        assert all(torch.equal(v, bits(m)[k]) for k, v in before.items() if k not in wanted)
    assert same(before, bits(m))


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ("mlp.c_fc", ["blocks.1.mlp.c_fc.weight", "blocks.1.mlp.c_fc.bias"]),
        ("attn.in_proj", ["blocks.1.attn.in_proj_weight", "blocks.1.attn.in_proj_bias"]),
        ("attn.out_proj", ["blocks.1.attn.out_proj.weight", "blocks.1.attn.out_proj.bias"]),
        ("*.c_*.weight", ["blocks.1.mlp.c_fc.weight", "blocks.1.mlp.c_proj.weight"]),
        ("conv1", ["conv1.weight"]),
        ("proj", ["proj"]),
        ("*_embedding", ["class_embedding", "positional_embedding"]),
    ],
)
def test_a_layer_by_name(part: str, wanted: list[str], model: Callable[[str], Classifier], work: Workspace) -> None:
    m = model("tower")
    editor = OneLayer(part=part, **QUICK)
    state = start(editor, m, work)
    assert sorted(state.changes(m)) == sorted(wanted)
    edit = editor.edit(m, [request()], state)
    assert not edit.refused and set(edit.delta.terms) == set(wanted)


def test_a_block_and_a_wrong_name(model: Callable[[str], Classifier], work: Workspace) -> None:
    m = model("tower")
    inside = {n for n in tower_parameters(m) if n.startswith("blocks.1.")}
    assert set(start(OneLayer(part="block"), m, work).changes(m)) == inside and len(inside) == 12
    with pytest.raises(UserError, match=r"editor\.part=mlp\.c_fk .*'?mlp\.c_fc") as e:
        start(OneLayer(part="mlp.c_fk"), m, work)
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="one layer"):
        OneLayer().prepare(m, list(m.layers)[:2], TinyTask(), work)


# -- how it is trained -------------------------------------------------------------------------------------------------


def plain(m: Classifier, names: list[str], x: Tensor, labels: Tensor, rates: list[float]) -> dict[str, Tensor]:
    """AdamW written out (decay .1, gradients clipped to norm 1), on all images every step; the changes."""
    params = {n: m.net.get_parameter(n) for n in names}
    before = {n: p.detach().clone() for n, p in params.items()}
    first, second = ({n: torch.zeros_like(p) for n, p in params.items()} for _ in range(2))
    for p in params.values():
        p.requires_grad_(True)
    for t, lr in enumerate(rates, start=1):
        loss = nn.functional.cross_entropy(m.net(x), labels)
        grads = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
        with torch.no_grad():
            for n, p in params.items():
                g = grads[n] * min(1.0, 1.0 / (norm + 1e-6))
                first[n] = 0.9 * first[n] + 0.1 * g
                second[n] = 0.999 * second[n] + 0.001 * g * g
                p -= lr * 0.1 * p
                p -= lr * (first[n] / (1 - 0.9**t)) / ((second[n] / (1 - 0.999**t)).sqrt() + 1e-8)
    changes = {n: p.detach() - before[n] for n, p in params.items()}
    with torch.no_grad():
        for n, p in params.items():
            p.requires_grad_(False)
            p.copy_(before[n])
    return changes


@pytest.mark.parametrize("kind", ["vgg", "vit"])
@pytest.mark.parametrize("name", ["paint", "one-layer"])
def test_training_is_paints_training(name: str, kind: str, model: Callable[[str], Classifier], work: Workspace) -> None:
    m, asked = model(kind), request(6)
    editor = EDITORS[name](lr=1e-3, warmup=2, batch_size=6, epochs=5, crop_scale=None)
    state = start(editor, m, work)
    found = editor.edit(m, [asked], state)
    labels = torch.tensor([int(y) for y in asked.x.labels])
    rates = [0.5e-3, 1e-3, 1e-3, 0.75e-3, 0.25e-3]  # linear up to the second step, then half a cosine over three
    wanted = plain(m, state.changes(m), m.see(asked.x.edited), labels, rates)
    for n, term in found.delta.terms.items():
        gap = (term.dense() - wanted[n].reshape(term.shape)).abs()
        # Where a gradient is zero but for rounding, Adam turns its sign into a step.
        assert float(gap.median()) < 1e-6 and float((gap > 1e-4).float().mean()) < 0.02, n
    with m.patched(found.delta), torch.no_grad():
        after = nn.functional.cross_entropy(m.logits(m.see(asked.x.edited)), labels)
    assert float(after) < found.info[0]["edit_loss"], "the loss told is that of the last epoch, before its steps"


def test_the_rate_rises_and_falls() -> None:
    rates = [warm_cosine(2.0, t, 4, 12) for t in range(1, 13)]
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0]) and rates[8] == pytest.approx(1.0)
    assert all(a > b > 0 for a, b in pairwise(rates[4:]))
    assert [warm_cosine(1.0, t, 500, 3) for t in (1, 2, 3)] == pytest.approx([0.002, 0.004, 0.006])


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_what_fits_into_memory_changes_nothing(kind: str, work: Workspace) -> None:
    found = []
    for n in (64, 2):
        m = tiny_classifier(kind, batch_size=n)
        editor = Paint(lr=1e-3, warmup=1, batch_size=5, epochs=2)
        found.append(editor.edit(m, [request(7)], start(editor, m, work)))
    for n, term in found[0].delta.terms.items():
        gap = (term.dense() - found[1].delta.terms[n].dense()).abs()
        assert float(gap.median()) < 1e-6, n
    assert found[0].info[0]["edit_steps"] == 4 == found[1].info[0]["edit_steps"]


def test_half_precision_is_trained_in_single(work: Workspace) -> None:
    """Steps of 1e-5 are far below half a unit in the last place of bfloat16."""
    m = tiny_classifier("vit", dtype="bfloat16")
    before = bits(m)
    editor = Paint(lr=1e-5, warmup=1, batch_size=4, epochs=3, weight_decay=0.0)
    edit = editor.edit(m, [request(4)], start(editor, m, work))
    assert same(before, bits(m))
    for term in edit.delta.terms.values():
        change = term.dense()
        assert change.dtype == torch.float32 and 0 < float(change.abs().max()) < 4e-5


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("lr", [1e8, 1e38])
def test_what_diverges_is_refused(name: str, lr: float, model: Callable[[str], Classifier], work: Workspace) -> None:
    m, editor = model("vgg"), EDITORS[name](lr=lr, warmup=0, batch_size=2, epochs=4)
    before = bits(m)
    edit = editor.edit(m, [request()], start(editor, m, work))
    assert same(before, bits(m))
    assert edit.refused == (edit.info[0]["refused"] == 1.0) and (edit.refused or lr < 1e38)


def test_options_are_checked_with_one_line(model: Callable[[str], Classifier], work: Workspace) -> None:
    for wrong in (
        {"lr": 0.0}, {"lr": float("nan")}, {"lr": float("inf")}, {"weight_decay": -1.0}, {"warmup": -1},
        {"clip": 0.0}, {"batch_size": 0}, {"epochs": 0}, {"crop_scale": [0.9]}, {"crop_scale": [0.0, 1.0]},
        {"crop_scale": [0.9, 1.1]},
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"editor\.{next(iter(wrong))}=") as e:
            Paint(**wrong)  # type: ignore[arg-type]
        assert "\n" not in str(e.value)
    m, editor, t = model("vgg"), Paint(**QUICK), triples(2, 0)
    state = start(editor, m, work)
    with pytest.raises(UserError, match="no images"):
        editor.edit(m, [ImageRequest("none", t.take([]), None)], state)
    strange = Triples(t.ids, t.clean, t.edited, np.array([0, 77]), t.masks)
    with pytest.raises(UserError, match="classes"):
        editor.edit(m, [ImageRequest("s", strange, None)], state)


# -- images a batch at a time ------------------------------------------------------------------------------------------


def test_images_are_decoded_a_batch_at_a_time(model: Callable[[str], Classifier]) -> None:
    m, made, t = model("vgg"), list[int](), triples(10, 3)

    def load(i: int) -> Any:
        made.append(i)
        return t.edited[i]

    r = ImageRequest("lazy", Triples(t.ids, t.clean, Lazy(10, load), t.labels), None)
    images = TrainingImages.of(m, [r, request(3)], [0.9, 1.0], seed=5)
    made.clear()  # the tests' check of types looks at one item
    epoch = images.epoch(0, 4, 4)
    assert len(next(epoch).x) == 4 and len(made) <= 4
    rest = list(epoch)
    assert sorted(made) == list(range(10)) and [len(b.x) for b in rest] == [4, 4, 1]
    assert [b.last for b in rest] == [True] * 3 and [b.share for b in rest] == [1.0] * 3
    again, other = (torch.cat([b.x for b in images.epoch(e, 4, 3)]) for e in (0, 1))
    assert torch.equal(again[4:], torch.cat([b.x for b in rest])) and not torch.equal(again, other)
    assert sorted(int(b) for e in images.epoch(2, 4, 4) for b in e.labels) == sorted(images.labels.tolist())


@pytest.mark.parametrize(("height", "width"), [(48, 48), (100, 37), (30, 300)])
def test_a_crop_shows_nine_tenths_or_more_and_is_never_mirrored(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, h, w = crop_box(height, width, (0.9, 1.0), rng)
        assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0
        if (width, height) == (48, 48):
            assert 0.85 < h * w / 48**2 <= 1.0 and RATIO[0] * 0.95 < w / h < RATIO[1] * 1.05
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (height, width, 3)).astype(np.uint8)
    for _ in range(20):
        shown = random_crop(ramp, (0.9, 1.0), 16, "bilinear", rng)
        assert shown.shape == (16, 16, 3) and (np.diff(shown[:, :, 0].astype(int), axis=1) >= 0).all()
    whole = random_crop(np.ascontiguousarray(ramp[:, :height]), (1.0, 1.0), SIZE, "bicubic", rng)
    assert whole.shape == (SIZE, SIZE, 3)


# -- heads -------------------------------------------------------------------------------------------------------------


class Reader(Classifier):
    """A network whose logits serve as embeddings, with a head of random words."""

    head_parameters = ()

    def embed(self, x: Tensor) -> Tensor:
        out = self.net(x)
        return out / out.norm(dim=1, keepdim=True)

    def head(self, class_names: Any, templates: Any) -> Tensor:
        seed = sum(map(ord, "".join([*class_names, *templates])))
        return torch.randn(len(class_names), self.n_classes, generator=torch.Generator().manual_seed(seed))


class Named(TinyTask):
    class_names, templates = ("zero", "one", "two", "three", "four", "five"), ("a photo of the number {}.",)


def test_the_head_is_that_of_the_tasks_words(work: Workspace) -> None:
    made = tiny_classifier("vit")
    scaling: dict[str, Any] = {"input_size": SIZE, "resize_size": SIZE}
    m = Reader(net=made.net, name="reader", device="cpu", **scaling)
    editor = Paint(lr=1e-3, warmup=1, epochs=2, batch_size=4)
    task = Named()
    state = editor.prepare(m, [m.layer_at(1).name], task, work)
    head = state.given.answers.head
    assert torch.equal(head, m.head(task.class_names, task.templates)) and len(head) == 6
    before, t = bits(m), request(4).x
    labels = np.array([5, 5, 5, 5])
    edit = editor.edit(m, [ImageRequest("five", Triples(t.ids, t.clean, t.edited, labels), None)], state)
    assert not edit.refused and same(before, bits(m))

    def loss() -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(m.embed(m.see(t.edited)) @ head.T, torch.tensor(labels)))

    unedited = loss()
    with m.patched(edit.delta):
        assert loss() < unedited
    labels[0] = 6
    with pytest.raises(UserError, match="6 classes"):
        editor.edit(m, [ImageRequest("six", Triples(t.ids, t.clean, t.edited, labels), None)], state)


def test_a_model_that_cannot_read_names_is_refused(model: Callable[[str], Classifier], work: Workspace) -> None:
    with pytest.raises(UserError, match=r"6 classes of its own \(zero, one, two, \.\.\.\).*scene-clip"):
        Paint().prepare(model("vit"), [model("vit").layer_at(1).name], Named(), work)
    names = list(Named.class_names[:5])
    m = Classifier(net=tiny_classifier("vit").net, name="v", device="cpu", input_size=SIZE, class_names=names)

    class Same(TinyTask):
        class_names, templates = tuple(names), ("a {}.",)

    state = Paint().prepare(m, [m.layer_at(1).name], Same(), work)
    assert state.given.answers.head is None


# -- the line to the fine-tuned model ----------------------------------------------------------------------------------


class Applied(Ledger):
    """Makes every edit and adds it to the model, as a run does."""

    def measured(self, step: int) -> bool:
        return False

    def advance(self, model: Any, step: int, make: Callable[[], Edit], **about: bool) -> Edit:
        self.edit = make()
        model.add(self.edit.delta)
        return self.edit


@pytest.mark.parametrize("kind", ["resnet", "tower"])
@pytest.mark.parametrize("name", ["paint", "one-layer"])
def test_only_parameters_move_along_the_line_and_its_ends_are_exact(
    name: str, kind: str, model: Callable[[str], Classifier], work: Workspace
) -> None:
    m, editor, ledger = model(kind), EDITORS[name](**QUICK), Applied()
    state, before = start(editor, m, work), bits(m)
    walk = Interpolate(alphas=[0.0, 0.3, 1.0, 1.5]).walk(m, editor, state, [request()], ledger)
    seen = {(p.step, p.alpha): bits(m) for p in walk}
    assert same(seen[2, 0.0], before), "alpha 0 is the unedited model"
    with m.patched(ledger.edit.delta):
        assert same(seen[4, 1.0], bits(m)), "alpha 1 is the fine-tuned one"
    changed = set(state.changes(m))
    for weights in seen.values():
        assert all(torch.equal(v, before[n]) for n, v in weights.items() if n not in changed)
    assert not any(v.dtype == torch.int64 and n in changed for n, v in before.items())
    for n in changed:
        step = seen[4, 1.0][n] - before[n]
        assert torch.allclose(seen[5, 1.5][n], before[n] + 1.5 * step, atol=1e-6) and step.abs().max() > 0
    assert same(before, bits(m))
