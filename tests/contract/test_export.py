"""What exports hold and what they refuse: parts of a walk, adapters of all kinds of layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import CommandLine, go, options, override, prepared
from helpers.tiny_nets import tiny_classifier
from safetensors.torch import load_file

from edit_robust.core import Delta, Dense, LowRank, UserError
from edit_robust.exports import adapter, exporting
from edit_robust.exports.applying import apply, model_node
from edit_robust.exports.edited import Edited, edited
from edit_robust.exports.exporting import export
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs.reader import Run

Model = Callable[[str], CausalLM]
WEIGHT = "transformer.h.1.mlp.c_proj.weight"


@pytest.fixture(scope="module")
def run(
    checkpoint: Callable[[str], Path], tiny_model: Model, facts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Four edits of ROME in a row."""
    outputs = tmp_path_factory.mktemp("outputs")
    return go(prepared(options(checkpoint("gpt2"), facts, outputs, "rome", "layer.index=1"), tiny_model("gpt2")))


def weight_in(folder: Path, name: str = WEIGHT) -> torch.Tensor:
    return load_file(folder / "model.safetensors")[name]


def of(model: Any, terms: dict[str, Any]) -> Edited:
    """A model with a change in it, without a run."""
    delta = Delta(terms, model.base)
    before = model.snapshot(terms)
    return Edited(model, model.base, before, {}, 1.0, 1, {}, made=delta)


@pytest.mark.slow
def test_parts_of_a_walk(run: Run, tiny_model: Model, tmp_path: Path) -> None:
    """Half of the change, the first two edits, and more than all of it; the same from a change in a file."""
    whole, first = run.delta(), Delta.chain(run.deltas()[:2])
    start = tiny_model("gpt2").param(WEIGHT).detach()
    for name, given, change in (
        ("half", {"alpha": 0.5}, whole.scale(0.5)),
        ("two", {"upto": 2}, first),
        ("more", {"alpha": 1.5, "upto": 2}, first.scale(1.5)),
    ):
        export(run, tmp_path / name, **given)  # type: ignore[arg-type]
        wanted = start + change.terms[WEIGHT].dense().T
        torch.testing.assert_close(weight_in(tmp_path / name), wanted, rtol=1e-5, atol=1e-5)
        export(run, tmp_path / f"{name}-delta", to="safetensors", **given)  # type: ignore[arg-type]
        kept = Delta.load(tmp_path / f"{name}-delta" / "delta.safetensors")
        assert kept.base == tiny_model("gpt2").base and isinstance(kept.terms[WEIGHT], LowRank)
        source = str(run.config["model"]["path"])
        apply(tmp_path / f"{name}-delta", source, tmp_path / f"{name}-applied")
        torch.testing.assert_close(weight_in(tmp_path / f"{name}-applied"), wanted, rtol=1e-5, atol=1e-5)
    text = (tmp_path / "two" / "README.md").read_text()
    assert "As measured at step 2" in text and "| edits | 2 |" in text and "| retention | edit | success |" in text
    assert "alpha = 0.5" in (tmp_path / "half" / "README.md").read_text()
    assert "measured no point at these weights" in (tmp_path / "half" / "README.md").read_text()
    assert edited(run, upto=4).model.position == edited(run).model.position


@pytest.mark.slow
def test_what_is_refused(run: Run, tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    for given, said in (
        ({"to": "hff"}, 'there is no such format; did you mean "hf"'),
        ({"to": "timm"}, "gpt2.* is no network of timm"),
        ({"to": "open_clip"}, "is no CLIP"),
        ({"upto": 9}, "never stood at 9 edits; the nearest place is 4"),
        ({"upto": 0}, "never stood at 0 edits; the nearest place is 1"),
        ({"alpha": float("nan")}, "--alpha nan must be a finite number"),
        ({"rank": 2}, "--rank goes with --to peft"),
        ({"rank": 0, "to": "peft"}, "--rank 0 must be at least 1"),
    ):
        with pytest.raises(UserError, match=said):
            export(run, tmp_path / "x", **given)  # type: ignore[arg-type]
        assert not (tmp_path / "x").exists() and not list(tmp_path.glob(".x*"))
    export(run, tmp_path / "delta", to="safetensors")
    with pytest.raises(UserError, match=r"is a change of another model than .*: it was made at weights with the hash"):
        apply(tmp_path / "delta", str(checkpoint("gptj")), tmp_path / "y")
    with pytest.raises(UserError, match="is a change of another model"):  # the same weights, rounded
        apply(tmp_path / "delta", str(checkpoint("gpt2")), tmp_path / "y", overrides=["model.dtype=bfloat16"])
    with pytest.raises(UserError, match="is not empty"):
        apply(tmp_path / "delta", str(checkpoint("gpt2")), tmp_path / "delta")
    for to, said in (
        ("fact-gtp", 'is neither a folder nor a model\'s config; did you mean "fact-gpt"'),
        (str(tmp_path), "has no config.json"),
        ("timm", r"model.name must be given"),
    ):
        with pytest.raises(UserError, match=said):
            model_node(to, [], "")
    with pytest.raises(UserError, match=r"only options of the model"):
        model_node("fact-gpt", ["editor=rome"], "")
    assert model_node("model=fact-gpt", [], "bfloat16")["dtype"] == "bfloat16"
    assert not (tmp_path / "y").exists()


@pytest.mark.slow
def test_the_command_line(run: Run, say: CommandLine, tmp_path: Path) -> None:
    said = say("export", str(run.path), "adapter", "--to", "peft", "--rank", "1")
    assert said.code == 0 and "cut to rank 1: relative error" in said.out and "adapter (peft)" in said.out
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 1
    assert say("export", str(run.path), "delta", "--to", "safetensors").code == 0
    source = str(run.config["model"]["path"])
    said = say("apply", "delta", "--to", source, "--out", "new", "--alpha", "0")
    assert said.code == 0 and "new (hf)" in said.out
    torch.testing.assert_close(weight_in(tmp_path / "new"), weight_in(Path(source)), rtol=0, atol=0)
    said = say("apply", "delta", "--to", "fact-gpt", "--out", "other")
    assert said.code == 2 and "is a change of another model than fact-gpt" in said.line


def test_nothing_is_left_of_what_fails(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(exporting, "write_card", fails)
    with pytest.raises(OSError, match="no space"):
        export(run, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_collapsed_model_is_marked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(run, tmp_path / "well", to="safetensors")
    assert "Warning" not in (tmp_path / "well" / "README.md").read_text()
    summary = {**run.summary, "final_perplexity": 1e6, "perplexity": 1e6, "unedited_perplexity": 4.0}
    monkeypatch.setattr(Run, "summary", property(lambda self: summary))
    export(run, tmp_path / "broken", to="safetensors")
    assert "**Warning: the model has collapsed.**" in (tmp_path / "broken" / "README.md").read_text()


@pytest.mark.slow
def test_dense_changes(checkpoint: Callable[[str], Path], tiny_model: Model, facts: Path, tmp_path: Path) -> None:
    """Fine-tuning: whole matrices are refused for an adapter unless they may be cut; steps between were not kept."""
    given = options(checkpoint("gpt2"), facts, tmp_path / "outputs", "ft")
    found = go(prepared(override(given, "editor.num_steps=3"), tiny_model("gpt2")))
    with pytest.raises(UserError, match="is a whole matrix, and an adapter holds changes of low rank: give --rank"):
        export(found, tmp_path / "x", to="peft")
    made = export(found, tmp_path / "cut", to="peft", rank=2)
    whole = edited(found).change
    errors = [float(line.rpartition(" ")[2]) for line in made.remarks]
    lost = sum(t.norm() ** 2 - t.truncate(2).norm() ** 2 for t in whole.terms.values() if min(t.shape) > 1)
    size = sum(t.norm() ** 2 for t in whole.terms.values() if min(t.shape) > 1)
    assert errors[0] == pytest.approx((lost / size) ** 0.5, rel=1e-2)
    assert "relative error" in (tmp_path / "cut" / "README.md").read_text()
    with pytest.raises(UserError, match="kept no change of edit 2"):
        export(found, tmp_path / "x", upto=2)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_adapters_of_other_layers(kind: str, tmp_path: Path) -> None:
    """Convolutions, linear maps, ranks that differ, a bias: peft's network answers as ours with the change."""
    from peft import PeftModel

    model = tiny_classifier(kind)
    terms: dict[str, Any] = {}
    for i, layer in enumerate(list(model.layers.values())[:2]):
        d_out, d_in = layer.shape
        terms[layer.weight_name] = LowRank(torch.randn(d_out, i + 1), torch.randn(d_in, i + 1) * 0.1)
        if layer.bias_name and i == 0:
            terms[layer.bias_name] = Dense(torch.randn(d_out, 1))
    adapter.write(of(model, terms), tmp_path, None)
    x = model.sample(2)
    plain = model.net(x)
    with model.patched(Delta(terms, model.base)):
        wanted = model.net(x)
    other = PeftModel.from_pretrained(tiny_classifier(kind).net, tmp_path).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(other(x), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.merge_and_unload()(x), wanted, rtol=1e-4, atol=1e-4)
    assert (plain - wanted).abs().max() > 1e-2


def test_what_no_adapter_holds(tiny_model: Model, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    for terms, said in (
        ({"transformer.ln_f.weight": Dense(torch.ones(48, 1))}, "transformer.ln_f.weight has changed"),
        ({}, "no weight has changed"),
    ):
        with pytest.raises(UserError, match=said):
            adapter.write(of(model, terms), tmp_path, None)
    assert not list(tmp_path.iterdir())
