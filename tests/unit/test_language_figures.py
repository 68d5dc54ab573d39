"""Figures of whole multiruns: fates of edits, how long they last, every sample, all editors, and early ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_figures import config, sequence, table

from edit_robust.evaluate.retention_matrix import Matrix
from edit_robust.figures import RunData, applies, scaling, style
from edit_robust.figures.endings import ending
from edit_robust.figures.language import editors, forgetting, matrices, retention_matrix, samples, survival

NAN = float("nan")


def planted() -> Matrix:
    right = np.array([[1, 0, 1], [0, 0, 0], [NAN, 1, 1], [NAN, 0, 0], [NAN, NAN, 0], [NAN, NAN, 1]])
    return Matrix(right, np.array([1, 1, 1, 0, 1, 1], dtype=bool), np.arange(1.0, 7.0), np.array([2.0, 4.0, 6.0]))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has the planted matrix."""
    monkeypatch.setattr(matrices, "matrix", lambda run: planted())


def texts(figure: style.Figure) -> list[str]:
    return [t.get_text().strip() for ax in figure.axes for t in ax.texts]


def test_every_cell_has_its_fate() -> None:
    assert retention_matrix.fates(planted()).tolist() == [
        [1, 3, 2],
        [3, 3, 3],
        [0, 1, 1],
        [0, 4, 4],
        [0, 0, 3],
        [0, 0, 1],
    ]


def test_the_heat_map_shows_the_fates(known: None) -> None:
    figure = retention_matrix.draw([sequence(), sequence(editor="ft")])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["ft", "rome"]
    (mesh,) = figure.axes[0].collections
    assert mesh.get_array().reshape(6, 3).tolist() == retention_matrix.fates(planted()).tolist()
    shown = [t.get_text() for t in figure.legends[0].get_texts()]
    assert shown == ["not made yet", "right", "right again after it was forgotten", "forgotten", "was never right"]


def test_survival_of_all_edits_and_of_cohorts(known: None) -> None:
    figure = survival.draw([sequence()])
    everything = figure.axes[0].lines[0]
    assert everything.get_ydata()[0] == pytest.approx(80), "one of five was wrong at a check right after it was made"
    assert everything.get_ydata()[-1] == pytest.approx(100 * 4 / 5 * 2 / 3 / 2)
    alone, twice = (survival.of_group(g) for g in (group_of(sequence()), group_of(sequence(), sequence(order=1))))
    assert (alone.n, twice.n) == (5, 10) and np.allclose(alone.alive, twice.alive)
    assert len(figure.axes[1].lines) == 2 * survival.COHORTS


def group_of(*runs: RunData) -> object:
    from edit_robust.figures.grouping import groups

    (one,) = groups(runs)
    return one


def test_without_what_was_kept_there_is_no_matrix() -> None:
    assert not retention_matrix.wants(sequence()) and not survival.wants(sequence())
    for module in (retention_matrix, survival):
        assert "nothing was measured here" in texts(module.draw([]))


def test_every_sample_has_a_column() -> None:
    runs = [sequence(order=order, editor=editor) for order in range(3) for editor in ("rome", "ft")]
    assert applies(samples, runs) and not applies(samples, runs[:2])
    figure = samples.draw(runs)
    assert len(figure.axes) == 3 * 5, "three probes, forgotten and distance; no other task was asked"
    assert [ax.get_title(loc="left") for ax in figure.axes[:3]] == ["order 0: The edit took (ES)", "order 1", "order 2"]
    assert len({ax.get_ylim() for ax in figure.axes[-3:]}) == 1, "distances stand on one scale"
    assert len(figure.axes[-1].lines) == 2
    thin, thick = (line.get_ydata() for line in figure.axes[0].lines[:2])
    assert thin[9] != thick[9]
    f1 = [{"step": s, "n_edits": s, "scope": "model", "probe": t, "metric": "f1_generated", "value": v} for s, t, v in
          ((10, "a", 0.4), (10, "b", 0.8), (20, "a", 0.2))]  # fmt: skip
    run = RunData("f1", table(f1), config())
    assert samples.downstream(run).to_dict() == pytest.approx({10: 0.6, 20: 0.2})


def finished(editor: str, s: float, order: int = 0, **more: float | None) -> RunData:
    run = sequence(order=order, editor=editor)
    summary = {"S": 90.0, "final_S": s, "final_ES": s, "perplexity": 5.0, "unedited_perplexity": 4.0, "n_edits": 60}
    return RunData(run.run_id, run.records, run.config, {**summary, "seconds_edit": 30.0, **more})


def test_editors_from_best_to_worst() -> None:
    runs = [finished("ft", 20), finished("rome", 60, 0), finished("rome", 80, 1), finished("mend", 0, perplexity=None)]
    assert applies(editors, runs) and not applies(editors, runs[1:3])
    found = editors.table(runs)
    assert list(found.setting) == ["rome", "ft", "mend"] and list(found.runs) == [2, 1, 1]
    assert list(found.final_S) == [70, 20, 0] and found.seconds_an_edit.iloc[0] == 0.5
    assert np.isinf(found.perplexity.iloc[2])
    figure = editors.draw(runs)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["rome", "ft", "mend"]
    panel = next(ax for ax in figure.axes if ax.get_title(loc="left").startswith("perplexity"))
    assert [line.get_marker() for line in panel.lines].count(">") == 1, "infinite: an arrow"


def test_editors_say_where_they_broke() -> None:
    runs = [finished("ft", 20, inflection_edit=31), finished("rome", 60, 0), finished("rome", 80, 1, inflection_edit=9)]
    found = editors.table(runs)
    assert list(found.end) == ["broke at edit 9 (1 of 2 runs)", "broke at edit 31"]
    assert set(found.end) <= set(texts(editors.draw(runs)))


def test_a_walk_whose_last_edits_are_refused_says_so() -> None:
    run = sequence()
    assert ending(run) is None, "one refused edit in the middle is no end"
    records = run.records.copy()
    records.loc[(records.metric == "refused") & (records.step >= 30), "value"] = 1.0
    refused = RunData("r", records, run.config, run.summary)
    end = ending(refused)
    assert end is not None and (end.at, end.why) == (30, "all refused from here")
    for module in (scaling, forgetting):
        assert "all refused from here" in texts(module.draw([refused])), module.NAME
    assert "all refused from here (1 of 2)" in texts(scaling.draw([refused, sequence(order=1)]))
    assert not [t for t in texts(scaling.draw([run])) if "here" in t]


def test_a_walk_without_numbers_says_so() -> None:
    run = sequence()
    records = run.records.copy()
    records.loc[(records.metric == "perplexity") & (records.step >= 40), "value"] = NAN
    end = ending(RunData("r", records, run.config, run.summary))
    assert end is not None and (end.at, end.why) == (40, "no numbers from here")


def test_a_walk_that_was_stopped_says_so(tmp_path: Path) -> None:
    run = sequence(length=23)
    stopped = RunData("r", run.records, run.config, {}, tmp_path)
    assert ending(stopped) is None
    (tmp_path / "status.json").write_text(json.dumps({"status": "failed"}))
    end = ending(stopped)
    assert end is not None and (end.at, end.why) == (23, "failed here")
    (tmp_path / "status.json").write_text(json.dumps({"status": "complete"}))
    assert ending(stopped) is None


def test_a_shorter_walk_beside_a_longer_one_says_that_it_was_planned_so() -> None:
    runs = [sequence(length=30), sequence(editor="ft", length=60)]
    for module in (scaling, forgetting):
        assert "all 30 edits made" in texts(module.draw(runs)), module.NAME
        assert not [t for t in texts(module.draw(runs)) if "60" in t]
    assert not [t for t in texts(scaling.draw(runs[:1])) if "made" in t]
