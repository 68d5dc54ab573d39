"""Independent edits of several layers go up together: each under its own changes, with the weights left as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bench import Bench, apart
from helpers.small import left_as_found, relative

from edit_robust.core import Delta, Dense, LowRank
from edit_robust.editors.language.helpers.values import subject_rows
from edit_robust.editors.language.memit import Memit
from edit_robust.editors.language.nse import Nse
from edit_robust.editors.language.rect import Rect
from edit_robust.models.language.causal_lm import CausalLM

TinyModel = Callable[[str], CausalLM]
THOROUGH = pytest.mark.thorough
KINDS = ["gpt2", "llama", *(pytest.param(k, marks=THOROUGH) for k in ("gptj", "gpt_neox", "bloom", "gemma2", "qwen3"))]
#: Of different lengths, so that rows of one request land in several batches.
TEMPLATES = ["{}", "As everyone in the whole town knows by now, {}", "So {}"]


@pytest.fixture(scope="module")
def gpt2(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tiny_model("gpt2"), tmp_path_factory.mktemp("bench"))


def two_layers(model: CausalLM) -> list[str]:
    return [model.layer_at(0).name, model.layer_at(1).name]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_read_under_their_own_changes(
    kind: str, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a model that is changed for each request, whichever batches the rows come in."""
    bench = Bench(tiny_model(kind), tmp_path)
    model, (low, high) = bench.model, two_layers(bench.model)
    monkeypatch.setattr(model, "batch_tokens", 60)
    requests = bench.requests[:3]
    rows = subject_rows(model, requests, TEMPLATES)
    draw = torch.Generator().manual_seed(0)
    d_out, d_in = model.layers[low].shape
    changes = [
        {low: LowRank(torch.randn(d_out, 2, generator=draw), torch.randn(d_in, 2, generator=draw))},
        {},
        {low: Dense(torch.randn(d_out, d_in, generator=draw))},
    ]
    before = model.trace(*rows, [high])[high]
    with left_as_found(model), model.each_under(changes):
        keys, out = model.trace(*rows, [high])[high], model.block_output(high, *rows)
    assert torch.equal(model.trace(*rows, [high])[high], before)
    for i, change in enumerate(changes):
        mine = slice(3 * i, 3 * i + 3)
        with model.patched(Delta({model.layers[n].weight_name: t for n, t in change.items()}, model.position)):
            alone = rows[0][mine], rows[1][mine]
            assert relative(keys[mine], model.trace(*alone, [high])[high]) < 1e-5
            assert relative(out[mine], model.block_output(high, *alone)) < 1e-5
    assert relative(keys[:3], before[:3]) > 1e-2 < relative(keys[6:], before[6:])


def test_rows_are_shared_out_evenly(gpt2: Bench) -> None:
    model, high = gpt2.model, gpt2.model.layer_at(1).name
    rows = subject_rows(model, gpt2.requests[:1], TEMPLATES)
    with pytest.raises(ValueError, match="3 rows cannot belong to 2 changes"), model.each_under([{}, {}]):
        model.trace(*rows, [high])


def test_changes_of_rows_end_with_their_block(gpt2: Bench) -> None:
    model, (low, high) = gpt2.model, two_layers(gpt2.model)
    rows = subject_rows(model, gpt2.requests[:1], TEMPLATES)
    before = model.trace(*rows, [high])[high]
    with pytest.raises(ZeroDivisionError), model.each_under([{low: Dense(torch.ones(model.layers[low].shape))}]):
        assert not torch.equal(model.trace(*rows, [high])[high], before)
        raise ZeroDivisionError
    assert torch.equal(model.trace(*rows, [high])[high], before)


@pytest.mark.parametrize(("kind", "asked"), [(Memit, 4), (Rect, 4), (Nse, 1 + 2 * (4 + 1) + 2)])
def test_upper_layers_are_read_for_all_at_once(
    kind: Any, asked: int, gpt2: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes of the network a layer, however many requests; NSE goes up twice, looks at the distance before and
    after, and reads keys at the end. The same edits as one by one, and the weights are never written."""
    editor = kind(**gpt2.options(mom2_update_weight=10.0))
    model, requests = gpt2.model, gpt2.requests
    state = gpt2.start(editor, [0, 1])
    targets, infos = editor.targets(model, requests, state)
    passes: list[int] = []
    own = model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids, **k: (passes.append(len(ids)), own(ids, **k))[1])
    monkeypatch.setattr(model, "batch_tokens", 10**6)
    with left_as_found(model), monkeypatch.context() as watched:
        watched.setattr(model, "add", lambda delta: pytest.fail("the weights were written"))
        together = editor.side_by_side(model, requests, targets, infos, state)
    assert len(passes) == asked
    one_by_one = editor.one_by_one(model, requests, targets, infos, state)
    for a, b in zip(together, one_by_one, strict=True):
        assert apart(a.delta, b.delta) < 1e-4 and a.delta.base == b.delta.base == model.position
        assert a.info[0] == pytest.approx(b.info[0], rel=1e-3) and a.info[0].keys() == b.info[0].keys()
        assert a.carry.keys() == b.carry.keys() and all(relative(a.carry[n], b.carry[n]) < 1e-4 for n in a.carry)


def test_passes_of_requests_that_are_close_enough(gpt2: Bench) -> None:
    """NSE writes each request as often as it would alone: not at all, or until it is within alpha of its value."""
    editor = Nse(**gpt2.options(mom2_update_weight=100.0), max_iterations=5)
    model, requests = gpt2.model, gpt2.requests
    state = gpt2.start(editor, [0, 1])
    targets, infos = editor.targets(model, requests, state)
    far = torch.tensor([1.0, 4.0, 16.0, 64.0, 256.0])[:, None]
    targets = targets + far * torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    free = editor.side_by_side(model, requests, targets, infos, state)
    editor.alpha = 1.01 * sorted(e.info[0]["value_distance"] for e in free)[1]
    edits = editor.side_by_side(model, requests, targets, infos, state)
    passes = [e.info[0]["passes"] for e in edits]
    assert passes.count(0) == 2 and set(passes) > {0, 1}
    for a, b in zip(edits, editor.one_by_one(model, requests, targets, infos, state), strict=True):
        assert a.info[0]["passes"] == b.info[0]["passes"]
        if a.info[0]["passes"]:
            assert apart(a.delta, b.delta) < 1e-4
        else:
            assert a.delta.norm() == b.delta.norm() == 0


@pytest.mark.parametrize("kind", [Memit, Nse])
@pytest.mark.parametrize("bad", [[1], [0, 1, 2]])
def test_one_that_is_not_finite_leaves_the_others(bad: list[int], kind: Any, gpt2: Bench) -> None:
    editor = kind(**gpt2.options(mom2_update_weight=10.0))
    model, requests = gpt2.model, gpt2.requests[:3]
    state = gpt2.start(editor, [0, 1])
    targets, infos = editor.targets(model, requests, state)
    spoilt = targets.clone()
    spoilt[bad] = float("nan")
    edits = editor.side_by_side(model, requests, spoilt, infos, state)
    assert [e.refused for e in edits] == [i in bad for i in range(3)]
    alone = editor.one_by_one(model, requests, spoilt, infos, state)
    for i, (a, b) in enumerate(zip(edits, alone, strict=True)):
        assert a.info[0].keys() == b.info[0].keys()
        assert i in bad or apart(a.delta, b.delta) < 1e-4


def test_rounded_weights_are_written_one_by_one(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 what is written is not the change, so that the model takes each in turn."""
    model = CausalLM(str(checkpoint("llama")), name="llama", device="cpu", dtype="bfloat16")
    bench = Bench(model, tmp_path)
    editor = Memit(**bench.options(mom2_update_weight=10.0))
    state = bench.start(editor, [0, 1])
    targets, infos = editor.targets(model, bench.requests[:2], state)
    monkeypatch.setattr(Memit, "climb_each", lambda *args: pytest.fail("read together"))
    first, _ = editor.edit_each(model, bench.requests[:2], state)
    alone = editor.spread(model, bench.requests[:1], targets[:1], infos[:1], state)
    assert apart(first.delta, alone.delta) < 1e-2
