"""Runs under shifts of text: records as images have them, penalties by hand, kills, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import CommandLine, KilledError, fuse, go, options, override, prepared, records

from edit_robust.config.check import check
from edit_robust.config.compose import compose
from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.evaluate.base import Setting
from edit_robust.evaluate.statistics import penalties
from edit_robust.evaluate.text_shift_numbers import table
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs.reader import Run
from edit_robust.trajectories import Point, Scope

pytestmark = pytest.mark.slow

Get = Callable[[str], CausalLM]
SHIFTED = ("corruption=[typos,neighbour-edit]", "shifts.severities=[1,4]", "trajectory=single")


@pytest.fixture(scope="module")
def given(checkpoint: Callable[[str], Path], facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def make(kind: str = "gpt2", *more: str) -> list[str]:
        outputs = tmp_path_factory.mktemp("runs") / "outputs"
        return override(options(checkpoint(kind), facts, outputs, "rome", *SHIFTED), *more)

    return make


@pytest.fixture(scope="module")
def finished(given: Any, tiny_model: Get) -> Run:
    return go(prepared(given(), tiny_model("gpt2")))


def rates(run: Run, step: int, scope: str) -> dict[tuple[str, str, int], tuple[float, float]]:
    """(probe, shift, severity) -> mean accuracy and success, from what every question got; the choices are two."""
    arrays = run.arrays(step, "text-shifts")
    asked = run.examples_of("text-shifts").loc[arrays[f"{scope}|index"]].reset_index(drop=True)
    target = asked.target.to_numpy()
    i = np.arange(len(target))
    hits, logp = arrays[f"{scope}|hits"], arrays[f"{scope}|logp"]
    asked = asked.assign(accuracy=hits[i, target] == 1, success=logp[i, target] > logp[i, 1 - target])
    each = asked.groupby(["probe", "shift", "severity", "group"])[["accuracy", "success"]].mean()
    found = each.groupby(["probe", "shift", "severity"]).mean()
    return {key: (row.accuracy, row.success) for key, row in zip(found.index, found.itertuples(), strict=True)}


def test_records_carry_shift_and_severity(finished: Run) -> None:
    shifted = finished.records[finished.records.severity > 0]
    assert set(shifted["shift"]) == {"typos", "neighbour-edit"} and set(shifted.severity) == {1, 4}
    assert set(shifted.scope) == {"unedited", "at-edit"} and set(shifted.step) == set(range(5))
    assert set(shifted[shifted["shift"] == "neighbour-edit"].probe) == {"neighbourhood"}
    for step, scope in ((0, "unedited"), (3, "at-edit")):
        by_hand = rates(finished, step, scope)
        rows = shifted[(shifted.step == step) & shifted.metric.isin(["accuracy", "success"])]
        assert len(rows) == 2 * len(by_hand) == 2 * 8
        for row in rows.itertuples():
            value = by_hand[row.probe, row.shift, row.severity][row.metric == "success"]
            assert row.value == pytest.approx(value), row
    asked = finished.examples_of("text-shifts")
    assert set(asked.probe) == {"edit", "paraphrase", "neighbourhood"}
    plain = set(finished.examples_of("answers").x)
    assert not set(asked[asked["shift"] == "typos"].x) & plain
    told = "typos 1,4; neighbour-edit 1,4; names protected"
    assert finished.status["text_shifts"] == told


def test_penalties_by_hand(finished: Run) -> None:
    """Success differs more than accuracy where a model is random: both are recomputed from every question."""
    records, summary = finished.records, finished.summary
    for place, end, metric in ((0, "", "accuracy"), (1, "_success", "success")):
        clean = records[(records.severity == 0) & (records.metric == metric) & (records.request == "")]
        before, edit, original = rates(finished, 0, "unedited"), [], []
        for step in range(1, 5):
            now = rates(finished, step, "at-edit")
            at = clean[(clean.step == step) & (clean.scope == "at-edit") & (clean.probe == "edit")].value.item()
            edit.append(np.mean([v[place] - at for k, v in now.items() if k[0] == "edit"]))
            original.append(np.mean([v[place] for k, v in now.items() if k[0] == "neighbourhood"]))
        was = np.mean([v[place] for k, v in before.items() if k[0] == "neighbourhood"])
        plain = clean[(clean.scope == "unedited") & (clean.probe == "edit")].value.item()
        own = np.mean([v[place] - plain for k, v in before.items() if k[0] == "edit"])
        assert summary[f"editing_ood_penalty{end}"] == pytest.approx(np.mean(edit))
        assert summary[f"original_ood_penalty{end}"] == pytest.approx(np.mean(original) - was)
        assert summary[f"unedited_editing_ood_penalty{end}"] == pytest.approx(own)
    assert summary["n_variants"] == 4
    assert {"editing_ood_penalty_typos", "original_ood_penalty_neighbour_edit", "editing_ood_penalty_4"} <= set(summary)
    assert summary["editing_ood_penalty_low"] <= summary["editing_ood_penalty"] <= summary["editing_ood_penalty_high"]


def test_what_is_compared_is_the_same_questions(finished: Run) -> None:
    """Right after a single edit the unedited model's accuracy is that of the same neighbours, not of all."""
    found = penalties.original_ood_penalty(table(finished.records))
    arrays, before = finished.arrays(2, "text-shifts"), finished.arrays(0, "text-shifts")
    asked = finished.examples_of("text-shifts").loc[arrays["at-edit|index"]]
    those = ((asked.probe == "neighbourhood") & (asked["shift"] == "typos") & (asked.severity == 4)).to_numpy()
    rows, target = arrays["at-edit|index"][those], asked.target.to_numpy()[those]
    place = {int(row): i for i, row in enumerate(before["unedited|index"])}
    was = [before["unedited|hits"][place[int(r)], t] == 1 for r, t in zip(rows, target, strict=True)]
    row = found[(found.step == 2) & (found["shift"] == "typos") & (found.severity == 4)]
    assert row.unedited.item() == pytest.approx(np.mean(was))


@pytest.mark.parametrize("kind", ["gptj", "llama", "qwen2"])
def test_other_families_and_sequences(kind: str, given: Any, tiny_model: Get) -> None:
    more = ("trajectory=sequential", "corruption=text", "shifts.severities=[2]", "measure.text-shifts.retention=true")
    run = go(prepared(_ft(given(kind, *more)), tiny_model(kind)))
    shifted = run.records[run.records.severity > 0]
    assert set(shifted.scope) == {"unedited", "at-edit", "retention", "final"} and set(shifted.severity) == {2}
    assert len(set(shifted["shift"])) == 6
    assert {"final_editing_ood_penalty", "final_original_ood_penalty", "paraphrase_ood_penalty"} <= set(run.summary)
    last = rates(run, 4, "final")
    rows = shifted[(shifted.scope == "final") & (shifted.metric == "accuracy")]
    assert all(r.value == pytest.approx(last[r.probe, r.shift, r.severity][0]) for r in rows.itertuples())


def _ft(given: list[str]) -> list[str]:
    """The same with one step of fine-tuning."""
    return [*(g for g in given if not g.startswith("editor")), "editor=ft", "editor.num_steps=1"]


def test_the_unedited_model_is_asked_again_where_it_was_not(given: Any, tiny_model: Get, finished: Run) -> None:
    """As at a point of a finished run that is asked something new."""
    model, made = tiny_model("gpt2"), prepared(given(), tiny_model("gpt2"))
    measure = made.measures["text-shifts"]
    layers = finished.status["layers"]
    changes = model.parameter_names(layers)
    setting = Setting(
        run_id=finished.id, model=model, task=made.task, requests=made.task.requests(), layers=layers,
        changes=changes, before=model.snapshot(changes), run=Run(Path("nowhere")), work=Workspace(Path("nowhere")),
    )  # fmt: skip
    measure.prepare(setting)
    with model.patched(finished.deltas()[2]):
        found = measure.at(Point(3, 1.0, 1, (Scope("at-edit", [2]),)), {})
    assert found is not None
    kept = finished.records[(finished.records.step == 3) & (finished.records.severity > 0)]
    assert [(r.probe, r.shift, r.severity, r.metric, r.value, r.n) for r in found.records] == [
        (r.probe, r.shift, r.severity, r.metric, r.value, r.n) for r in kept.itertuples()
    ]


def test_a_kill_changes_nothing(given: Any, tiny_model: Get, finished: Run) -> None:
    made = given()
    with pytest.raises(KilledError), fuse(14):
        go(prepared(made, tiny_model("gpt2")))
    resumed = go(prepared(made, tiny_model("gpt2")))
    assert resumed.status["resumed"] == 1 and records(resumed) == records(finished)


def test_what_the_model_cannot_read_at_once_is_refused(given: Any, tiny_model: Get) -> None:
    model = tiny_model("gpt2")
    whole, model.max_tokens = model.max_tokens, 40
    try:
        with pytest.raises(UserError, match=r"corruption.prefix: at severity 5 a question takes \d+ tokens, and gpt2"):
            go(
                prepared(
                    given("gpt2", "corruption=prefix", "shifts.severities=[5]", "editor.v_num_grad_steps=1"), model
                )
            )
    finally:
        model.max_tokens = whole


def test_nothing_is_asked_without_a_shift(given: Any, tiny_model: Get) -> None:
    run = go(prepared(given("gpt2", "corruption=none", "task.n_requests=1"), tiny_model("gpt2")))
    assert (run.records.severity == 0).all() and run.examples_of("text-shifts").empty
    assert "text_shifts" not in run.status and "editing_ood_penalty" not in run.summary


def test_shifts_of_the_other_kind_are_refused_in_one_line(say: CommandLine) -> None:
    said = say("run", "corruption=fog")
    assert said.code == 2 and "corruption=fog shifts images, and this model reads text" in said.line
    assert "typos" in said.line
    said = say("run", "corruption=typos", "model=scene-cnn", "task=scene-world", "editor=local-ft")
    assert said.code == 2 and "corruption=typos shifts text, and this model is shown images" in said.line
    with pytest.raises(UserError, match="no measure looks at shifted data"):
        check(compose(["corruption=typos", "measure=answers"]))
    assert check(compose(["corruption=[typos,casing]", "corruption.typos=[2]"]))["corruption"]["typos"] == [2]
