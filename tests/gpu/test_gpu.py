"""The same numbers on a GPU; skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.half import gains
from helpers.small import SmallTask, every_editor, layers_for, left_as_found, relative, statistics_file, templates_file

from edit_robust.core.work import Workspace
from edit_robust.editors.language.helpers.moments import second_moments
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def full_precision() -> Any:
    kept = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = kept


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["rome", "r-rome", "memit", "ft", "ft-l2"])
def test_edits_are_those_of_the_cpu(
    checkpoint: Callable[[str], Path], tiny_model: Callable[[str], CausalLM], tmp_path: Path, kind: str, name: str
) -> None:
    cpu, gpu = tiny_model(kind), CausalLM(str(checkpoint(kind)), name=kind, device="cuda")
    assert gpu.fast and gpu.layer_at(0).weight.is_cuda
    editor = every_editor(str(statistics_file(tmp_path, cpu)), str(templates_file(tmp_path)))[name]
    task, requests = SmallTask(3), SmallTask(3).requests()
    found = []
    for model in (cpu, gpu):
        layers = layers_for(editor, model)
        with left_as_found(model):
            state = editor.prepare(model, layers, task, Workspace(tmp_path))
            edits = editor.edit_each(model, requests, state)
        scorer = model.scorer(task.examples(), model.parameter_names(layers))
        after = []
        for e in edits:
            with model.patched(e.delta):
                after.append(scorer.score().logp)
        found.append((edits, scorer.score().logp, np.stack(after)))
    (on_cpu, before_cpu, after_cpu), (on_gpu, before_gpu, after_gpu) = found
    assert np.abs(before_cpu - before_gpu).max() < 1e-3
    for a, b in zip(on_cpu, on_gpu, strict=True):
        for n in a.delta.terms:
            assert relative(b.delta.terms[n].dense().cpu(), a.delta.terms[n].dense()) < 1e-2, n
    assert np.abs(after_cpu - after_gpu).max() < 2e-2


def test_moments_and_files(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    gpu, cpu = (CausalLM(str(checkpoint("gpt2")), device=d) for d in ("cuda", "cpu"))
    assert gpu.base == cpu.base
    name, task = gpu.layer_at(1).name, SmallTask()
    a = second_moments(gpu, [name], task, "computed", "task", 50, Workspace(tmp_path / "gpu"))[name]
    b = second_moments(cpu, [name], task, "computed", "task", 50, Workspace(tmp_path / "cpu"))[name]
    assert a.is_cuda and relative(a.cpu(), b) < 1e-4
    editor = every_editor("computed", "bare")["rome"]
    edit = editor.edit(gpu, task.requests()[:1], editor.prepare(gpu, [name], task, Workspace(tmp_path / "gpu")))
    loaded = type(edit.delta).load(edit.delta.save(tmp_path / "d.safetensors"))
    with gpu.patched(edit.delta):
        want = gpu.score(task.examples()).logp
    with gpu.patched(loaded):  # a file's tensors are on the CPU
        assert np.abs(gpu.score(task.examples()).logp - want).max() < 1e-5


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 0.2), ("float16", 0.05)])
@pytest.mark.parametrize("name", ["rome", "memit", "ft", "ft-unconstrained"])
def test_half_precision_edits_gain_what_they_gain_in_float32(
    checkpoint: Callable[[str], Path],
    tiny_model: Callable[[str], CausalLM],
    tmp_path: Path,
    dtype: str,
    tolerance: float,
    name: str,
) -> None:
    """In nats of the target's log-probability, against the float32 model on the CPU."""
    model = CausalLM(str(checkpoint("gpt2")), name="gpt2", device="cuda", dtype=dtype)
    want = gains(tiny_model("gpt2"), tiny_model("gpt2"), name, tmp_path)
    found = gains(model, tiny_model("gpt2"), name, tmp_path)
    assert want.max() > 0.2, "nothing to compare"
    assert np.abs(found - want).max() < tolerance, (found, want)
