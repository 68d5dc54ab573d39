"""MEND's edits: limiting cases in closed form, what it finds in a network, and files of hypernetworks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.bench import apart
from helpers.mend import drawn, identity, targets_of
from helpers.runs import KilledError, go, made_until, override, prepared, records
from helpers.small import SmallTask, left_as_found, relative
from safetensors.torch import save_file

from edit_robust.core import LowRank, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.language.helpers.factors import edit_texts, factors_of, together
from edit_robust.editors.language.helpers.hypernetwork import EPSILON, Hypernetwork
from edit_robust.editors.language.helpers.hypernetwork_files import about_tensor, as_tensors
from edit_robust.editors.language.mend import Mend
from edit_robust.models.language.causal_lm import CausalLM

TinyModel = Callable[[str], CausalLM]
REQUESTS = SmallTask(5).requests()
UP_AND_DOWN = {
    "gpt2": ["c_proj", "c_fc"],
    "gptj": ["fc_out", "fc_in"],
    "llama": ["down_proj", "gate_proj", "up_proj"],
    "qwen2": ["down_proj", "gate_proj", "up_proj"],
    "gpt_neox": ["dense_4h_to_h", "dense_h_to_4h"],
    "bloom": ["dense_4h_to_h", "dense_h_to_4h"],
}


def written(folder: Path, hypernetwork: Hypernetwork, about: dict[str, Any] | None = None) -> str:
    path = folder / "hypernetwork.safetensors"
    tensors = as_tensors(hypernetwork) | ({} if about is None else {"about": about_tensor(about)})
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path)
    return str(path)


def start(model: CausalLM, file: str, blocks: list[int], **options: Any) -> tuple[Mend, State]:
    editor = Mend(hypernetwork=file, **options)
    return editor, editor.prepare(
        model,
        [model.layer_at(i).name for i in blocks],
        SmallTask(5),  # type: ignore[arg-type]
        Workspace(Path("nowhere")),
    )


def gradients(model: CausalLM, weights: tuple[str, ...], which: list[int]) -> dict[str, torch.Tensor]:
    """Of the mean of -log p over all target tokens, by autograd, as [d_out, d_in]."""
    texts = edit_texts(model, [REQUESTS[i] for i in which])
    with model.scratch(weights):
        n_tokens = sum(len(ids) - n for ids, n in texts)
        for ids, n in texts:
            logp = model.net(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
            (-sum(logp[at - 1, ids[at]] for at in range(n, len(ids))) / n_tokens).backward()
        return {w: model.as_matrix(w, model.param(w).grad.clone()) for w in weights}  # type: ignore[union-attr]


# -- edits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(UP_AND_DOWN))
def test_all_projections_of_an_mlp_are_found(kind: str, tiny_model: TinyModel) -> None:
    model = tiny_model(kind)
    found = targets_of(model, [1, 2])
    assert [t.name.rpartition(".")[2] for t in found] == UP_AND_DOWN[kind] * 2
    assert [t.layer.index for t in found] == [1] * (len(found) // 2) + [2] * (len(found) // 2)
    turned = [t.name.rpartition(".")[2] for t in targets_of(model, [1], "up-down")]
    assert turned == UP_AND_DOWN[kind][1:] + UP_AND_DOWN[kind][:1]
    rows: dict[Any, list[int]] = {}
    for target in found:
        rows.setdefault(target.shape, []).append(target.row)
    assert len(rows) == 2 and all(r == list(range(len(r))) for r in rows.values()), (
        "a gate has its up-projection's shape"
    )


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama", "qwen2"])
def test_the_identity_takes_a_step_along_the_gradient(kind: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    """With U = b = o = 0, mean 0 and deviation 1: dW = + rate * gradient."""
    model = tiny_model(kind)
    targets = targets_of(model, [1, 2])
    editor, state = start(model, written(tmp_path, identity(targets, 0.03)), [2, 1])
    want = gradients(model, state.parameters or (), [0, 1, 2])
    with left_as_found(model):
        edit = editor.edit(model, REQUESTS[:3], state)
        each = editor.edit_each(model, REQUESTS, state)
    assert list(edit.delta.terms) == [t.layer.weight_name for t in targets] == state.changes(model)
    assert edit.delta.base == model.base and len(edit.info) == 3
    for name, term in edit.delta.terms.items():
        assert isinstance(term, LowRank) and term.u.shape[1] <= min(term.shape)
        assert relative(term.dense(), 0.03 * want[name]) < 1e-4, name
    for request, one in zip(REQUESTS, each, strict=True):
        alone = editor.edit(model, [request], state)
        assert apart(one.delta, alone.delta) < 1e-4, "side by side is one by one"
        assert one.info[0]["edit_loss"] == pytest.approx(alone.info[0]["edit_loss"], abs=1e-4)
        assert one.info[0]["delta_norm"] == pytest.approx(one.delta.norm(), rel=1e-5) and not one.refused
    question = [e for e in SmallTask(5).examples() if e.id == "0/0"]
    logp = float(model.score(question).logp[0, 0])
    assert each[0].info[0]["edit_loss"] == pytest.approx(-logp, abs=1e-3)
    with model.patched(each[0].delta):
        climbed = float(model.score(question).logp[0, 0])
        second = editor.edit(model, REQUESTS[1:2], state)
        assert second.delta.base == model.position and apart(second.delta, each[1].delta) > 1e-3
    assert climbed < logp, "a plus: an edit of the untrained network climbs the loss"


def test_factors_are_normalised_before_the_network(tiny_model: TinyModel, tmp_path: Path) -> None:
    """With U = b = o = 0: dW = rate * sum of (delta - m) / s  ((u - m) / s)^T over the tokens that take part."""
    model = tiny_model("gpt2")
    targets = targets_of(model, [3])
    editor, state = start(model, written(tmp_path, identity(targets, 0.5, mean=0.2, std=3.0)), [3])
    edit = editor.edit(model, REQUESTS[:2], state)
    seen = together(factors_of(model, edit_texts(model, REQUESTS[:2]), targets))
    for target in targets:
        u, delta = ((x - 0.2) / (3.0 + EPSILON) for x in (seen[target.name].u, seen[target.name].delta))
        assert len(u) == 3, "in the last block the predicting positions alone take part: one target has two tokens"
        assert relative(edit.delta.terms[target.layer.weight_name].dense(), 0.5 * delta.T @ u) < 1e-5


def test_many_tokens_give_no_more_factors_than_the_matrix_has(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama")
    targets = targets_of(model, [0])
    editor, state = start(model, written(tmp_path, drawn(targets)), [0])
    requests = SmallTask(12).requests()
    seen = together(factors_of(model, edit_texts(model, requests), targets))
    assert len(seen[targets[0].name].u) > 80
    out = state.given.hypernetwork.transform([seen])[0]
    edit = editor.edit(model, requests, state)
    for target, rate in zip(targets, state.given.rates, strict=True):
        term = edit.delta.terms[target.layer.weight_name]
        assert isinstance(term, LowRank) and term.u.shape[1] == 32
        assert relative(term.dense(), rate * out[target.name].delta.T @ out[target.name].u) < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, checkpoint: Callable[[str], Path], tiny_model: TinyModel, tmp_path: Path) -> None:
    """The change is float32, and what it is in float32 but for the rounding of gradients."""
    half = CausalLM(str(checkpoint("llama")), device="cpu", dtype=dtype)
    found = []
    for model in (tiny_model("llama"), half):
        editor, state = start(model, written(tmp_path, identity(targets_of(model, [1, 2]))), [1, 2])
        with left_as_found(model):
            found.append(editor.edit(model, REQUESTS[:2], state).delta)
    assert all(t.u.dtype == torch.float32 for t in found[1].terms.values())  # type: ignore[union-attr]
    assert apart(found[1], found[0]) < 0.1


def test_a_broken_model_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    editor, state = start(model, written(tmp_path, identity(targets_of(model, [3]))), [3])
    broken = replace(state.given, rates=torch.full_like(state.given.rates, float("nan")))
    with left_as_found(model):
        edit = editor.edit(model, REQUESTS[:1], replace(state, given=broken))
    assert edit.refused and edit.info[0]["refused"] == 1.0 and not edit.carry


# -- the public executor -------------------------------------------------------------------------------------------


def test_public_statistics_restart_and_follow_the_edits(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    targets = targets_of(model, [1, 2])
    editor, state = start(model, written(tmp_path, drawn(targets)), [1, 2], mode="public")
    trained = state.given.hypernetwork.statistics
    seen: dict[Any, list[torch.Tensor]] = {shape: [] for shape in trained}
    for request in REQUESTS[:3]:
        edit = editor.edit(model, [request], state)
        assert apart(edit.delta, editor.edit_each(model, [request], state)[0].delta) < 1e-4
        state = state.after(edit)
        tokens = together(factors_of(model, edit_texts(model, [request]), targets))
        for t in targets:
            seen[t.shape].append(torch.cat([tokens[t.name].u, tokens[t.name].delta], 1).double())
        for shape, rows in seen.items():
            piece = {n.rpartition("/")[2]: t for n, t in edit.carry.items() if n.startswith(f"{shape[0]}x{shape[1]}/")}
            every = torch.cat(rows)
            assert float(piece["k"]) == len(every) and relative(piece["mean"], every.mean(0)) < 1e-9
            assert relative((piece["squares"] / (piece["k"] - 1)).sqrt(), every.std(0)) < 1e-6
    frozen = start(model, written(tmp_path, drawn(targets)), [1, 2])[0]
    assert apart(frozen.edit(model, REQUESTS[:1], state).delta, edit.delta) > 1e-2
    assert state.given.hypernetwork.statistics is not None and len(state.carried) == 3


def test_public_rates_are_applied_in_the_networks_order(tiny_model: TinyModel, tmp_path: Path) -> None:
    for kind, order, swapped in (("gpt2", "down-up", True), ("gptj", "up-down", False)):
        model = tiny_model(kind)
        hypernetwork = drawn(targets_of(model, [0, 1], order))
        file = written(tmp_path, hypernetwork)
        own = start(model, file, [0, 1], order=order)[1].given.rates.tolist()
        public = start(model, file, [0, 1], order=order, mode="public")[1].given.rates.tolist()
        assert own == hypernetwork.rates.tolist()
        assert public == ([own[1], own[0], own[3], own[2]] if swapped else own)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["corrected", "public"])
def test_a_killed_run_goes_on_to_the_same_bits(
    mode: str,
    quick: Callable[..., list[str]],
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("gpt2")
    file = written(tmp_path, drawn(targets_of(model, [1, 2, 3])), {"model": model.base})
    few = [o for o in quick("ft") if not o.startswith("editor.")]
    given = override(few, "editor=mend", f"editor.hypernetwork={file}", f"editor.mode={mode}", "task.n_requests=5")
    whole = go(prepared(given, model))
    made = prepared(override(given, f"paths.outputs={tmp_path / 'killed'}"), model)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(Mend, 3, patch)
        go(made)
    run = go(made)
    assert records(run) == records(whole) and run.delta().digest() == whole.delta().digest()
    assert all(isinstance(t, LowRank) for t in run.delta().terms.values())


# -- files ---------------------------------------------------------------------------------------------------------


def test_files_of_other_models_are_told(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    good = identity(targets_of(model, [2, 3]))

    def refused(reason: str, tensors: dict[str, torch.Tensor], blocks: list[int], **options: Any) -> None:
        path = tmp_path / "other.safetensors"
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path)
        with pytest.raises(UserError, match=reason) as error:
            start(model, str(path), blocks, **options)
        assert "\n" not in str(error.value)

    tensors = as_tensors(good)
    refused("trained on another model", tensors | {"about": about_tensor({"model": "elsewhere"})}, [2, 3])
    about = {"model": model.base, "modules": [t.name for t in good.targets]}
    refused(
        "give the same layer.index and editor.order", tensors | {"about": about_tensor(about)}, [2, 3], order="up-down"
    )
    refused("knows 2 projections under 192x48/, and 1 are edited", tensors, [3])
    others = as_tensors(identity(targets_of(tiny_model("llama"), [1, 2])))
    refused(r"no network for projections 192 -> 48 \(it has 32 -> 80, 80 -> 32\): another model's", others, [2, 3])
    refused(r"has 3 rates \(edit_lrs\), and 4 projections", tensors | {"edit_lrs": torch.zeros(3)}, [2, 3])
    refused("lacks 192x48/layers.1.u", {n: t for n, t in tensors.items() if n != "192x48/layers.1.u"}, [2, 3])
    refused("lacks statistics", {n: t for n, t in tensors.items() if not n.endswith("/mean")}, [2, 3])
    refused("not finite", tensors | {"edit_lrs": torch.full((4,), float("inf"))}, [2, 3])
    refused("tells no shape", {"edit_lrs": torch.zeros(4), "else/k": torch.ones(1)}, [2, 3])
    refused("too few to normalise with", tensors | {"192x48/k": torch.ones(1)}, [2, 3])
    with pytest.raises(UserError, match="is no file: give a hypernetwork"):
        start(model, str(tmp_path / "absent.npz"), [2, 3])
    for name in ("broken.npz", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(UserError, match="not a readable"):
            start(model, str(tmp_path / name), [2, 3])


def test_an_npz_of_the_public_code_is_read(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    hypernetwork = drawn(targets_of(model, [1, 2]))
    arrays: dict[str, np.ndarray] = {"edit_lrs": hypernetwork.rates.numpy()}
    for (d_in, _), network in hypernetwork.networks.items():
        kind, statistics = f"kind{d_in}", network.statistics
        arrays |= {f"{kind}/{n}": t.numpy() for n, t in network.parameters.items()}
        arrays |= {f"{kind}/u_mean": statistics.mean[:d_in].numpy(), f"{kind}/v_mean": statistics.mean[d_in:].numpy()}
        arrays |= {f"{kind}/u_s": statistics.squares[:d_in].numpy(), f"{kind}/v_s": statistics.squares[d_in:].numpy()}
        arrays |= {f"{kind}/k": np.array([float(statistics.count)], np.float32)}
    np.savez(tmp_path / "public.npz", **arrays)  # type: ignore[arg-type]
    ours, theirs = (start(model, f, [1, 2]) for f in (written(tmp_path, hypernetwork), str(tmp_path / "public.npz")))
    a, b = (editor.edit(model, REQUESTS[:1], state).delta for editor, state in (ours, theirs))
    assert a.digest() == b.digest()


def test_bad_options() -> None:
    for options, reason in (
        ({"rank": 0}, r"editor\.rank=0 must be above 0"),
        ({"n_hidden": -1}, r"editor\.n_hidden=-1 must be 0 or more"),
        ({"lr_lr": 0.0}, r"editor\.lr_lr=0\.0 must be above 0, or null"),
        ({"max_iterations": 10, "accumulation": 10}, r"editor\.max_iterations=10 is too few for one step"),
    ):
        with pytest.raises(UserError, match=reason):
            Mend(**options)  # type: ignore[arg-type]
