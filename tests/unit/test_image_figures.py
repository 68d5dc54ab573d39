"""Figures and words about edited image classifiers say what the records say, and leave language runs alone."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from test_image_metrics import CORRUPTIONS, image_run

from edit_robust.figures import ALL, RunData, applies, draw_all, edits, suited
from edit_robust.figures.frame import COLUMNS, blocks
from edit_robust.figures.vision import (
    corruptions,
    edit_accuracy,
    editing_penalty,
    effective,
    layer_map,
    original_penalty,
    tradeoff,
    triple,
)
from edit_robust.figures.vision.common import best_layers, gather, image_runs, methods, signed, whole
from edit_robust.report import findings, summary_table, verdict, write_report
from edit_robust.report.grid import described, grid
from edit_robust.report.numbers import difference, share

pytestmark = pytest.mark.slow

SOME = CORRUPTIONS[:2]
IMAGES = tuple(module for module in ALL if ".vision." in module.__name__)
OTHERS = tuple(module for module in ALL if module not in IMAGES)


def sweep(path: Path | None = None) -> list[RunData]:
    """Two methods at two layers; layer 5 edits better, and costs less."""
    spec = {"rewriting": (0.2, 0.02), "local_collision": (0.4, 0.1)}
    return [
        image_run(
            method,
            layer,
            gain=gain * (0.5 if layer == 9 else 1.0),
            cost=cost * layer / 5,
            path=path,
            corruptions=SOME,
            summarised=True,
        )
        for method, (gain, cost) in spec.items()
        for layer in (5, 9)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with triples, reference models and the questions."""
    path = tmp_path_factory.mktemp("run")
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    arrays = {f"{r}|{part}|0": image for r in ("road-snow", "grass-snow") for part in ("clean", "edited")}
    arrays |= {f"{r}|mask|0": image[..., 0] for r in ("road-snow", "grass-snow")}
    np.savez(path / "triples.npz", **arrays)
    entries = []
    for place, clean in enumerate((0.90, 0.93, 0.96, 0.98)):
        rates = {"original": clean, "rendition": clean - 0.5}
        rates |= {f"{name}/{severity}": clean - 0.2 for name in SOME for severity in (1, 3, 5)}
        entries.append({"model": f"net{place}", "n": 400, "accuracy": rates})
    (path / "reference.json").write_text(json.dumps(entries))
    lines = [{"id": f"o{i}", "probe": "original", "shift": "none", "source": "scene world, test"} for i in range(3)]
    lines.append({"id": "r0", "probe": "original", "shift": "rendition", "source": "scene world, drawings"})
    (path / "examples.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[RunData]:
    return sweep(folder)


NUMBERS = {"ES": 100.0, "mean_division_factor": 0.5}


def language() -> RunData:
    base = {"run": "r", "alpha": 1.0, "shift": "none", "severity": 0, "layer": "a.0.b", "n": 1, "scope": "at-edit"}
    rows = [base | {"step": s, "n_edits": s, "probe": "edit", "metric": "success", "value": 1.0} for s in (1, 2)]
    rows += [base | {"step": s, "n_edits": s, "probe": "", "metric": "delta_norm", "value": 1.0} for s in (1, 2)]
    return RunData("words", pd.DataFrame(rows, columns=list(COLUMNS)), {"trajectory": {"name": "sequential"}}, NUMBERS)


def test_gather_knows_where_everything_comes_from(runs: list[RunData]) -> None:
    table = gather(runs)
    assert len(table) == 4 * 2 * 5
    assert list(table.layer.cat.categories) == ["layer 5", "layer 9"]
    assert set(table.method) == {"rewriting", "local_collision"} and table.unit.nunique() == 2
    assert len(whole(table)) == 8 and (whole(table).alpha == 1).all()
    assert (best_layers(table).layer == "layer 5").all()


def test_settings_that_go_with_the_layer_make_no_method_of_their_own(runs: list[RunData]) -> None:
    assert methods(runs) == ["rewriting", "rewriting", "local_collision", "local_collision"]
    other = replace(runs[0], config={**runs[0].config, "editor": {"name": "rewriting", "lr": 0.5, "moment": "centred"}})
    assert len(set(methods([runs[0], other]))) == 2


def test_edit_accuracy_takes_the_best_layer_and_the_mean_over_pairs(runs: list[RunData]) -> None:
    ax = edit_accuracy.draw(runs).axes[0]
    assert np.allclose(sorted(bar.get_height() for bar in ax.patches), [65, 85])
    assert "2 pairs, 200 images" in ax.get_xticklabels()[0].get_text()
    assert np.allclose([line.get_segments()[0][0][1] for line in ax.collections[-1:]], 45)


def test_editing_penalty_shows_the_unedited_drop_beside(runs: list[RunData]) -> None:
    ax = editing_penalty.draw(runs[:1]).axes[0]
    edited, own = (bar.get_height() for bar in ax.patches)
    assert np.isclose(edited, 100 * runs[0].summary["editing_ood_penalty"])
    assert np.isclose(own, 100 * runs[0].summary["unedited_editing_ood_penalty"])
    assert "6 corruptions" in ax.get_xticklabels()[0].get_text()


def test_original_penalty_by_severity(runs: list[RunData]) -> None:
    ax = original_penalty.draw(runs[2:3]).axes[0]
    line = ax.containers[0].lines[0]
    assert np.allclose(line.get_xdata(), [0, 1, 3, 5]) and np.allclose(line.get_ydata(), [-10, -20, -20, -20])


def test_tradeoff_goes_from_the_unedited_to_the_edited_model(runs: list[RunData]) -> None:
    figure = tradeoff.draw(runs)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["local_collision: 2 pairs", "rewriting: 2 pairs"]
    line = figure.axes[0].lines[0]
    assert np.allclose([line.get_xdata()[0], line.get_ydata()[0]], [96, 45])
    assert np.allclose([line.get_xdata()[-1], line.get_ydata()[-1]], [86, 85])
    only = tradeoff.draw([image_run(alphas=(1.0,))]).axes[0].lines[0]
    assert len(only.get_xdata()) == 2 and only.get_linestyle() != "-"


def test_layer_map_marks_the_front(runs: list[RunData]) -> None:
    table = layer_map.changes(runs)
    one = table[(table.panel == "rewriting") & (table.layer == "layer 5") & (table.alpha == 1)].set_index("what").change
    assert np.allclose(one[["edited images", layer_map.CLEAN, layer_map.CORRUPTED]], [20, -2, -4])
    figure = layer_map.draw(runs)
    frames = [patch.get_xy() for patch in figure.axes[2].patches]
    # Layer 9 edits half as much at a greater cost: the whole edit of layer 5 is on the front, layer 9's is not.
    assert any(np.allclose(xy, (3 - 0.44, -0.44)) for xy in frames)
    assert not any(np.allclose(xy, (3 - 0.44, 1 - 0.44)) for xy in frames)


def test_corruptions_go_along_alpha_and_by_severity(runs: list[RunData]) -> None:
    figure = corruptions.draw(runs[:1])
    assert len(figure.axes) == 2 * 2  # noise and blur
    along, by = figure.axes[0], figure.axes[2]
    assert np.allclose(along.lines[0].get_xdata(), [0, 0.25, 0.5, 0.75, 1])
    solid, dotted = (line.get_ydata() for line in by.lines[:2])
    assert np.allclose(solid - dotted, -4)
    assert corruptions.families(["fog", "rain", "snow"]) == {"weather": ["snow", "fog"], "other": ["rain"]}


def test_effective_robustness_needs_reference_models(runs: list[RunData]) -> None:
    assert applies(effective, runs) and not applies(effective, sweep())
    table = effective.reference(runs)
    assert set(table.kind) == {"corruptions", "rendition"} and len(table) == 8
    figure = effective.draw(runs)
    assert any("rewriting: rho" in text.get_text() for text in figure.axes[0].texts)
    assert len(effective.edited(runs)) == 4 * 2 * 2


def test_triples_a_row_a_request(runs: list[RunData]) -> None:
    assert list(triple.triples(runs)) == ["grass-snow", "road-snow"]
    figure = triple.draw(runs)
    assert len(figure.axes) == 6 and figure.axes[0].get_title(loc="left") == "x: the image"
    assert not applies(triple, sweep())


def test_figures_keep_to_the_runs_that_hold_what_they_draw(runs: list[RunData], tmp_path: Path) -> None:
    words = language()
    assert not image_runs([words]) and image_runs(runs) == runs
    for module in OTHERS:
        assert not applies(module, runs)
        assert suited(module, [*runs, words]) == [run for run in [words] if module.wants(run)]
    assert {module.NAME for module in OTHERS if applies(module, [words])} == {"scaling", "edits"}
    for module in IMAGES:
        patched = module.NAME.startswith("patching")  # of tasks in words, which these runs have none of
        assert applies(module, runs) != patched and not applies(module, [words])
        assert words not in suited(module, [*runs, words])
    written = draw_all([*runs[:1], words], tmp_path, names=["edits", "tradeoff"], formats=["png"])
    assert [path.name for path in written] == ["edits.png", "tradeoff.png"]


def test_a_sequence_of_image_edits_shows_how_far_the_weights_moved(tmp_path: Path) -> None:
    run = image_run(alphas=(1.0,), corruptions=SOME, joint=True)
    run = replace(run, config=run.config | {"trajectory": {"name": "sequential"}})
    assert {module.NAME for module in OTHERS if applies(module, [run])} == {"distance", "edits"}
    assert list(edits.per_edit(run, "delta_norm").index) == [1]  # both requests in one edit
    single = image_run(alphas=(1.0,), corruptions=SOME)
    assert list(edits.per_edit(single, "delta_norm").index) == [1, 2]
    assert len(draw_all([run], tmp_path, names=["distance", "edits"], formats=["png"])) == 2


def test_what_was_edited_in_words_and_on_images_is_drawn_apart(runs: list[RunData]) -> None:
    both = replace(runs[0], records=pd.concat([runs[0].records, language().records]))
    assert gather([both]).equals(gather(runs[:1]))
    for module in IMAGES[:2]:
        assert module.wants(both)


def test_records_older_than_requests_are_read() -> None:
    words = language()
    older = RunData("old", words.records.drop(columns="request"), words.config)
    assert not image_runs([older]) and (older.tidy.request == "").all()
    assert older.derive(blocks).keys() == words.derive(blocks).keys()
    assert older.derive(blocks) is older.derive(blocks)  # made once


@pytest.mark.parametrize("module", IMAGES, ids=lambda module: module.NAME)
@pytest.mark.parametrize("kind", ["unedited", "nan", "no shifts", "joint", "original only"])
def test_every_image_figure_survives_half_a_run(module, kind: str, folder: Path) -> None:
    run = image_run(path=folder, joint=kind == "joint", corruptions=SOME, severities=(1, 3))
    kept = {
        "unedited": run.records[run.records.scope == "unedited"],
        "nan": run.records.assign(value=float("nan")),
        "no shifts": run.records[run.records["shift"] == "none"],
        "joint": run.records,
        "original only": run.records[run.records.probe != "edit"],
    }[kind]
    half = RunData("half", kept, run.config, {}, folder)
    assert applies(module, [half]) <= bool(suited(module, [half]))
    assert module.draw([half]).axes


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        (
            {"edit_accuracy": 0.85, "unedited_edit_accuracy": 0.41, "n_edit_images": 200, "n_requests": 1}
            | {"original_accuracy": 0.948, "unedited_original_accuracy": 0.961, "n_original_images": 400}
            | {"original_ood_penalty": -0.012, "editing_ood_penalty": -0.23, "unedited_editing_ood_penalty": -0.21}
            | {"n_variants": 95, "n_refused": 0},
            "The edit brought its images from 41 % to 85 % (n = 200); the original task fell from 96.1 % to 94.8 % "
            "(n = 400); under 95 corruptions the original task lost 1.2 points (eq. 1: -0.012) and the edit lost 23 "
            "points (eq. 2: -0.230; the unedited model's own drop there is 0.210).",
        ),
        (
            {"edit_accuracy": 0.5, "unedited_edit_accuracy": 0.5, "original_accuracy": 0.9, "n_requests": 3}
            | {"unedited_original_accuracy": 0.9, "original_ood_penalty": 0.0, "n_variants": 1, "n_refused": 2},
            "On average over 3 requests the edit left accuracy on its images at 50 %; the original task stayed at "
            "90 %; under 1 corruption the original task lost nothing (eq. 1: +0.000); 2 edits were refused.",
        ),
        (
            {"unedited_edit_accuracy": 0.4, "unedited_original_accuracy": 0.961},
            "So far only the unedited model was measured: it gets 96.1 % of its own task right.",
        ),
        ({"n_edit_images": 0}, "Nothing has been measured yet."),
    ],
)
def test_verdict_on_images(summary: dict, sentence: str) -> None:
    assert verdict(summary, {}) == sentence


def test_shares_never_round_to_all_or_none() -> None:
    assert [share(v) for v in (0.85, 0.961, 0.9999, 1.0, 0.0001, 0.0)] == [
        "85 %",
        "96.1 %",
        "99.9 %",
        "100 %",
        "0.1 %",
        "0 %",
    ]
    assert difference(-0.0123) == "-0.012" and difference(None) == ""
    assert [signed(v) for v in (0.0, -1.24, 17.3, -0.01)] == ["0", "−1.2", "+17", "0"]


def test_table_of_an_image_run(runs: list[RunData]) -> None:
    console = Console(width=160, record=True, file=StringIO())
    table = summary_table(runs[0])
    console.print(table)
    assert "rewriting · scene-vgg · scene-world" in console.export_text()
    assert [c.header for c in table.columns][1:4] == ["unedited", "the whole edit", "a quarter of errors gone"]
    rows = dict(grid(described(runs[0].summary)).scores)
    assert rows["images of the edit"][:2] == ("45 %", "65 %") and rows["original task, rendition"][:2] == (
        "40 %",
        "36 %",
    )


def test_page_about_images_and_language(runs: list[RunData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edit_robust.report.html.ALL", (edits, tradeoff))  # the others only cost time
    only = write_report(runs[:1], tmp_path / "one.html").read_text(encoding="utf-8")
    assert "original: scene world, test, 3 images; original (rendition): scene world, drawings, 1 images" in only
    assert "Edit under corruptions (eq. 2)" in only and "Division factor" not in only and "neighbouring" not in only
    both = write_report([*runs[1:3], language()], tmp_path / "all.html").read_text(encoding="utf-8")
    assert "Division factor" in both and "images of the edit" in both
    assert findings.TITLE in both and 'id="figure-tradeoff"' in both and 'id="figure-edits"' in both
