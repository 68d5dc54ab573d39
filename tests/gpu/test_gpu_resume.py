"""Runs on a GPU that are killed and gone on with end with the same records; skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.runs import KilledError, go, made_until, options, override, prepared, records
from helpers.tiny import tiny_facts, write_json

from edit_robust.core.pace import Pace
from edit_robust.editors.language.helpers.values import spread, sums_of
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MORE = {"rome": ["editor.v_num_grad_steps=10"], "memit": ["trajectory.batch_size=2"], "ft": ["editor.num_steps=10"]}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_json(tmp_path_factory.mktemp("facts") / "facts.json", tiny_facts(10))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("editor", list(MORE))
def test_killed_and_gone_on_with(
    editor: str,
    kind: str,
    checkpoint: Callable[[str], Path],
    facts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Factors are read from files, edits of fine-tuning are made again: the same bits, and the hash of the weights says
    so at every check."""
    model = CausalLM(str(checkpoint(kind)), name=kind, device="cuda")
    given = options(checkpoint(kind), facts, tmp_path / "whole", editor)
    given = override(given, "device=cuda", "task.n_requests=8", *MORE[editor])
    whole = go(prepared(given, model))
    made = prepared(override(given, f"paths.outputs={tmp_path / 'killed'}"), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(type(made.editor), 4, patch)
        patch.setattr(Pace, "due", lambda self, worked: False)
        go(made)
    run = go(made)
    assert records(run) == records(whole) and run.delta().digest() == whole.delta().digest()


def test_values_are_the_same_at_every_run() -> None:
    """Sums over targets and over prompts, forward and backward."""
    g = torch.Generator().manual_seed(0)
    owner = torch.tensor([0] * 60 + [1] * 60 + [0, 1]).cuda()
    delta, above = torch.rand(2, 1600, generator=g).cuda().requires_grad_(), torch.randn(122, 1600, generator=g).cuda()
    found = [torch.autograd.grad(spread(delta, owner), delta, above)[0] for _ in range(20)]
    assert all(torch.equal(f, found[0]) for f in found)
    x, lengths = torch.rand(10_000, generator=g).cuda(), torch.tensor([9000, 1, 999]).cuda()
    sums = [sums_of(x, lengths) for _ in range(20)]
    assert all(torch.equal(s, sums[0]) for s in sums)
    assert torch.allclose(sums[0].cpu(), sums_of(x.cpu(), lengths.cpu()), rtol=1e-4)
