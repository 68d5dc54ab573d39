"""A classifier of one's own: as a module, and as the dotted name of what makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edit_robust.config.check import check
from edit_robust.config.compose import compose
from edit_robust.config.identity import run_id
from edit_robust.core import UserError
from edit_robust.models.vision.classifier import Classifier

SOURCE = """
import torch
from torch import nn


def make_net(width=8, classes=3):
    blocks = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in ((3, width), (width, width))]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def same_net(width=8, classes=3):
    return make_net(width, classes)


def needs_more(width):
    return make_net(width)


def a_list():
    return [make_net()]


def features_alone():
    return nn.Sequential(nn.Conv2d(3, 4, 3))


def one_class():
    return make_net(classes=1)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_net()

    def forward(self, x):
        return {"logits": self.net(x)}


def nothing_to_edit():
    return nn.Flatten()


def breaks():
    raise RuntimeError("no such\\nthing")


number = 7
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package with factories, which lies on the path."""
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / f"{name}_broken.py").write_text("import of nothing")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_factory_makes_the_network(package: str) -> None:
    m = Classifier(factory=f"{package}.make_net", kwargs={"width": 6}, input_size=16, class_names=["a", "b", "c"])
    assert (m.name, m.n_classes, m.size, m.classes) == (f"{package}.make_net", 3, 16, ("a", "b", "c"))
    assert list(m.layers) == ["0.0", "1.0"] and [b.end for b in m.blocks] == [m.net[0][1], m.net[1][1]]  # type: ignore[index]
    assert m.layers["0.0"].shape == (6, 27)
    again = Classifier(factory=f"{package}.make_net", kwargs={"width": 6}, input_size=16)
    assert again.base == m.base, "weights that a factory draws are the same every time"
    assert Classifier(factory=f"{package}.make_net", input_size=16, name="mine").name == "mine"
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3).numpy()
    x = m.normalise(pixels)
    assert (x.min(), x.max()) == (0.0, 1.0), "mean 0 and std 1 unless it is said otherwise"


def test_a_module_is_used_itself() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.Dropout(), nn.Linear(5, 4)).train()
    m = Classifier(net=net, input_size=8, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25], device="cpu")
    assert m.net is net and not net.training and not any(p.requires_grad for p in net.parameters())
    assert list(m.layers) == ["1", "3"] and m.name == "Sequential" and m.n_classes == 4
    assert m.preprocessing.mean == (0.5, 0.5, 0.5) and m.preprocessing.resize == 8
    x = m.sample(3)
    assert torch.equal(m.logits(x), net(x))


def test_a_network_that_describes_its_preprocessing() -> None:
    own = Classifier(net=timm.create_model("resnet10t", num_classes=4))
    theirs = Classifier("random", "resnet10t", n_classes=4)
    assert own.preprocessing == theirs.preprocessing
    assert Classifier(factory="timm.models.resnet10t", kwargs={"num_classes": 4}, input_size=32).size == 32
    mha = Classifier(
        factory="torchvision.models.vision_transformer.VisionTransformer",
        kwargs={"patch_size": 4, "num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8, "image_size": 12},
    )
    assert mha.size == 12


def test_weights_come_from_a_file(package: str, tmp_path: Path) -> None:
    first = Classifier(factory=f"{package}.make_net", input_size=16)
    save_file({k: v + 0.5 for k, v in first.net.state_dict().items()}, tmp_path / "w.safetensors")
    factory = f"{package}.make_net"
    net = Classifier(factory=factory, input_size=16).net
    for options in ({"factory": factory}, {"net": net}):
        m = Classifier(str(tmp_path / "w.safetensors"), input_size=16, **options)  # type: ignore[arg-type]
        assert torch.equal(m.layers["0.0"].weight, first.layers["0.0"].weight + 0.5) and m.base != first.base
    with pytest.raises(UserError, match="another network"):
        Classifier(str(tmp_path / "w.safetensors"), factory="timm.models.resnet10t")


class Strange(nn.Module):
    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.answer = nn.Conv2d(3, 4, 1), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.conv(x).mean((2, 3)))


def test_each_mistake_is_one_line(package: str) -> None:
    def refused(*says: str, **options: Any) -> None:
        with pytest.raises(UserError) as e:
            Classifier(**{"input_size": 16, **options})
        line = str(e.value)
        assert all(s in line for s in says), line
        assert "\n" not in line

    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    refused("no_such_package", "cannot be imported", factory="no_such_package.make")
    refused("no_such_function", "cannot be imported", factory=f"{package}.no_such_function")
    refused("cannot be imported", factory=f"{package}_broken.make")
    refused("cannot be imported", factory="not a name")
    refused("not callable", "int", factory=f"{package}.number")
    refused("needs_more()", "width", "model.kwargs", factory=f"{package}.needs_more")
    refused("make_net(depth=3)", "depth", factory=f"{package}.make_net", kwargs={"depth": 3})
    refused("RuntimeError", "no such thing", factory=f"{package}.breaks")
    refused("returns a list", "nn.Module", factory=f"{package}.a_list")
    refused("returns a dict", "[n, classes]", factory=f"{package}.Wrapped")
    refused("[2, 4, 14, 14]", "[n, classes]", factory=f"{package}.features_alone")
    refused("[2, 1]", "two or more classes", factory=f"{package}.one_class")
    refused("no parameters", factory=f"{package}.nothing_to_edit")
    refused("given twice", factory=f"{package}.make_net", net=net)
    refused("model.kwargs", net=net, kwargs={"width": 3})
    refused("model.path=random", net=net, path="random")
    refused("model.path=builtin:scene-cnn", factory=f"{package}.make_net", path="builtin:scene-cnn")
    refused("no file of weights", net=net, path="absent.pth")
    refused("model.n_classes=9", "4 classes", net=net, n_classes=9)
    refused("class_names has 2 names", "4 classes", net=net, class_names=["a", "b"])
    refused("input_size must be given", net=net, input_size=None)
    refused("cannot take images of 8 x 8", net=net, input_size=8)
    refused("int64", net=Strange(lambda y: y.argmax(1)[:, None].expand(-1, 4)))
    refused("[4]", net=Strange(lambda y: y.mean(0)))
    refused("quantised", net=nn.Sequential(nn.Flatten(), torch.ao.nn.quantized.dynamic.Linear(768, 4), nn.Linear(4, 4)))
    with torch.device("meta"):
        absent = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    refused("1.weight", "meta", net=absent)


def test_a_run_is_known_by_factory_arguments_and_weights(package: str, tmp_path: Path) -> None:
    weights = Classifier(factory=f"{package}.make_net", input_size=16).net.state_dict()
    save_file(weights, tmp_path / "a.safetensors")
    save_file(weights, tmp_path / "b.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, tmp_path / "c.safetensors")

    def name(*options: str, factory: str = "make_net") -> str:
        given = [f"model.factory={package}.{factory}", "model.input_size=16", "model.name=mine", *options]
        return run_id(check(compose(["model=module", "task=scene-world", "editor=local-ft", *given])))

    a, b, c = (name(f"model.path={tmp_path / f}.safetensors") for f in "abc")
    assert a == b and len({a, c, name(), name(factory="same_net"), name("model.kwargs={width:9}")}) == 5
    assert name("model.class_names=[x,y,z]") == name()
    assert name("+model.kwargs.width=9") == name("model.kwargs={width:9}")
