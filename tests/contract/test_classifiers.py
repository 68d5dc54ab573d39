"""Classifiers of any library: where their blocks are, entering one in its middle, weights from files, images."""

from __future__ import annotations

import copy
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edit_robust.core import Delta, Dense, LowRank, UserError
from edit_robust.models.vision import fully_connected
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.fully_connected import run_as_linear
from edit_robust.models.vision.preprocessing import Preprocessing, crop

pytestmark = pytest.mark.slow

NETS = [
    # library, architecture, input size, number of blocks, an early layer, f_<=l ends at
    ("timm", "resnet18", 64, 8, "layer1.0.conv2", "layer1.0"),
    ("timm", "vgg11_bn", 64, 8, "features.0", "features.3"),
    ("timm", "vit_tiny_patch16_224", 64, 12, "blocks.0.mlp.fc2", "blocks.0"),
    ("torchvision", "squeezenet1_1", 64, 8, "features.3.expand3x3", "features.3"),
    ("torchvision", "vit_b_16", 32, 12, "encoder.layers.encoder_layer_0.mlp.3", "encoder.layers.encoder_layer_0"),
    ("torchvision", "resnet18", 64, 8, "layer1.0.conv2", "layer1.0"),
    ("timm", "mobilenetv3_small_050", 64, 11, "blocks.0.0.conv_pw", "blocks.0.0"),
]


#: Wide networks, which take seconds where the others take a tenth of one.
WIDE = ("vgg11_bn", "vit_b_16")


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.slow] if n[1] in WIDE else []) for n in NETS],
    ids=[f"{lib}-{name}" for lib, name, *_ in NETS],
)
def known(request: pytest.FixtureRequest) -> tuple[Classifier, tuple[str, str, int, int, str, str]]:
    library, name, size, *_ = request.param
    model = Classifier("random", name, library, n_classes=7, input_size=size, batch_size=4)
    return model, request.param


def change(model: Classifier, index: int, rank: int | None = None) -> Delta:
    layer = model.layer_at(index)
    g = torch.Generator().manual_seed(index)
    d_out, d_in = layer.shape
    if rank:
        u, v = torch.randn(d_out, rank, generator=g), torch.randn(d_in, rank, generator=g)
        return Delta({layer.weight_name: LowRank(0.02 * u, v)}, model.base)
    return Delta({layer.weight_name: Dense(0.02 * torch.randn(d_out, d_in, generator=g))}, model.base)


def test_blocks_are_found_by_structure(known: tuple[Classifier, tuple[str, str, int, int, str, str]]) -> None:
    model, (_, _, _, n, first, end) = known
    assert model.n_layers == n
    assert model.blocks[0].layer.name == first
    names = {m: k for k, m in model.net.named_modules()}
    assert names[model.blocks[0].end] == end
    assert [b.layer.index for b in model.blocks] == list(range(n))
    assert all(model.used_once(name) for name in model.layers)


def test_halves_make_the_whole(known: tuple[Classifier, tuple[str, str, int, int, str, str]]) -> None:
    model, _ = known
    x = model.sample(3)
    whole = model.net(x)
    for index in (0, model.n_layers // 2, model.n_layers - 1):
        network = model.split_at(model.layer_at(index).name)
        assert network.fast
        features = network.prefix(x)
        torch.testing.assert_close(network.suffix(features), whole, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(network.suffix(features), whole, atol=1e-6, rtol=1e-5)  # kept as it was
        some = torch.tensor([2, 0])
        torch.testing.assert_close(network.suffix(features.take(some)), whole[some], atol=1e-5, rtol=1e-4)
    assert not any("forward" in m.__dict__ for m in model.net.modules()), "nothing stands in for a module afterwards"


def test_a_panel_gives_what_the_plain_path_gives(known: tuple[Classifier, tuple[str, str, int, int, str, str]]) -> None:
    model, _ = known
    middle = model.n_layers // 2
    both = Delta.chain([change(model, 1), change(model, middle)])
    lines = [
        (change(model, middle), [0.0, 0.3, 1.0]),
        (change(model, middle, rank=2), [1.0]),
        (both, [0.5]),
        (Delta({}), [1.0, 1.0]),
    ]
    x = model.sample(5)
    before = model.snapshot(model.parameter_names(model.layers))
    fast = model.logits_along(x, lines)
    model.fast = False
    try:
        plain = model.logits_along(x, lines)
    finally:
        model.fast = True
    assert all(model.split_at(model.layer_at(i).name).fast for i in (1, middle))
    for some, others in zip(fast, plain, strict=True):
        assert len(some) == len(others)
        for a, b in zip(some, others, strict=True):
            torch.testing.assert_close(a.log_softmax(-1), b.log_softmax(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast[0][0], model.net(x), atol=1e-5, rtol=1e-5)  # alpha 0 is the unedited model
    assert all(torch.equal(model.param(n), v) for n, v in before.values.items())


def test_parameters_from_a_layer_on_and_up_to_it(known: tuple[Classifier, tuple[str, str, int, int, str, str]]) -> None:
    model, _ = known
    for index in (0, model.n_layers - 1):
        layer = model.layer_at(index)
        later, earlier = model.parameters_between(layer.name, None), model.parameters_between(None, layer.name)
        assert layer.weight_name in later and layer.weight_name in earlier
        names = {n for n, _ in model.net.named_parameters()}
        assert set(later) <= names and set(earlier) <= names
    assert len(model.parameters_between(None, model.layer_at(0).name)) < len(names) / 2
    head = [n for n, m in model.net.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)][-1]
    assert f"{head}.weight" in later or model.layer_at(-1).name == head


@pytest.mark.parametrize("kind", ["safetensors", "pth", "state_dict"])
def test_weights_come_from_files(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(5)
    net = Classifier("random", "resnet10t", input_size=32, n_classes=3).net
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.01)
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    state = {k: v.contiguous() for k, v in net.state_dict().items()}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "state_dict" else state, path)
    again = Classifier(str(path), "resnet10t", input_size=32, n_classes=3)
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.net.state_dict().values(), strict=True)
    )
    assert again.base != Classifier("random", "resnet10t", input_size=32, n_classes=3).base


class Sly:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run",))


def test_wrong_weights_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(path: Path, *says: str, name: str = "resnet10t") -> None:
        with pytest.raises(UserError) as e:
            Classifier(str(path), name, input_size=32, n_classes=3)
        assert all(s in str(e.value) for s in says), e.value
        assert "\n" not in str(e.value)

    good = {
        k: v.contiguous()
        for k, v in Classifier("random", "resnet10t", input_size=32, n_classes=3).net.state_dict().items()
    }
    refused(tmp_path / "absent.pth", "no file of weights")
    path = tmp_path / "w.safetensors"
    save_file(good, path)
    refused(path, "another network", name="resnet18")
    save_file({**good, "fc.weight": torch.zeros(5, 512), "fc.bias": torch.zeros(5)}, path)
    refused(path, "fc.weight", "(5, 512)", "n_classes")
    save_file({**good, "conv1.0.weight": good["conv1.0.weight"] * float("nan")}, path)
    refused(path, "not finite")
    path.write_bytes(path.read_bytes()[:1000])
    refused(path, "not a readable file")
    pickled = tmp_path / "w.pth"
    torch.save({"state_dict": good, "sly": Sly()}, pickled)
    refused(pickled, "more than weights")
    assert "run" not in capsys.readouterr().out
    torch.save([1, 2], pickled)
    refused(pickled, "no state_dict")
    pickled.write_bytes(b"rubbish")
    refused(pickled, "not a readable file")


def test_names_and_options_that_do_not_exist() -> None:
    with pytest.raises(UserError, match="resnet50"):
        Classifier("random", "resnet5O")
    with pytest.raises(UserError, match="squeezenet1_0"):
        Classifier("random", "squeezenet1", "torchvision")
    with pytest.raises(UserError, match=r"model\.name must be given"):
        Classifier("random")
    with pytest.raises(UserError, match="matches no projection"):
        Classifier("random", "resnet10t", layers="blocks.*.mlp.fc1", input_size=32)
    with pytest.raises(UserError, match="layers 0 to 3"):
        Classifier("random", "resnet10t", input_size=32).layer_at(4)
    with pytest.raises(UserError, match="no built-in model"):
        Classifier("builtin:scene-cmm")
    with pytest.raises(UserError, match=r"model\.std"):
        Classifier("random", "resnet10t", std=[0.1, 0.0, 0.1])


def test_layers_by_pattern() -> None:
    model = Classifier("random", "vit_tiny_patch16_224", input_size=64, layers="blocks.*.attn.proj", n_classes=3)
    assert model.n_layers == 12 and model.layer_at(3).name == "blocks.3.attn.proj"


def test_the_crop_is_torchvisions() -> None:
    from PIL import Image
    from torchvision.transforms import v2

    rng = np.random.default_rng(0)
    for h, w in [(300, 400), (400, 300), (224, 224), (30, 50), (256, 257)]:
        image = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        how = Preprocessing(224, 256)
        theirs = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(Image.fromarray(image))
        assert np.array_equal(crop(image, how), np.asarray(theirs)), (h, w)


def test_masks_go_the_way_of_their_images() -> None:
    model = Classifier("random", "resnet10t", input_size=32, n_classes=3)
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 32:] = True
    small = model.crop_mask(mask)
    assert small.shape == (32, 32) and not small[:, :14].any() and small[:, 18:].all()


def test_convolutions_over_everything_are_linear_maps() -> None:
    """Equal to the convolution, with its gradients, where it covers its input; a convolution elsewhere."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 7, 4), nn.Conv2d(7, 3, 1))
    quick = copy.deepcopy(net)
    run_as_linear(quick)
    for side in (4, 6):
        x = torch.randn(3, 6, side, side)
        a, b = (n(x) for n in (net, quick))
        assert a.shape == b.shape and torch.allclose(a, b, atol=1e-5)
        assert (side == 4) == (b.shape[-1] == 1)
        for n, out in ((net, a), (quick, b)):
            n.zero_grad()
            out.square().sum().backward()
        for p, q in zip(net.parameters(), quick.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
    with mock.patch.object(fully_connected, "linear", side_effect=AssertionError("taken")):
        with pytest.raises(AssertionError, match="taken"):
            quick(torch.randn(1, 6, 4, 4))
        quick(torch.randn(1, 6, 6, 6))
