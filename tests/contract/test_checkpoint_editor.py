"""A model that was made elsewhere, walked and measured like an edit: its weights, its rank, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.runs import KilledError, fuse, go, options, override, prepared, records
from helpers.small import SmallTask, left_as_found
from safetensors.torch import load_file, save_file

from edit_robust.config.check import check
from edit_robust.config.compose import compose
from edit_robust.config.nodes import build
from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.checkpoint import Checkpoint
from edit_robust.editors.helpers.ranks import numerical_rank, rounding, singular_values
from edit_robust.evaluate.answers import Questions
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs.reader import Run

Model = Callable[[str], CausalLM]
Folder = Callable[[str], Path]
NAMES = {"gpt2": "transformer.h.1.mlp.c_proj.weight", "llama": "model.layers.1.mlp.down_proj.weight"}


def changed(
    source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None], form: str = "folder"
) -> Path:
    """A copy of a checkpoint with other weights."""
    state = {k: v.clone() for k, v in load_file(source / "model.safetensors").items()}
    change(state)
    if form == "pth":
        torch.save({f"module.{k}": v for k, v in state.items()}, target.with_suffix(".pth"))
        return target.with_suffix(".pth")
    shutil.copytree(source, target)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


def rank_two(state: dict[str, torch.Tensor]) -> None:
    """A change of rank 2 of one matrix, and a bias."""
    generator = torch.Generator().manual_seed(3)
    name = next(n for n in NAMES.values() if n in state)
    a, b = state[name].shape
    state[name] += 0.05 * torch.randn(a, 2, generator=generator) @ torch.randn(2, b, generator=generator)
    if "transformer.h.0.ln_1.bias" in state:
        state["transformer.h.0.ln_1.bias"] += 0.5


def made(model: Any, path: Any, work: Workspace, task: SmallTask, **more: Any) -> tuple[Any, Any]:
    editor = Checkpoint(str(path) if isinstance(path, Path) else path, **more)
    state = editor.prepare(model, [], task, work)
    return editor.edit(model, task.requests()[:3], state), state


@pytest.mark.parametrize("form", ["folder", "pth"])
@pytest.mark.parametrize("kind", NAMES)
def test_the_change_is_the_difference(
    kind: str, form: str, tiny_model: Model, checkpoint: Folder, tmp_path: Path, task: SmallTask, work: Workspace
) -> None:
    model, name = tiny_model(kind), NAMES[kind]
    other = changed(checkpoint(kind), tmp_path / "other", rank_two, form)
    with left_as_found(model):
        edit, state = made(model, other, work, task)
        assert name in state.changes(model) and set(edit.delta.terms) == set(state.changes(model))
        with model.patched(edit.delta):
            wanted = load_file(other / "model.safetensors")[name] if form == "folder" else None
            if wanted is not None:
                torch.testing.assert_close(model.param(name).detach(), wanted, rtol=0, atol=1e-6)
    first, *others = edit.info
    assert first[f"change_rank@{name}"] == 2 == first["change_rank"]
    assert sum(v for k, v in first.items() if k.startswith("change_share@")) == pytest.approx(1)
    assert first[f"change_relative@{name}"] == pytest.approx(
        edit.delta.terms[name].norm() / float(model.param(name).norm()), rel=1e-5
    )
    assert len(others) == 2 and all("@" not in k for info in others for k in info)


def test_quantised_elsewhere(
    tiny_model: Model, checkpoint: Folder, tmp_path: Path, task: SmallTask, work: Workspace
) -> None:
    """A half-precision copy differs by rounding alone, which is of no rank; rounding to eight bits is of full rank."""
    model, name = tiny_model("llama"), NAMES["llama"]
    half = transformers.AutoModelForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    edit, _ = made(model, tmp_path / "half", work, task)
    assert edit.info[0]["change_rank"] == 0 and edit.info[0]["delta_norm"] > 0

    def eight_bits(state: dict[str, torch.Tensor]) -> None:
        step = state[name].abs().max() / 127
        state[name] = (state[name] / step).round() * step

    edit, _ = made(model, changed(checkpoint("llama"), tmp_path / "q", eight_bits), work, task)
    assert edit.info[0][f"change_rank@{name}"] == min(model.param(name).shape)


def test_an_adapter_is_merged(
    tiny_model: Model, checkpoint: Folder, tmp_path: Path, task: SmallTask, work: Workspace
) -> None:
    from peft import LoraConfig, get_peft_model

    net = transformers.AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    torch.manual_seed(1)
    wrapped = get_peft_model(net, LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter")
    model = tiny_model("llama")
    with left_as_found(model):
        edit, _ = made(model, tmp_path / "adapter", work, task)
    assert len(edit.delta.terms) == 6 and {v for k, v in edit.info[0].items() if "_rank@" in k and "st" not in k} == {3}
    merged = wrapped.merge_and_unload()
    with model.patched(edit.delta):
        for k, p in merged.named_parameters():
            torch.testing.assert_close(model.param(k).detach(), p.detach(), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_a_walk_along_a_training_run(
    checkpoint: Folder, tiny_model: Model, facts: Path, tmp_path: Path, task: SmallTask, work: Workspace
) -> None:
    """Three checkpoints: at each the model answers as that one does; killed in between, it comes out the same."""

    def trained(steps: int) -> Callable[[dict[str, torch.Tensor]], None]:
        def change(state: dict[str, torch.Tensor]) -> None:
            for i in range(steps):
                generator = torch.Generator().manual_seed(i)
                for k in ("transformer.h.0.mlp.c_fc.weight", "transformer.h.2.attn.c_attn.weight"):
                    state[k] += 0.02 * torch.randn(state[k].shape, generator=generator)

        return change

    source = checkpoint("gpt2")
    along = [changed(source, tmp_path / f"step{i}", trained(i)) for i in (1, 2, 3)]
    listed = f"editor.path=[{','.join(str(p) for p in along)}]"
    given = ["editor=checkpoint", listed, "trajectory=checkpoints"]
    given = [*(g for g in override(options(source, facts, tmp_path / "outputs", "ft"), *given) if "num_steps" not in g)]
    run = go(prepared(given, tiny_model("gpt2")))
    assert [p["step"] for p in run.points] == [0, 1, 2, 3]
    own = build(run.config["task"], "task")
    questions = Questions(own.requests(), own.probes(own.requests()))
    for step, folder in enumerate(along, start=1):
        alone = CausalLM(str(folder), device="cpu")
        index, logp, _ = run.outcomes(step)["final"]
        asked = [questions.examples[i] for i in index]
        assert np.nanmax(np.abs(alone.score(asked).logp - logp)) < 1e-4
    told = run.records[(run.records.step == 3) & run.records.metric.isin(["change_share", "change_rank"])]
    assert set(told.layer) - {""} == {"transformer.h.0.mlp.c_fc.weight", "transformer.h.2.attn.c_attn.weight"}
    assert run.summary["n_changed_parameters"] == 2 and run.summary["change_rank"] == 48
    assert "transformer.h.0.mlp.c_fc.weight" in next(c.label for c in run.columns if c.key == "change_place_1")
    again = override(given, f"paths.outputs={tmp_path / 'again'}")
    with pytest.raises(KilledError), fuse(9):
        go(prepared(again, tiny_model("gpt2")))
    resumed = go(prepared(again, tiny_model("gpt2")))
    assert resumed.id == run.id and records(resumed) == records(run)
    with pytest.raises(UserError, match="3 checkpoints: trajectory=checkpoints"):
        made(tiny_model("gpt2"), [str(p) for p in along], work, task)


@pytest.mark.slow
@pytest.mark.parametrize("trajectory", ["interpolate", "batch"])
def test_other_walks(trajectory: str, checkpoint: Folder, tiny_model: Model, facts: Path, tmp_path: Path) -> None:
    source = checkpoint("gpt2")
    other = changed(source, tmp_path / "other", rank_two)
    more = [f"trajectory={trajectory}", "editor=checkpoint", f"editor.path={other}"]
    more += ["trajectory.alphas=[0.5,1.0]"] * (trajectory == "interpolate")
    given = [g for g in override(options(source, facts, tmp_path / "outputs", "ft"), *more) if "num_steps" not in g]
    run = go(prepared(given, tiny_model("gpt2")))
    assert run.complete and run.summary["change_rank"] == 2 and run.summary["n_edits"] == 4
    run.replay(model := CausalLM(str(source), device="cpu"))
    wanted = load_file(other / "model.safetensors")[NAMES["gpt2"]]
    torch.testing.assert_close(model.param(NAMES["gpt2"]).detach(), wanted, rtol=0, atol=1e-6)
    assert isinstance(run, Run)


# -- what is refused ---------------------------------------------------------------------------------------------------


def _without(state: dict[str, torch.Tensor]) -> None:
    state.pop("transformer.h.3.mlp.c_fc.bias")


def _more(state: dict[str, torch.Tensor]) -> None:
    state["transformer.h.9.mlp.c_fc.bias"] = torch.zeros(3)


def _wide(state: dict[str, torch.Tensor]) -> None:
    state["transformer.h.2.mlp.c_fc.bias"] = torch.zeros(7)


def _endless(state: dict[str, torch.Tensor]) -> None:
    state["transformer.h.2.mlp.c_fc.bias"][0] = torch.inf


def _packed(state: dict[str, torch.Tensor]) -> None:
    state["transformer.h.2.mlp.c_fc.weight"] = state["transformer.h.2.mlp.c_fc.weight"].to(torch.int8)


@pytest.mark.parametrize("form", ["folder", "pth"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without, "lacks transformer.h.3.mlp.c_fc.bias|has no transformer.h.3.mlp.c_fc.bias"),
        (_more, "transformer.h.9.mlp.c_fc.bias"),
        (_wide, "transformer.h.2.mlp.c_fc.bias"),
        (_endless, "transformer.h.2.mlp.c_fc.bias holds numbers that are not finite"),
        (lambda state: None, "no weight differs"),
    ],
)
def test_what_does_not_fit(
    change: Any, said: str, form: str, tiny_model: Model, checkpoint: Folder, tmp_path: Path, task: SmallTask,
    work: Workspace,
) -> None:  # fmt: skip
    other = changed(checkpoint("gpt2"), tmp_path / "other", change, form)
    with pytest.raises(UserError, match=said) as e:
        made(tiny_model("gpt2"), other, work, task)
    assert "\n" not in str(e.value)


def test_other_things_that_are_refused(
    tiny_model: Model, checkpoint: Folder, tmp_path: Path, task: SmallTask, work: Workspace
) -> None:
    model = tiny_model("gpt2")
    packed = changed(checkpoint("gpt2"), tmp_path / "packed", _packed, "pth")
    quantised = Path(shutil.copytree(checkpoint("gpt2"), tmp_path / "quantised"))
    about = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(about | {"quantization_config": {"quant_method": "gptq"}}))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]})
    )
    code = tmp_path / "code.pth"
    torch.save({"w": Path("x"), "f": print}, code)
    for path, said in (
        (packed, "holds int8, packed numbers"),
        (checkpoint("llama"), "another architecture: llama, and gpt2 is gpt2"),
        (quantised, "has packed weights"),
        (adapter, "is an adapter that does not fit gpt2"),
        (code, "holds more than weights"),
        (tmp_path / "nowhere", "editor.path=.* does not exist"),
        (tmp_path, "has no config.json"),
    ):
        with pytest.raises(UserError, match=said) as e:
            made(model, path, work, task)
        assert "\n" not in str(e.value)
    with pytest.raises(UserError, match=r"editor.path is empty"):
        Checkpoint([])
    with pytest.raises(UserError, match=r"editor.path must be given"):
        check(compose(["editor=checkpoint"]))


# -- ranks -------------------------------------------------------------------------------------------------------------


def test_ranks_against_the_svd() -> None:
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(30, 50, generator=generator)
    torch.testing.assert_close(singular_values(m), torch.linalg.svdvals(m.double()))
    low = torch.randn(30, 4, generator=generator) @ torch.randn(4, 50, generator=generator)
    for eps in (torch.finfo(torch.float32).eps, torch.finfo(torch.bfloat16).eps):
        dtype = torch.float32 if eps < 1e-5 else torch.bfloat16
        stored = (m.to(dtype).float() + low).to(dtype).float() - m
        assert numerical_rank(stored, m, eps)[0] == 4
        noise = m.to(dtype).float() - m
        if dtype is torch.bfloat16:
            assert float(torch.linalg.svdvals(noise)[0]) < 2 * rounding(m, eps)
            assert numerical_rank(noise, m, eps)[0] == 0
    assert numerical_rank(torch.zeros(3, 4), torch.ones(3, 4), 1e-7) == (0, 0.0)
    assert numerical_rank(torch.eye(5), torch.ones(5, 5), 1e-7) == (5, pytest.approx(5.0))
