"""Figures of generated text, ripple effects and shifts of text: what they draw, and of whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edit_robust.figures import ALL, RunData, applies, draw_all
from edit_robust.figures.frame import COLUMNS
from edit_robust.figures.language import generation, ripple, text_shifts
from edit_robust.report.glossary import explained
from edit_robust.report.sentence import verdict


def run(rows: list[dict], editor: str = "rome") -> RunData:
    """A sequence with these records."""
    base = {"run": "r", "step": 0, "alpha": 1.0, "n_edits": 0, "scope": "at-edit", "probe": "", "shift": "none"}
    base |= {"severity": 0, "layer": "", "metric": "accuracy", "value": 0.0, "n": 1, "request": ""}
    config = {"model": {"name": "m"}, "editor": {"name": editor}, "trajectory": {"name": "sequential"}, "seed": 0}
    return RunData(editor, pd.DataFrame([base | row for row in rows], columns=list(COLUMNS)), config)


def written(editor: str = "rome") -> RunData:
    rows = [{"scope": "unedited", "probe": "generation", "metric": "entropy_sampled", "value": 5.0}]
    for step in range(1, 21):
        here = {"step": step, "n_edits": step}
        for probe, metric, value in (
            ("edit", "exact_generated", 0.4),
            ("edit", "accuracy_teacher_forced", 1.0),
            ("generation", "entropy_sampled", 5 - step / 10),
            ("generation", "reference_score_sampled", 0.2),
        ):
            rows.append(here | {"probe": probe, "metric": metric, "value": value})
        if step % 10 == 0:
            rows.append(here | {"scope": "model", "probe": "text", "metric": "kl", "value": step / 100})
    return run(rows, editor)


def rippled() -> RunData:
    rows = []
    for scope, step, value in (("unedited", 0, 0.1), ("at-edit", 1, 0.8), ("final", 2, 0.6)):
        for kind, metric in (("alias", "success"), ("alias", "accuracy"), ("same-subject", "success")):
            where = {"scope": scope, "step": step, "n_edits": step}
            rows.append(where | {"probe": f"ripple-{kind}", "metric": metric, "value": value})
    return run(rows)


def shifted() -> RunData:
    rows = []
    for scope, step in (("unedited", 0), ("at-edit", 1), ("at-edit", 2)):
        for probe, clean in (("edit", 0.0 if step == 0 else 1.0), ("neighbourhood", 1.0)):
            here = {"scope": scope, "step": step, "n_edits": step, "probe": probe}
            rows.append(here | {"value": clean})
            for severity in (1, 3, 5):
                given = here | {"shift": "typos", "severity": severity}
                rows.append(given | {"value": max(0.0, clean - 0.1 * severity * step)})
    return run(rows)


def test_what_is_written() -> None:
    figure = generation.draw([written("rome"), written("memit")])
    left, entropy, likeness, kl = figure.axes[:4]
    heights = sorted({round(float(np.ravel(line.get_ydata())[-1]), 6) for line in left.lines})
    assert heights == [40.0, 100.0]
    lines = [line for line in entropy.lines if len(line.get_xdata()) == 20]
    assert len(lines) == 2 and lines[0].get_ydata()[-1] == pytest.approx(5 - np.mean(np.arange(1, 21)) / 10)
    assert any(np.allclose(line.get_ydata(), 5.0) for line in entropy.lines), "the unedited model"
    assert likeness.lines and list(kl.lines[0].get_ydata()) == [0.1, 0.2]


def test_what_follows() -> None:
    figure = ripple.draw([rippled()])
    success, accuracy = figure.axes[:2]
    assert [patch.get_height() for patch in success.patches] == pytest.approx([80.0, 80.0])
    assert [patch.get_height() for patch in accuracy.patches] == pytest.approx([80.0])
    assert sorted(round(float(np.ravel(line.get_ydata())[0])) for line in success.lines) == [10, 10, 60, 60]
    assert [t.get_text() for t in success.get_xticklabels()] == ["alias", "same\nsubject"]


def test_under_shifts() -> None:
    figure = text_shifts.draw([shifted()])
    edit, original = figure.axes[:2]
    solid = next(line for line in edit.lines if line.get_linestyle() == "-")
    assert list(solid.get_xdata()) == [0, 1, 3, 5]
    assert solid.get_ydata() == pytest.approx([100.0, 85.0, 55.0, 25.0]), "the mean over both edits"
    dotted = next(line for line in original.lines if line.get_linestyle() == ":")
    assert dotted.get_ydata() == pytest.approx([100.0] * 4)
    assert edit.get_title(loc="left") == "typos"


def test_each_is_drawn_where_it_was_measured(tmp_path: Path) -> None:
    for module, made in ((generation, written()), (ripple, rippled()), (text_shifts, shifted())):
        assert module in ALL and applies(module, [made])  # type: ignore[comparison-overlap]
        others = {generation, ripple, text_shifts} - {module}
        assert not any(applies(other, [made]) for other in others)  # type: ignore[arg-type]
        assert module.draw([]).axes, "of nothing it says that nothing was measured"
    paths = draw_all([shifted()], tmp_path, formats=("png",))
    assert "text-shifts.png" in {p.name for p in paths}
    assert not {"editing-penalty.png", "corruptions.png"} & {p.name for p in paths}, "those are about images"


def test_the_sentence_says_what_was_shifted() -> None:
    penalties = {"original_ood_penalty": -0.02, "editing_ood_penalty": -0.3, "n_variants": 5}
    text = verdict({"unedited_NS_acc": 90.0, **penalties}, {})
    assert text.startswith(
        "Under 5 shifts of text neighbours lost 2 points (eq. 1: -0.020) and the edit lost 30 points"
    )
    assert "under 1 shift of text" in verdict({"ES": 90.0, "unedited_NS_acc": 90.0, **penalties, "n_variants": 1}, {})
    images = verdict({"edit_accuracy": 0.5, "unedited_NS_acc": 90.0, **penalties}, {})
    assert "under 5 corruptions the original task lost" in images


def test_what_the_new_numbers_mean_is_explained() -> None:
    found = dict(explained(["GE_sampled", "RS_greedy", "generated_exact", "kl", "ripple_alias", "editing_ood_penalty"]))
    assert len(found) == 6 and any("teacher forced" in title for title in found)
    assert any("shifted questions" in text for text in found.values())


def test_runs_without_records_want_none_of_them() -> None:
    for nothing in (RunData("x", pd.DataFrame()), run([{"scope": "unedited", "probe": "edit", "value": 0.5}])):
        assert not any(module.wants(nothing) for module in (generation, ripple, text_shifts))
    pictures = {"probe": "edit", "shift": "fog", "severity": 1, "request": "a"}
    images = run([{**pictures, "shift": "none", "severity": 0}, pictures, {**pictures, "probe": "original"}])
    assert not text_shifts.wants(images), "shifts of images are drawn by others"
