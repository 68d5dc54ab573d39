"""Which parameters global edits change: those that a layer's block depends on, or those that act from the layer on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.image_edits import block_output
from helpers.tiny_nets import NETS, tiny_classifier
from torch import Tensor, nn

from edit_robust.core import Delta, Dense, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.vision.low_rank import DirectLowRank
from edit_robust.editors.vision.rewriting import Rewriting
from edit_robust.models.vision import usage
from edit_robust.models.vision.anatomy import visits
from edit_robust.models.vision.classifier import Classifier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Callable[[str], Classifier]:
    made: dict[str, Classifier] = {}
    return lambda kind: made.setdefault(kind, tiny_classifier(kind))


def norm(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def joined(lists: list[list[str]]) -> list[str]:
    return [name for some in lists for name in some]


SCENE_CNN = [
    (f"features.{conv}", [*norm(f"features.{conv}"), *norm(f"features.{conv + 1}")])
    for conv in (0, 4, 7, 11, 14, 17, 21, 24, 27, 30)
]
SCENE_RESNET = [  # what runs in each block up to its layer, the layer, and what runs after it
    (
        [f"{block}.conv1.weight", *norm(f"{block}.bn1")],
        f"{block}.conv2",
        [*norm(f"{block}.bn2"), *([f"{block}.downsample.0.weight", *norm(f"{block}.downsample.1")] if down else [])],
    )
    for block, down in (
        ("layer1.0", False),
        ("layer2.0", True),
        ("layer2.1", False),
        ("layer3.0", True),
        ("layer3.1", False),
        ("layer4.0", True),
    )
]
STEM = [
    "conv1.0.weight", "conv1.1.weight", "conv1.1.bias", "conv1.3.weight", "conv1.4.weight", "conv1.4.bias",
    "conv1.6.weight", "bn1.weight", "bn1.bias",
]  # fmt: skip


def test_scene_cnn_in_the_order_of_its_modules() -> None:
    m = Classifier("builtin:scene-cnn")
    assert list(m.layers) == [layer for layer, _ in SCENE_CNN]
    blocks = [names for _, names in SCENE_CNN]
    for i, (layer, _) in enumerate(SCENE_CNN):
        assert m.parameters_between(None, layer) == joined(blocks[: i + 1])
        assert m.parameters_between(layer, None) == [*joined(blocks[i:]), "head.fc.weight", "head.fc.bias"]


def test_scene_resnet_in_the_order_of_its_modules() -> None:
    m = Classifier("builtin:scene-resnet")
    assert list(m.layers) == [layer for _, layer, _ in SCENE_RESNET]
    blocks = [[*before, f"{layer}.weight", *after] for before, layer, after in SCENE_RESNET]
    for i, (_, layer, after) in enumerate(SCENE_RESNET):
        assert m.parameters_between(None, layer) == [*STEM, *joined(blocks[: i + 1])]
        later = [f"{layer}.weight", *after, *joined(blocks[i + 1 :]), "fc.weight", "fc.bias"]
        assert m.parameters_between(layer, None) == later


@pytest.mark.parametrize(
    "library, name, ends",
    [
        ("timm", "resnet18", "bn"),
        ("torchvision", "resnet18", "bn"),
        ("timm", "resnet26", "bn"),
        ("timm", "vgg11_bn", "next"),
        ("torchvision", "vgg11", "next"),
    ],
)
def test_networks_that_define_modules_in_the_order_of_their_calls(library: str, name: str, ends: str) -> None:
    """There, both sets are stretches of `named_parameters`: up to the end of the block, and from the layer on."""
    m = Classifier("random", name, library, n_classes=4, input_size=64)  # type: ignore[arg-type]
    names = [n for n, _ in m.net.named_parameters()]
    for i, layer in enumerate(m.layers):
        at = names.index(f"{layer}.weight")
        if ends == "bn":  # blocks are named: layer2.1.
            inside = [k for k, n in enumerate(names) if n.startswith(layer.rpartition(".")[0] + ".")]
            stop = inside[-1] + 1
        else:
            following = [*list(m.layers)[i + 1 :], *(n for n, x in m.net.named_modules() if isinstance(x, nn.Linear))]
            heads = [names.index(f"{n}.weight") for n in [*following, "pre_logits.fc1"] if f"{n}.weight" in names]
            stop = min(k for k in heads if k > at)
        assert m.parameters_between(None, layer) == names[:stop]
        assert m.parameters_between(layer, None) == names[at:]


def moved(m: Classifier, layer: str | None, at: nn.Module | None) -> Iterator[str]:
    """Names of the parameters that move an output when they are changed: at the start, or when a layer begins."""
    x = torch.randn(2, 3, m.size, m.size)
    out: Callable[[], Tensor] = lambda: m.net(x) if at is None else block_output(m.net, at, x)  # noqa: E731
    with torch.no_grad():
        before = out().clone()
        for name, p in m.net.named_parameters():
            own = p.data.clone()

            def change(*_: object, p: Tensor = p) -> None:
                p.data.add_(torch.randn_like(p))

            if layer is None:
                change()
                after = out().clone()
            else:
                hook = m.layers[layer].module.register_forward_pre_hook(change)
                after = out().clone()
                hook.remove()
            p.data.copy_(own)
            if not torch.equal(before, after):
                yield name


@pytest.mark.parametrize("kind", NETS)
def test_the_parameters_are_those_that_move_the_output(kind: str, model: Callable[[str], Classifier]) -> None:
    m = model(kind)
    for block in m.blocks:
        name = block.layer.name
        assert set(m.parameters_between(None, name)) == set(moved(m, None, block.end))
        assert set(m.parameters_between(name, None)) == set(moved(m, name, None))
        assert not any(p.requires_grad for p in m.net.parameters())


def test_bare_parameters_and_modules_that_are_never_called(model: Callable[[str], Classifier]) -> None:
    tower, mha = model("tower"), model("mha")
    first, last = (tower.layer_at(i).name for i in (0, 1))
    assert (first, last) == ("blocks.0.mlp.c_proj", "blocks.1.mlp.c_proj")
    attention = ["attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias"]
    second = ["blocks.1.ln_1.weight", "blocks.1.ln_1.bias", *(f"blocks.1.{n}" for n in attention)]
    assert tower.parameters_between(first, None) == [
        "proj", *norm(first), *second, *norm("blocks.1.ln_2"), *norm("blocks.1.mlp.c_fc"), *norm(last),
        *norm("ln_post"),
    ]  # fmt: skip
    assert tower.parameters_between(last, None) == ["proj", *norm(last), *norm("ln_post")]
    early = tower.parameters_between(None, first)
    assert early[:4] == ["class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight"]
    assert set(early[4:]) == {
        "ln_pre.bias", *norm("blocks.0.ln_1"), *(f"blocks.0.{n}" for n in attention), *norm("blocks.0.ln_2"),
        *norm("blocks.0.mlp.c_fc"), *norm(first),
    }  # fmt: skip
    assert {"class_token", "encoder.pos_embedding"} <= set(mha.parameters_between(None, mha.layer_at(0).name))
    later = mha.parameters_between(mha.layer_at(0).name, None)
    out = "encoder.layers.encoder_layer_{}.self_attention.out_proj.weight"
    assert out.format(1) in later and out.format(0) not in later
    assert not {"class_token", "encoder.pos_embedding"} & set(later)


@pytest.mark.parametrize("kind", ["tower", "mha", "vit"])
def test_logits_along_changes_of_any_parameters(kind: str, model: Callable[[str], Classifier]) -> None:
    """The network runs again from where the first of the changed parameters is used."""
    m, x = model(kind), torch.randn(3, 3, 16, 16)
    early, late = (m.parameters_between(*ends) for ends in ((None, m.layer_at(1).name), (m.layer_at(1).name, None)))
    lines = []
    for names in (early, late, early[:1], late[:1], late[-1:]):
        terms = {n: Dense(0.1 * torch.randn(m.matrix(n).shape)) for n in names}
        lines.append((Delta(terms, m.base), [0.5, 1.0]))
    found = m.logits_along(x, lines)
    for (delta, alphas), some in zip(lines, found, strict=True):
        for alpha, logits in zip(alphas, some, strict=True):
            with m.patched(delta.scale(alpha)):
                torch.testing.assert_close(logits, m.logits(x), atol=1e-5, rtol=1e-4)
    assert m.first_of(late) == m.layer_at(1).name, "what lies before the layer does not run again"
    assert (m.first_of(["proj"]) == "ln_post") if kind == "tower" else True
    assert m.first_of(early) not in ("", m.layer_at(1).name)


class Shared(nn.Module):
    """One convolution that is called twice, and two linear maps with one weight, the later one defined first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.late, self.early, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.early.weight = self.late.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(x)
        h = self.blocks[2:](h).mean((2, 3))
        return self.head(torch.tanh(self.late(torch.tanh(self.early(h)))))


def test_weights_that_are_used_several_times() -> None:
    m = Classifier(net=Shared(), input_size=8, layers="*")
    assert [name for name in m.layers if m.used_once(name)] == ["blocks.0", "head"]
    assert m.first_of(["late.weight"]) == m.first_of(["early.weight"]) == "early"
    assert m.parameters_between("late", None) == ["late.weight", "late.bias", "head.weight", "head.bias"]
    x = m.sample(4)
    lines = [(Delta({f"{n}.weight": Dense(torch.randn(m.layers[n].shape))}, m.base), [0.3, 1.0]) for n in m.layers]
    for (delta, alphas), some in zip(lines, m.logits_along(x, lines), strict=True):
        for alpha, logits in zip(alphas, some, strict=True):
            with m.patched(delta.scale(alpha)):
                torch.testing.assert_close(logits, m.logits(x), atol=1e-5, rtol=1e-4)
    work = Workspace(Path("nowhere"))
    for editor in (DirectLowRank(), Rewriting()):
        with pytest.raises(UserError, match=r"blocks\.2 .* used several times"):
            editor.prepare(m, ["blocks.2"], None, work)


class Detached(nn.Module):
    """A network whose output no gradient leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.head(self.blocks(x).mean((2, 3)))


def test_without_a_graph_the_called_modules_decide(caplog: pytest.LogCaptureFixture) -> None:
    m = Classifier(net=Detached(), input_size=16)
    assert list(m.layers) == ["blocks.0", "blocks.2"]
    assert m.parameters_between(None, "blocks.0") == norm("blocks.0")
    assert m.parameters_between("blocks.2", None) == [*norm("blocks.2"), *norm("head")]
    assert "cannot be traced" in caplog.text
    assert usage.uses_of(m.net, visits(m.net, 16), m.sample(1), "it") is None
