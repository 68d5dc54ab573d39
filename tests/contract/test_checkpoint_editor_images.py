"""Classifiers and CLIPs that were made elsewhere: with the change added, the model answers as the other one does."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import tiny_clips
from helpers.image_edits import request
from helpers.runs import go
from helpers.tiny_nets import CLASSES, TinyTask, tiny_classifier
from safetensors.torch import load_file, save_file
from torch import nn

from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit
from edit_robust.editors.checkpoint import Checkpoint
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.clip import Clip

WORDS: dict[str, Any] = {"class_names": tiny_clips.NAMES, "templates": tiny_clips.TEMPLATES, "device": "cpu"}


def moved(net: nn.Module, seed: int = 5, size: float = 0.1) -> nn.Module:
    """A copy with other parameters; running statistics, too, as fine-tuning leaves them."""
    other = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for k, v in other.state_dict().items():
            if v.is_floating_point():
                noise = torch.randn(v.shape, generator=generator) * size
                scale = float(v.std()) if v.dim() > 1 else 1.0
                v.mul_(1 + noise.abs()) if k.endswith("running_var") else v.add_(noise * (scale or 1.0))
    return other


def edit_to(model: Any, path: Path, work: Workspace) -> Edit:
    editor = Checkpoint(str(path))
    state = editor.prepare(model, [], TinyTask(), work)
    return editor.edit(model, [request(2)], state)


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.mark.parametrize("kind", ["vgg", "resnet", "vit", "mha"])
@pytest.mark.parametrize("form", ["file.safetensors", "file.pth"])
def test_a_file_of_another_network_of_the_kind(
    kind: str, form: str, tmp_path: Path, work: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_classifier(kind)
    other = moved(model.net)
    if form.endswith("pth"):
        torch.save({"state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}}, tmp_path / form)
    else:
        save_file({k: v.contiguous() for k, v in other.state_dict().items()}, tmp_path / form)
    with caplog.at_level(logging.WARNING):
        edit = edit_to(model, tmp_path / form, work)
    norms = any(isinstance(m, nn.BatchNorm2d) for m in model.net.modules())
    assert ("running statistics" in caplog.text) == norms
    x = model.sample(3)
    before = model.net(x)
    with model.patched(edit.delta):
        torch.testing.assert_close(model.net(x), other(x), rtol=1e-3, atol=1e-4)
    assert torch.equal(before, model.net(x)) and (before - other(x)).abs().max() > 1e-3
    assert edit.info[0]["changed_parameters"] == len(list(model.net.parameters()))


@pytest.mark.slow
def test_folders_of_timm_and_an_adapter(tmp_path: Path, work: Workspace) -> None:
    from peft import LoraConfig, get_peft_model

    model = Classifier(path="random", name="test_vit", n_classes=CLASSES, input_size=32, device="cpu")
    other = timm.create_model("test_vit", num_classes=CLASSES, img_size=32).eval()
    timm.models.save_for_hf(other, str(tmp_path / "timm"), safe_serialization=True)
    x = model.sample(2)
    with torch.no_grad(), model.patched(edit_to(model, tmp_path / "timm", work).delta):
        torch.testing.assert_close(model.net(x), other(x), rtol=1e-4, atol=1e-5)
    config = LoraConfig(r=2, target_modules=r".*\.mlp\.fc1", init_lora_weights=False)
    wrapped = get_peft_model(copy.deepcopy(model.net), config)  # type: ignore[arg-type]
    wrapped.save_pretrained(tmp_path / "adapter")
    edit = edit_to(model, tmp_path / "adapter", work)
    assert edit.info[0]["change_rank"] == 2 and all(k.endswith("mlp.fc1.weight") for k in edit.delta.terms)
    with torch.no_grad(), model.patched(edit.delta):
        torch.testing.assert_close(model.net(x), wrapped.eval()(x), rtol=1e-4, atol=1e-5)
    another = timm.create_model("test_resnet", num_classes=CLASSES)
    timm.models.save_for_hf(another, str(tmp_path / "resnet"), safe_serialization=True)
    with pytest.raises(UserError, match="another architecture: test_resnet, and test_vit is test_vit"):
        edit_to(model, tmp_path / "resnet", work)


def test_what_does_not_fit(tmp_path: Path, work: Workspace) -> None:
    model = tiny_classifier("vit")
    state = {k: v.contiguous() for k, v in moved(model.net).state_dict().items()}
    for change, said in (
        ({"head.weight": None}, "it has no head.weight"),
        ({"neck.weight": torch.zeros(2)}, "it holds neck.weight, which .* has not"),
        ({"head.weight": torch.zeros(7, 16)}, r"head.weight is \(7, 16\) there and \(5, 16\) here"),
        ({"head.bias": torch.full((5,), torch.nan)}, "head.bias holds numbers that are not finite"),
    ):
        held = {k: v for k, v in {**state, **change}.items() if v is not None}
        save_file(held, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match=said):
            edit_to(model, tmp_path / "x.safetensors", work)
    with pytest.raises(UserError, match=r"editor.path=.* does not exist"):
        edit_to(model, tmp_path / "nothing.pth", work)
    with pytest.raises(UserError, match="holds no weights"):
        edit_to(model, tmp_path, work)


@pytest.mark.parametrize("form", ["folder", "openai", "safetensors"])
def test_clips(form: str, tmp_path: Path, work: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    """The image tower of another CLIP, in the forms that CLIPs come in; another text tower is said."""
    net = tiny_clips.make()
    model = Clip(str(tiny_clips.open_clip_folder(net, tmp_path / "own")), **WORDS)
    other = copy.deepcopy(net)
    other.visual = moved(other.visual)
    if form == "folder":
        path = tiny_clips.open_clip_folder(other, tmp_path / "other")
    elif form == "openai":
        other.logit_scale.data += 0.5
        path = tiny_clips.openai_file(other, tmp_path / "other.pt")
    else:
        path = tmp_path / "other.safetensors"
        save_file({k: v.contiguous() for k, v in other.state_dict().items()}, path)
    with caplog.at_level(logging.WARNING):
        edit = edit_to(model, path, work)
    assert ("text tower is another one" in caplog.text) == (form == "openai")
    assert all(k.startswith("visual.") for k in edit.delta.terms)
    x = model.sample(2)
    with torch.no_grad(), model.patched(edit.delta):
        wanted = nn.functional.normalize(other.visual(x), dim=-1)
        torch.testing.assert_close(model.embed(x), wanted, rtol=1e-3, atol=1e-4)


def test_a_trained_head(tmp_path: Path, work: Workspace) -> None:
    """Where the head is a parameter, that of the folder counts."""
    net = tiny_clips.make()
    own = tiny_clips.open_clip_folder(net, tmp_path / "own")
    model = Clip(str(own), train_head=True, **WORDS)
    other = tiny_clips.open_clip_folder(net, tmp_path / "other")
    head = model.param("head").detach() + 1
    save_file({"head": head.contiguous()}, other / "head.safetensors")
    edit = edit_to(model, other, work)
    assert set(edit.delta.terms) == {"head"}
    torch.testing.assert_close(edit.delta.terms["head"].dense(), torch.ones_like(head))


@pytest.mark.slow
def test_a_run_with_a_network_trained_elsewhere(tmp_path: Path) -> None:
    """scene-cnn with a little noise in all weights, as one line of points."""
    other = tmp_path / "noisy.safetensors"
    own = Classifier(path="builtin:scene-cnn", device="cpu")
    save_file({k: v.contiguous() for k, v in moved(own.net, size=0.05).state_dict().items()}, other)
    given = ["model=scene-cnn", "editor=checkpoint", f"editor.path={other}", "trajectory=interpolate", "device=cpu"]
    given += ["trajectory.alphas=[0.5,1.0]", "task.n_edit=16", "task.n_validation=24", "task.natural=[]"]
    given += ["corruption=none", "tracker=none", "figures=false", f"paths.outputs={tmp_path / 'outputs'}"]
    run = go(experiment(compose(given)))
    assert run.complete and run.summary["n_changed_parameters"] == len(list(own.net.parameters()))
    rows = run.records[(run.records.metric == "accuracy") & (run.records.probe == "original")]
    assert set(rows.alpha) == {0.5, 1.0} and len(load_file(other)) > 10
