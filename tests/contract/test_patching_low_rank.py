"""LoRA and direct low-rank fine-tuning for patching, and several tasks under heads of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.image_edits import bits, request, same, start
from helpers.tiny_nets import SIZE, TinyTask, tiny_classifier, triples
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from edit_robust.core import ImageRequest, LowRank, UserError
from edit_robust.core.images import Triples
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.core.work import Workspace
from edit_robust.editors.vision.helpers.editor import generator_for
from edit_robust.editors.vision.helpers.heads import AnswersTo, answers_about
from edit_robust.editors.vision.helpers.stream import TrainingImages
from edit_robust.editors.vision.image_lora import ImageLora
from edit_robust.editors.vision.low_rank_ft import LowRankFt
from edit_robust.editors.vision.paint import Paint
from edit_robust.models.vision.classifier import Classifier

QUICK: dict[str, Any] = {"lr": 5e-2, "warmup": 1, "batch_size": 3, "epochs": 4}


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "cache")


@pytest.mark.parametrize("kind", ["vgg", "even", "vit", "mha", "tower"])
@pytest.mark.parametrize("editor", [ImageLora(rank=2, **QUICK), LowRankFt(rank=2, **QUICK)], ids=lambda e: e.name)
def test_a_change_of_low_rank_is_trained_and_nothing_else(editor: Any, kind: str, work: Workspace) -> None:
    m = tiny_classifier(kind)
    state, before = start(editor, m, work), bits(m)
    found, again = (editor.edit(m, [request()], state) for _ in range(2))
    assert same(before, bits(m)) and not any(p.requires_grad for p in m.net.parameters())
    weight = m.layer_at(1).weight_name
    assert list(found.delta.terms) == [weight] == state.changes(m)
    term = found.delta.terms[weight]
    assert isinstance(term, LowRank) and term.u.shape[1] == 2 and float(term.dense().abs().max()) > 0
    assert found.delta.digest() == again.delta.digest() and found.info == again.info
    asked = request()
    x, labels = m.see(asked.x.edited), torch.from_numpy(asked.x.labels)
    with torch.no_grad():
        unedited = float(cross_entropy(m.logits(x), labels))
        with m.patched(found.delta):
            assert float(cross_entropy(m.logits(x), labels)) < unedited


@pytest.mark.parametrize("kind", ["even", "tower"])
def test_the_factors_are_trained_as_autograd_has_it(kind: str, work: Workspace) -> None:
    """Two steps of AdamW on U and V, with the weight W + s U V^T written out as a function of them."""
    m, asked = tiny_classifier(kind), request(4)
    editor = ImageLora(rank=2, lora_alpha=6.0, lr=1e-2, warmup=1, batch_size=4, epochs=2, crop_scale=None, clip=None)
    state = start(editor, m, work)
    got = editor.edit(m, [asked], state).delta.terms[m.layer_at(1).weight_name]
    assert isinstance(got, LowRank)

    name = m.layer_at(1).weight_name
    d_out, d_in = m.matrix(name).shape
    generator = generator_for(0, [asked])
    torch.randint(1 << 62, (), generator=generator)
    u, v = torch.zeros(d_out, 2), (2 * torch.rand(d_in, 2, generator=generator) - 1) / d_in**0.5
    values = [nn.Parameter(u), nn.Parameter(v)]
    optimiser = torch.optim.AdamW(values, lr=1e-2, weight_decay=0.0)
    x, labels = m.see(asked.x.edited), torch.from_numpy(asked.x.labels)
    for rate in (1e-2, 1e-2):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        weight = m.param(name).detach() + m.as_stored(name, 3.0 * values[0] @ values[1].T)
        cross_entropy(functional_call(m.net, {name: weight}, (x,)), labels).backward()
        optimiser.step()
    wanted = 3.0 * values[0].detach() @ values[1].detach().T
    gap = (got.dense() - wanted).abs()
    assert float(gap.median()) < 1e-6 and float((gap > 1e-4).float().mean()) < 0.05 and float(wanted.abs().max()) > 1e-3


def test_a_direct_change_lies_at_the_taps_of_equation_6(work: Workspace) -> None:
    m = tiny_classifier("vgg")
    layer = m.layer_at(1)
    for taps, moved in (("center", 1), ("all", 9)):
        editor = LowRankFt(taps=taps, **QUICK)  # type: ignore[arg-type]
        term = editor.edit(m, [request()], start(editor, m, work)).delta.terms[layer.weight_name]
        kernel = layer.native(term.dense()).abs().sum((0, 1)) > 0
        assert int(kernel.sum()) == moved and bool(kernel[1, 1])


def test_lora_of_many_blocks_leaves_norms_and_biases_alone(work: Workspace) -> None:
    m = tiny_classifier("tower")
    editor = ImageLora(part="block", rank=1, **QUICK)
    state = editor.prepare(m, list(m.layers), TinyTask(), work)
    assert editor.auto_layers(m.n_layers) == list(range(m.n_layers))
    changes = state.changes(m)
    assert len(changes) == 4 * m.n_layers and all(min(m.matrix(n).shape) > 1 for n in changes)
    assert set(editor.edit(m, [request()], state).delta.terms) == set(changes)
    with pytest.raises(UserError, match=r"no.* among .*another editor\.part"):
        ImageLora(part="ln_1").prepare(m, list(m.layers), TinyTask(), work)


def test_half_precision_is_trained_through_factors_in_single(work: Workspace) -> None:
    m = tiny_classifier("vit", dtype="bfloat16")
    before, editor = bits(m), LowRankFt(lr=1e-4, warmup=1, batch_size=4, epochs=2)
    term = editor.edit(m, [request(4)], start(editor, m, work)).delta.terms[m.layer_at(1).weight_name]
    assert same(before, bits(m)) and term.dense().dtype == torch.float32 and float(term.dense().abs().max()) > 0


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"lr": -1.0}, {"epochs": 0}])
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    for editor in (ImageLora, LowRankFt):
        with pytest.raises(UserError, match=rf"editor\.{next(iter(wrong))}="):
            editor(**wrong)
    with pytest.raises(UserError, match=r"editor\.lora_alpha="):
        ImageLora(lora_alpha=0.0)


# -- several tasks, each under its own head ----------------------------------------------------------------------------


class Reader(Classifier):
    """A network whose logits serve as embeddings, with heads of random words."""

    head_parameters = ()

    def embed(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out / out.norm(dim=1, keepdim=True)

    def head(self, class_names: Any, templates: Any) -> Tensor:
        seed = sum(map(ord, "".join([*class_names, *templates])))
        return 5 * torch.randn(len(class_names), self.n_classes, generator=torch.Generator().manual_seed(seed))


DIGITS, KINDS = (Vocabulary(tuple(names), ("a {}.",)) for names in (["one", "two", "three"], ["cat", "dog"]))


def reader() -> Reader:
    scaling: dict[str, Any] = {"input_size": SIZE, "resize_size": SIZE}
    return Reader(net=tiny_classifier("vit").net, name="reader", device="cpu", **scaling)


def about(name: str, labels: list[int], words: Vocabulary, seed: int) -> ImageRequest:
    t = triples(len(labels), seed)
    return ImageRequest(name, Triples(t.ids, t.clean, t.edited, np.array(labels)), None, words=words)


def test_images_of_several_tasks_are_trained_each_under_its_own_head(work: Workspace) -> None:
    m, editor = reader(), Paint(lr=1e-3, warmup=1, batch_size=4, epochs=3, crop_scale=None)
    both = [about("digits", [0, 2, 1], DIGITS, 1), about("kinds", [1, 0], KINDS, 2)]
    state, before = editor.prepare(m, [m.layer_at(1).name], TinyTask(), work), bits(m)
    answers = state.given.answers.to(both)
    assert [len(p.head) for p in answers.parts if p.head is not None] == [3, 2]
    images = TrainingImages.of(m, both, None, 0)
    batch = next(images.epoch(0, 5, 5))
    loss, right = answers.judged(batch)

    def plain() -> tuple[float, int]:
        total, hits = 0.0, 0
        for r in both:
            assert r.words is not None
            logits = m.embed(m.see(r.x.edited)) @ m.head(r.words.class_names, r.words.templates).T
            labels = torch.from_numpy(r.x.labels)
            total += float(cross_entropy(logits, labels, reduction="sum"))
            hits += int((logits.argmax(1) == labels).sum())
        return total / 5, hits

    with torch.no_grad():
        assert float(loss) == pytest.approx(plain()[0], rel=1e-5) and right == plain()[1]
    edit = editor.edit(m, both, state)
    assert same(before, bits(m)) and len(edit.info) == 2
    with m.patched(edit.delta), torch.no_grad():
        assert plain()[0] < float(loss)


def test_one_task_is_answered_as_before_and_wrong_labels_are_refused(work: Workspace) -> None:
    m = reader()
    one = AnswersTo((answers_about(m, DIGITS),))
    images = TrainingImages.of(m, [about("digits", [0, 2, 1], DIGITS, 1)], None, 0)
    batch = next(images.epoch(0, 3, 3))
    loss, _ = one.judged(batch)
    assert torch.equal(loss, cross_entropy(one.parts[0](batch.x).float(), batch.labels))
    state = Paint().prepare(m, [m.layer_at(1).name], TinyTask(), work)
    wrong = [about("digits", [0, 1], DIGITS, 1), about("kinds", [2, 0], KINDS, 2)]
    with pytest.raises(UserError, match="2 classes"):
        Paint().edit(m, wrong, state)
