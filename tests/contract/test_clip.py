"""CLIPs from files: equal to open_clip's own zero-shot classification, in every format, and with every layer edited."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from edit_robust.core import Delta, Dense, UserError
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.clip import Clip
from tests.helpers import tiny_clips as tiny

WORDS: dict[str, Any] = {"class_names": tiny.NAMES, "templates": tiny.TEMPLATES}
PATTERNS = {
    # pattern: how many layers, of two blocks; the first one's name
    "auto": (2, "visual.transformer.resblocks.0.mlp.c_proj"),
    "mlp.c_fc": (2, "visual.transformer.resblocks.0.mlp.c_fc"),
    "attn.in_proj": (2, "visual.transformer.resblocks.0.attn.in_proj"),
    "attn.out_proj": (2, "visual.transformer.resblocks.0.attn.out_proj"),
    "attn.*": (4, "visual.transformer.resblocks.0.attn.in_proj"),
    "attn": (2, "visual.transformer.resblocks.0.attn"),
    "block": (2, "visual.transformer.resblocks.0"),
    "resblocks.1": (1, "visual.transformer.resblocks.1"),
    "visual.proj": (1, "visual.proj"),
    "conv1": (1, "visual.conv1"),
    "embeddings": (1, "visual.embeddings"),
    "positional_embedding": (1, "visual.positional_embedding"),
    "ln_pre": (1, "visual.ln_pre"),
    "conv1,mlp.c_proj,visual.proj": (4, "visual.conv1"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def net() -> Any:
    return tiny.make()


@pytest.fixture(scope="module")
def openai(folder: Path, net: Any) -> Path:
    return tiny.openai_file(net, folder / "openai.pt")


@pytest.fixture(scope="module")
def clip(openai: Path) -> Clip:
    return Clip(str(openai), **WORDS)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(5, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(3))


def reference(net: Any, x: Tensor, names: list[str], templates: list[str]) -> Tensor:
    """open_clip's own zero-shot classification."""
    tokenizer = open_clip.SimpleTokenizer(context_length=tiny.CONTEXT)
    weight = open_clip.build_zero_shot_classifier(net, tokenizer, names, templates)
    with torch.no_grad():
        logits: Tensor = net.logit_scale.exp() * net.encode_image(x, normalize=True) @ weight
    return logits


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


# -- formats -----------------------------------------------------------------------------------------------------------


def test_openai_state_dicts_tell_architecture_and_activation(clip: Clip, net: Any, x: Tensor) -> None:
    assert clip.quick_gelu and clip.size == tiny.SIZE and clip.classes == tuple(tiny.NAMES)
    close(clip.logits(x), reference(net, x, tiny.NAMES, tiny.TEMPLATES))


def test_activation_changes_the_answers_and_is_part_of_the_identity(clip: Clip, openai: Path, x: Tensor) -> None:
    other = Clip(str(openai), quick_gelu=False, **WORDS)
    assert float((other.logits(x) - clip.logits(x)).abs().max()) > 1e-3
    close(other.logits(x), reference(tiny_with(openai, False), x, tiny.NAMES, tiny.TEMPLATES))
    assert other.base != clip.base == Clip(str(openai), **WORDS).base
    assert Clip(str(openai), **{**WORDS, "templates": ["{}"]}).base != clip.base


def tiny_with(path: Path, quick_gelu: bool) -> Any:
    net = tiny.make(quick_gelu=quick_gelu)
    state = torch.load(path, weights_only=True)
    net.load_state_dict({k: v for k, v in state.items() if k in net.state_dict()})
    return net


def test_open_clip_folders_tell_activation_and_preprocessing(folder: Path, x: Tensor) -> None:
    for quick in (True, False):
        net = tiny.make(quick_gelu=quick)
        found = Clip(str(tiny.open_clip_folder(net, folder / f"own-{quick}", quick_gelu=quick)), **WORDS)
        assert found.quick_gelu == quick
        close(found.logits(x), reference(net, x, tiny.NAMES, tiny.TEMPLATES))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    how = PreprocessCfg(size=tiny.SIZE, **tiny.PREPROCESSING)  # type: ignore[arg-type]
    theirs = image_transform_v2(how, is_train=False)(Image.fromarray(image))
    close(found.see([image])[0], theirs)


def test_towers_of_timm_as_siglip_has_them(folder: Path, x: Tensor) -> None:
    net = tiny.make(tiny.SIGLIP, quick_gelu=False)
    found = Clip(str(tiny.open_clip_folder(net, folder / "siglip", tiny.SIGLIP, False)), **WORDS)
    close(found.logits(x), reference(net, x, tiny.NAMES, tiny.TEMPLATES))  # the bias is left out
    assert found.blocks[0].layer.name.endswith("mlp.fc2")
    close(found.embed(x), net.encode_image(x, normalize=True).detach())


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_hugging_face_folders(folder: Path, x: Tensor, activation: str) -> None:
    from transformers import AutoTokenizer

    path = folder / f"hf-{activation}"
    theirs = tiny.hugging_face_folder(path, activation)
    found = Clip(str(path), **WORDS)
    assert found.quick_gelu == (activation == "quick_gelu") and found.preprocessing.mean == (0.4, 0.4, 0.4)
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    rows = []
    with torch.no_grad():
        for name in tiny.NAMES:
            texts = [t.replace("{}", name) for t in tiny.TEMPLATES]
            out = theirs.get_text_features(**tokenizer(texts, padding="max_length", max_length=40, return_tensors="pt"))
            mean = nn.functional.normalize(getattr(out, "pooler_output", out), dim=-1).mean(0)
            rows.append(mean / mean.norm())
        out = theirs.get_image_features(pixel_values=x)
        seen = nn.functional.normalize(getattr(out, "pooler_output", out), dim=-1)
        close(found.logits(x), theirs.logit_scale.exp() * seen @ torch.stack(rows).T)


def test_files_that_do_not_tell_are_refused(folder: Path, net: Any, clip: Clip, x: Tensor) -> None:
    plain = folder / "plain.safetensors"
    save_file(net.state_dict(), plain)
    with pytest.raises(UserError, match="does not tell its architecture"):
        Clip(str(plain), **WORDS)
    with pytest.raises(UserError, match="does not tell whether it goes with QuickGELU"):
        Clip(str(plain), "ViT-B-32", **WORDS)
    with pytest.raises(UserError, match="the weights of another network than ViT-B-32"):
        Clip(str(plain), "ViT-B-32", "openai", **WORDS)
    with mock.patch.object(open_clip, "get_model_config", lambda name: copy.deepcopy(tiny.CONFIG)):
        close(Clip(str(plain), "ViT-B-32", quick_gelu=True, **WORDS).logits(x), clip.logits(x))
        assert Clip(str(plain), "ViT-B-32", "openai", **WORDS).quick_gelu  # the tag tells
        assert not Clip(str(plain), "ViT-B-32", "laion2b_s34b_b79k", **WORDS).quick_gelu


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"name": "ViT-B-33", "path": "random"}, 'did you mean "ViT-B-32"'),
        ({"name": "ViT-B-32"}, "model.pretrained must be given"),
        ({"name": "ViT-B-32", "pretrained": "opnai"}, 'did you mean "openai"'),
        ({"path": "random"}, "model.name must be given"),
        ({"path": "nowhere.pt", "name": "ViT-B-32", "quick_gelu": True}, "no file of weights at nowhere.pt"),
        ({"path": "EMPTY"}, "holds no CLIP"),
        ({"path": "SCRIPT", "name": "ViT-B-32"}, "is a TorchScript archive"),
        ({"path": "BERT"}, "holds a 'bert' model"),
        ({"path": "OPENAI", "layers": "mlp.c_prj"}, 'did you mean "mlp.c_proj"'),
        ({"path": "OPENAI", "templates": ["a photo"]}, "has no {}"),
        ({"path": "OPENAI", "class_names": ["cat", "Cat "]}, "are the same"),
        ({"path": "OPENAI", "class_names": ["cat", ""]}, "one is empty"),
    ],
)
def test_each_mistake_is_one_line(folder: Path, openai: Path, options: dict[str, Any], line: str) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "bert").mkdir(exist_ok=True)
    (folder / "bert" / "config.json").write_text('{"model_type": "bert"}')
    script = folder / "script.pt"
    if not script.is_file():
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(script))  # type: ignore[no-untyped-call]
    places = {"EMPTY": folder / "empty", "SCRIPT": script, "BERT": folder / "bert", "OPENAI": openai}
    options = {k: str(places.get(v, v)) if k == "path" else v for k, v in options.items()}
    with pytest.raises(UserError, match=line.replace("(", r"\(").replace("{}", r"\{\}")) as error:
        Clip(**{**WORDS, **options})
    assert "\n" not in str(error.value)


def test_another_size_of_images(openai: Path) -> None:
    larger = Clip(str(openai), input_size=48, **WORDS)
    assert larger.size == 48 and larger.param("visual.positional_embedding").shape[0] == 10
    assert larger.logits(larger.sample(2)).shape == (2, 3)


def test_half_precision(openai: Path, clip: Clip, x: Tensor) -> None:
    half = Clip(str(openai), dtype="bfloat16", **WORDS)
    assert half.net.get_buffer("head").dtype == torch.bfloat16
    torch.testing.assert_close(half.logits(x.bfloat16()), clip.logits(x), atol=0.5, rtol=0.1)


# -- heads -------------------------------------------------------------------------------------------------------------


def test_heads_are_kept_by_words_and_weights(openai: Path, folder: Path, clip: Clip) -> None:
    cache = folder / "heads"
    model = Clip(str(openai), head_cache=str(cache), **WORDS)
    first = model.head(["one", "two"], ["{}."])
    with mock.patch.object(type(model.text.clip), "encode_text", side_effect=AssertionError("was made before")):
        again = Clip(str(openai), head_cache=str(cache), **WORDS)
        assert torch.equal(again.head(["one", "two"], ["{}."]), first)
        with pytest.raises(AssertionError):
            again.head(["one", "three"], ["{}."])
    assert len(list(cache.glob("*.safetensors"))) == 2
    torch.testing.assert_close(first.norm(dim=-1), model.text.clip.logit_scale.exp().expand(2))
    for file in cache.glob("*.safetensors"):
        file.write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        Clip(str(openai), head_cache=str(cache), **WORDS)


def test_several_heads_are_answered_in_one_pass(openai: Path, net: Any, x: Tensor) -> None:
    model = Clip(str(openai), **WORDS)
    own = model.logits(x)
    digits = Vocabulary.of(["zero", "one"], ["the number {}."])
    assert model.columns(Vocabulary.of(tiny.NAMES, ["{}"])) == (0, 1, 2)  # its own classes have its own head
    assert model.columns(digits) == (3, 4) == model.columns(digits)
    passes = []
    hook = model.net.get_submodule("visual").register_forward_hook(lambda *_: passes.append(1))
    [[found]] = model.logits_along(x, [(Delta({}, model.base), [1.0])])
    hook.remove()
    assert len(passes) == 1 and found.shape == (5, model.n_columns)
    close(found[:, :3], own)
    close(found[:, 3:], reference(net, x, ["zero", "one"], ["the number {}."]))
    close(found[:, 3:], model.embed(x) @ model.head(["zero", "one"], ["the number {}."]).T)
    assert torch.equal(model.logits(x), own)  # what is trained on sees the model's own classes alone


def test_the_head_is_frozen_unless_it_is_asked_for(clip: Clip, openai: Path, x: Tensor) -> None:
    assert clip.head_parameters == () and "head" not in dict(clip.net.named_parameters())
    assert set(clip.parameters_between(None, None)) == {n for n, _ in clip.net.named_parameters()}
    model = Clip(str(openai), train_head=True, **WORDS)
    assert model.head_parameters == ("head",) and "head" in model.parameters_between(None, None)
    close(model.logits(x), clip.logits(x))
    with model.patched(Delta({"head": Dense(-model.param("head").detach().clone())}, model.base)):
        assert not model.logits(x).any()


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_layer_takes_a_change(openai: Path, clip: Clip, x: Tensor, pattern: str) -> None:
    model = Clip(str(openai), layers=pattern, **WORDS)
    n, first = PATTERNS[pattern]
    assert (model.n_layers, model.blocks[0].layer.name) == (n, first)
    before, own = {k: v.clone() for k, v in model.net.state_dict().items()}, clip.logits(x)
    for index in {0, n - 1}:
        layer = model.layer_at(index)
        names = model.parameter_names([layer.name])
        g = torch.Generator().manual_seed(index)
        delta = Delta({p: Dense(0.05 * torch.randn(model.matrix(p).shape, generator=g)) for p in names}, model.base)
        [[zero, half, one]] = model.logits_along(x, [(delta, [0.0, 0.5, 1.0])])
        close(zero, own)
        state = {k: v.clone() for k, v in before.items()}
        for p in names:
            state[p] += model.as_stored(p, delta.terms[p].dense())
        model.net.load_state_dict(state)
        changed = model.logits(x)
        model.net.load_state_dict(before)
        close(one, changed)
        assert float((one - own).abs().max()) > 1e-3 and not torch.equal(half, one)
        with model.patched(delta.scale(0.0)):
            assert torch.equal(model.logits(x), own)  # the bits of the zero-shot model
        assert all(torch.equal(v, before[k]) for k, v in model.net.state_dict().items())
        network = model.split_at(layer.name)
        assert network.fast
        close(network.suffix(network.prefix(x)), own)
        assert set(names) <= set(model.parameters_between(layer.name, layer.name))


def test_orientations_and_single_matrices(openai: Path) -> None:
    model = Clip(str(openai), layers="visual.proj,attn.in_proj,block", **WORDS)
    assert [b.layer.name for b in model.blocks] == ["visual.transformer.resblocks.0", "visual.transformer.resblocks.1",
                                                    "visual.proj"]  # fmt: skip
    assert model.layers["visual.proj"].shape == (24, 64) == tuple(model.matrix("visual.proj").shape)
    with pytest.raises(UserError, match="is no single matrix"):
        _ = model.layers["visual.transformer.resblocks.0"].shape
    fused = Clip(str(openai), layers="attn.in_proj", **WORDS).layer_at(0)
    assert fused.shape == (192, 64) and fused.weight_name.endswith("attn.in_proj_weight")


def test_training_reaches_parameters_that_no_hook_sees(clip: Clip, x: Tensor) -> None:
    """Gradients of every parameter of the tower, through the prefix and suffix, too."""
    names = clip.parameters_between(None, None)
    with clip.scratch(names), torch.enable_grad():
        network = clip.split_at("visual.transformer.resblocks.1.mlp.c_proj")
        loss = network.suffix(network.prefix(x)).square().sum()
        (grad,) = torch.autograd.grad(loss, [clip.param("visual.proj")])
        assert float(grad.abs().max()) > 0
        grads = torch.autograd.grad(clip.embed(x)[:, 0].sum(), [clip.param(n) for n in names], allow_unused=True)
    assert [n for n, g in zip(names, grads, strict=True) if g is None] == []


class _Named(nn.Module):
    """A network that calls its modules by the names of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(input=self.first(input=x).relu())
        out: Tensor = self.out(input=h.mean((2, 3)))
        return out


def test_modules_that_are_called_by_keyword_are_entered() -> None:
    torch.manual_seed(0)
    model = Classifier(net=_Named(), input_size=12, layers="*")
    x = model.sample(3)
    for name in ("second", "out"):
        network = model.split_at(name)
        assert network.fast
        close(network.suffix(network.prefix(x)), model.logits(x))
        delta = Delta({f"{name}.weight": Dense(torch.ones(model.layers[name].shape))}, model.base)
        [[half]] = model.logits_along(x, [(delta, [0.5])])
        with model.patched(delta.scale(0.5)):
            close(half, model.logits(x))
