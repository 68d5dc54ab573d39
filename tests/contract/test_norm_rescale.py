"""Values of a fixed norm (`norm_rescale: nas`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bench import Bench, apart
from helpers.small import TEMPLATES, SmallTask, as_request, relative
from helpers.tiny import tiny_facts

from edit_robust.core import Request, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.language.alphaedit import AlphaEdit
from edit_robust.editors.language.helpers import norms
from edit_robust.editors.language.helpers.norms import mean_norm, rescaled
from edit_robust.editors.language.helpers.values import optimise_values
from edit_robust.editors.language.memit import Memit
from edit_robust.editors.language.pmet import Pmet
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM

TinyModel = Callable[[str], CausalLM]


class OtherFacts(SmallTask):
    """The tiny world, of which the first facts are edited and `others` further ones are not."""

    def __init__(self, others: int = 20) -> None:
        super().__init__(5)
        self.others = [as_request(r) for r in tiny_facts(5 + others)[5:]]

    def training_requests(self) -> list[Request]:
        return self.others


@pytest.fixture(scope="module", params=["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def bench(request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tiny_model(request.param), tmp_path_factory.mktemp("bench"))


def start(bench: Bench, editor: Any, layers: list[int], others: int = 20) -> Any:
    names = [bench.model.layer_at(i).name for i in layers]
    return editor.prepare(bench.model, names, OtherFacts(others), Workspace(bench.folder / "cache"))


def output(bench: Bench, layer: str, request: Request) -> torch.Tensor:
    """v0: what the projection gives at the subject's last token."""
    return bench.outputs(layer, request, ["{}"])[0]


def test_rome_writes_values_of_the_mean_norm(bench: Bench) -> None:
    editor = Rome(norm_rescale="nas", norm_samples=12, **bench.options())
    state = start(bench, editor, [1])
    m, layer, r = state.given.mean_norm, state.layers[0], bench.requests[0]
    values = optimise_values(bench.model, layer, "mlp", [r], TEMPLATES, **editor.optimisation)
    assert abs(float(values.value.norm()) / m - 1) > 1e-2, "the value has this norm as it is: this test says nothing"
    edit = editor.edit(bench.model, [r], state)
    assert edit.info[0]["output_norm"] == pytest.approx(float(values.value.norm()), rel=1e-5)
    assert edit.info[0]["norm_given_up"] == 0.0
    with bench.model.patched(edit.delta):
        assert float(output(bench, layer, r).norm()) == pytest.approx(m, rel=1e-4)
    plain = Rome(**bench.options())
    assert apart(edit.delta, plain.edit(bench.model, [r], bench.start(plain, [1])).delta) > 1e-2


def test_values_of_the_family_have_the_mean_norm(bench: Bench) -> None:
    """|z - (h - v0)| = m, z - (h - v0) in the direction of v0 + delta."""
    editor = Memit(norm_rescale="nas", norm_samples=12, mom2_update_weight=1.0, **bench.options())
    model, requests = bench.model, bench.requests[:3]
    state = start(bench, editor, [0, 1])
    z, infos = editor.targets(model, requests, state)
    values = optimise_values(model, state.layers[-1], "block", requests, TEMPLATES, **editor.optimisation)
    v0 = torch.stack([output(bench, state.layers[-1], r) for r in requests])
    v = z.double() - (values.init.double() - v0)
    assert v.norm(dim=1).tolist() == pytest.approx([state.given.mean_norm] * 3, rel=1e-4)
    assert float(torch.cosine_similarity(v, v0 + values.delta.double()).min()) > 0.99999
    found = [i["output_norm"] for i in infos]
    assert found == pytest.approx((v0 + values.delta.double()).norm(dim=1).tolist(), rel=1e-4)


def test_values_that_are_far_off_are_given_up(bench: Bench) -> None:
    """Above 2 m there is nothing left to write: v = v0."""
    model, layer = bench.model, bench.model.layer_at(1).name
    options = Memit(**bench.options()).optimisation
    values = optimise_values(model, layer, "block", bench.requests[:2], TEMPLATES, **options)
    v0 = torch.stack([output(bench, layer, r) for r in bench.requests[:2]])
    length = (v0 + values.delta.double()).norm(dim=1)
    m = float(length.min()) / 2 * 1.0001  # the shorter one stays
    found = rescaled(values, model, layer, "block", m)
    assert [i["norm_given_up"] for i in found.info] == (length > 2 * m).double().tolist() and length.max() > 2 * m
    assert relative(found.value[length.argmax()], values.init[length.argmax()]) < 1e-5
    assert relative(found.value[length.argmin()], values.init[length.argmin()]) > 1e-3
    assert rescaled(values, model, layer, "block", None) is values


def test_the_mean_norm(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bare prompts' values without the largest 5 %; the same requests at every time; computed once."""
    model, layer, work = bench.model, bench.model.layer_at(1).name, Workspace(tmp_path)
    options = Memit(**bench.options()).optimisation
    task = OtherFacts(20)
    m = mean_norm(model, layer, "block", task, 1000, options, work)
    values = optimise_values(model, layer, "block", task.others, ["{}"], **options)
    v0 = torch.stack([output(bench, layer, r) for r in task.others])
    norms_ = (v0 + values.delta.double()).norm(dim=1).sort().values
    assert m == pytest.approx(float(norms_[:19].mean()), rel=1e-5)
    some = mean_norm(model, layer, "block", task, 12, options, work)
    assert some == mean_norm(model, layer, "block", task, 12, options, Workspace(tmp_path / "other")) != m
    with monkeypatch.context() as patch:
        patch.setattr(norms, "optimise_values", None)
        assert mean_norm(model, layer, "block", task, 1000, options, work) == m
    with pytest.raises(UserError, match=r"needs 10 or more requests that are not edited, and task=small has 9"):
        mean_norm(model, layer, "block", OtherFacts(9), 1000, options, work)


@pytest.mark.parametrize("editor, site", [(Memit, "block"), (Pmet, "mlp")])
def test_the_norm_is_measured_where_values_are_written(bench: Bench, editor: type, site: str) -> None:
    """PMET's values are outputs of the MLP, bounded by its norm: at the block's output they would grow longer."""
    made = editor(norm_rescale="nas", **bench.options(v_lr=0.5))
    state = start(bench, made, [1])
    model, layer, others = bench.model, state.layers[0], OtherFacts(20).others
    v0 = torch.stack([output(bench, layer, r) for r in others])

    def mean(where: str) -> float:
        values = optimise_values(model, layer, where, others, ["{}"], **made.optimisation)
        return float((v0 + values.delta.double()).norm(dim=1).sort().values[:19].mean())

    assert state.given.mean_norm == pytest.approx(mean(site), rel=1e-5)
    assert abs(mean("mlp") / mean("block") - 1) > 1e-3, "both places give the same norm: this test says nothing"


def test_the_norm_is_the_unedited_models(bench: Bench, tmp_path: Path) -> None:
    model, layer = bench.model, bench.model.layer_at(1).name
    editor = Memit(**bench.options())
    edit = editor.edit(model, bench.requests[:1], bench.start(editor, [1]))
    with model.patched(edit.delta), pytest.raises(ValueError, match="this one has been edited"):
        mean_norm(model, layer, "block", OtherFacts(10), 10, editor.optimisation, Workspace(tmp_path))


def test_it_goes_with_past_keys(bench: Bench) -> None:
    editor = AlphaEdit(norm_rescale="nas", norm_samples=12, nullspace_threshold=1.0, l2=1e-6, **bench.options())
    state = start(bench, editor, [1])
    edit = editor.edit(bench.model, bench.requests[:1], state)
    assert not edit.refused and set(edit.carry) == set(state.layers) and edit.info[0]["output_norm"] > 0
