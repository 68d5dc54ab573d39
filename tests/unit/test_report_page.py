"""Parts of the report's page: figures without colliding names, edits one by one, flips, the command, limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import COLUMNS, RunData
from edit_robust.report.page import room
from edit_robust.report.page.cost import commands, cost_of, environment
from edit_robust.report.page.edits import chance, edits_of, examples_of
from edit_robust.report.page.flips import Album, gallery
from edit_robust.report.page.questions import answers
from edit_robust.report.page.vectors import LIMIT, inline, picture


def drawn() -> Figure:
    figure = Figure()
    ax = figure.subplots()
    ax.plot([0, 1, 2], [0.123456789, 1, 2], marker="o", label="“a” & <b>")
    ax.legend()
    return figure


def test_a_figure_becomes_an_element_with_names_of_its_own() -> None:
    one, two = (inline(style.svg(drawn()), name, 'what "it" shows') for name in ("one", "two"))
    names = [{part.split('"')[0] for part in text.split(' id="')[1:]} for text in (one, two)]
    assert names[0] and not names[0] & names[1] and all(name.startswith("one-") for name in names[0])
    for text in (one, two):
        assert text.startswith("<svg ") and 'role="img"' in text and 'aria-label="what &#34;it&#34; shows"' in text
        assert not any(
            word in text for word in ("<?xml", "DOCTYPE", "metadata", "<style", "http", "font-family", "xlink")
        )
        assert "&amp; &lt;b&gt;" in text and "0.123456" not in text
    used = {part.split(")")[0] for part in one.split("url(#")[1:]} | {p.split('"')[0] for p in one.split('href="#')[1:]}
    assert used == names[0]


def test_a_drawing_of_very_many_dots_is_a_picture() -> None:
    figure = Figure()
    x = np.random.default_rng(0).random((2, LIMIT // 60))
    figure.subplots().plot(x[0], x[1], "o")
    assert str(picture(figure, "dots", "dots")["markup"]).startswith('<img src="data:image/png;base64,')
    shown = Figure()
    shown.subplots().imshow(np.zeros((4, 4, 3)))
    assert picture(shown, "photo", "a photograph")["photographs"] and not picture(drawn(), "a", "a")["photographs"]


NEW, OLD = " Oslo", " Rome"
LINES = [
    {"probe": "edit", "x": "{} lives in", "choices": [NEW, OLD], "target": 0},
    {"probe": "paraphrase", "x": "The home of {} is", "choices": [NEW, OLD], "target": 0},
    {"probe": "neighbourhood", "x": "Next to {} one speaks", "choices": [NEW, OLD], "target": 1},
]


def language(folder: Path, n: int = 8, forgotten: int = 3, refused: int = 5) -> RunData:
    """A run of n edits: each takes; one of them is forgotten at the end, one was refused, the last has a bad sign."""
    (folder / "outcomes").mkdir(parents=True)
    examples = [
        line | {"id": f"{i}/{k}", "group": f"r{i}", "x": line["x"].replace("{}", f"S{i}"), "measure": "answers"}
        for i in range(n)
        for k, line in enumerate(LINES)
    ]
    (folder / "examples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in examples))
    likely, unlikely = np.log(0.9), np.log(0.01)
    points = []
    for step in range(n + 1):
        arrays = {}
        scopes = {"unedited": range(n)} if step == 0 else {"at-edit": [step - 1]}
        if step == n:
            scopes["final"] = range(n)
        for scope, who in scopes.items():
            rows = np.array([3 * i + k for i in who for k in range(3)])
            new = np.array([scope != "unedited" and k < 2 for _ in who for k in range(3)])
            if scope == "final":
                new[3 * forgotten : 3 * forgotten + 2] = False
            logp = np.where(new[:, None], [likely, unlikely], [unlikely, likely])
            arrays |= {
                f"answers:{scope}|index": rows.astype(np.int32),
                f"answers:{scope}|logp": logp.astype(np.float32),
                f"answers:{scope}|hits": (logp > -1).astype(np.float32),
            }
        np.savez(folder / "outcomes" / f"{step:06d}.npz", **arrays)
        points.append(json.dumps({"step": step, "records_end": 0, "alpha": 1.0, "n_edits": step}))
    (folder / "points.jsonl").write_text("\n".join(points) + "\n")
    base = {
        "run": "r",
        "alpha": 1.0,
        "shift": "none",
        "severity": 0,
        "layer": "",
        "n": 1,
        "scope": "at-edit",
        "probe": "",
    }
    told = [
        base | {"step": i + 1, "n_edits": i + 1, "request": f"r{i}", "metric": metric, "value": value}
        for i in range(n)
        for metric, value in (("key_ratio", 0.01 if i == n - 1 else 0.9), ("refused", float(i == refused)))
    ]
    config = {
        "editor": {"name": "rome"},
        "model": {"name": "m"},
        "task": {"name": "t"},
        "trajectory": {"name": "sequential"},
    }
    return RunData("r", pd.DataFrame(told, columns=list(COLUMNS)), config, {"n_edits": n, "n_requests": n}, folder)


def test_edits_one_by_one(tmp_path: Path) -> None:
    run = language(tmp_path / "r")
    found = edits_of(run, examples_of(run), 100)
    assert found is not None and found.total == len(found.shown) == 8
    assert found.moments == ("before", "right after its edit", "at the end")
    assert [edit.end for edit in found.shown] == [*["holds"] * 3, "forgotten", "holds", "refused", "holds", "holds"]
    first = found.shown[0]
    assert (first.own.text, first.own.right, first.own.other) == ("S0 lives in", "Oslo", "Rome")
    before, after, end = first.own.answers
    assert before is not None and not before.prefers and before.right == pytest.approx(0.01, rel=1e-4)
    assert after is not None and after.prefers and after.says and after.text == "90.0 % / 1.0 %" and end == after
    assert first.kept("put differently", 1) == (1, 1) and first.kept("about a neighbour", found.latest) == (1, 1)
    assert [edit.warnings for edit in found.shown] == [0] * 7 + [1] and found.warned
    assert found.width == 4 + 3 + 2 + 1 + 1


def test_of_too_many_edits_those_are_shown_that_something_happened_to(tmp_path: Path) -> None:
    run = language(tmp_path / "r")
    found = edits_of(run, examples_of(run), 4)
    assert found is not None and [edit.number for edit in found.shown] == [1, 4, 6, 8] and found.total == 8
    run.summary.update({"culprit_edit": 7, "culprit_id": "r6"})
    found = edits_of(run, examples_of(run), 1)
    assert found is not None and [(edit.number, edit.culprit) for edit in found.shown] == [(7, True)]


def test_runs_without_questions_have_no_edits() -> None:
    run = RunData("r", pd.DataFrame())
    assert examples_of(run) is None and edits_of(run, None, 10) is None and gallery(run, Album(10), 3) is None


def test_questions_are_answered_from_what_was_measured(tmp_path: Path) -> None:
    run = language(tmp_path / "r")
    run.summary.update({"ES": 100.0, "PS": 50.0, "perplexity": 5.0, "unedited_perplexity": 4.0, "forgotten_pct": 12.5})
    examples = examples_of(run)
    found = {one.question: one.lines for one in answers(run, examples, {}, edits_of(run, examples, 9))}
    assert found["What was edited?"][0] == "8 edits of t in m, by rome: one upon the other."
    assert found["What was edited?"][1] == "One of them: “S0 lives in …” shall be answered Oslo, not Rome."
    assert found["Did it take?"] == ("All 8 edits took.",)
    assert found["Did it hold under shift?"] == ("They hold for rewordings in 50 %.",)
    assert found["When did it collapse?"][0].startswith(
        "It did not, up to the last edit: perplexity went from 4.00 to 5.00"
    )
    assert "Which edit did it?" not in found  # nobody has looked for one
    run.summary.update({"inflection_edit": 6, "inflection_after": 5, "inflection_until": 8, "culprit_edit": None})
    found = {one.question: one.lines for one in answers(run, examples, {})}
    assert found["When did it collapse?"] == ("It broke about edit 6, between the checks after 5 and after 8 edits.",)
    assert "no edit there sticks out" in found["Which edit did it?"][0]
    assert answers(RunData("r", pd.DataFrame()), None, {}) == []


def test_chances_are_all_or_none_only_when_they_are() -> None:
    assert [chance(p) for p in (0.0, 1e-9, 0.5, 0.99999, 1.0, float("nan"))] == [
        *("0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %", "no number")
    ]


def test_the_command_of_a_job_is_its_own(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "rome-1"
    run.mkdir(parents=True)
    said = {"command": "edit-robust run -m editor=rome,ft --config-dir mine/conf"}
    assert commands(run, said) == (said["command"], "") and commands(None, {}) == ("", "")
    (tmp_path / "sweeps").mkdir()
    jobs = [{"run": "rome-1", "overrides": ["editor=rome", "task.pairs=[a, b]", "hydra.mode=MULTIRUN"]}]
    (tmp_path / "sweeps" / "s.json").write_text(json.dumps({"jobs": jobs}))
    own = "edit-robust run --config-dir mine/conf editor=rome 'task.pairs=[a, b]'"
    assert commands(run, said) == (own, said["command"])


def test_cost_and_environment() -> None:
    status = {
        "seconds": {"edit": 30.0, "load": 10.0, "own": 60.0},
        "processor_seconds": {"edit": 40.0},
        "peak_memory_mb": {"process": 2048.0},
        "device": "cpu",
        "versions": {"torch": "2"},
        "git": {"sha": "0123456789abcdef", "dirty": True},
        "resumed": 0,
    }
    cost = cost_of(status, 10)
    assert cost is not None and cost.has_processor and cost.an_edit == "3.0 s" and cost.total == "1 min 40 s"
    assert [(p.words, p.share) for p in cost.phases] == [("loading the model", 10), ("editing", 30), ("own", 60)]
    assert cost.memory == (("main memory", "2.00 GiB"),) and cost_of({}, 3) is None
    told = dict(environment(status, "scenes"))
    assert told == {"data": "scenes", "device": "cpu", "software": "torch 2", "commit": "0123456789ab (with changes)"}


def images(folder: Path) -> RunData:
    """Six images of the original task under one corruption, four of an edit: some are gained, some lost."""
    (folder / "outcomes").mkdir(parents=True)
    sets = {("original", "", "none"): 6, ("edit", "snow", "none"): 4}
    lines = [
        {"id": f"{probe}{i}", "probe": probe, "group": group, "shift": shift, "target": 0, "source": "s"}
        for (probe, group, shift), n in sets.items()
        for i in range(n)
    ]
    (folder / "examples.jsonl").write_text("".join(json.dumps(x | {"measure": "image-answers"}) + "\n" for x in lines))
    answered = {
        0: {"original||none|0": [0, 0, 0, 1, 1, 0], "original||fog|3": [0, 0, 1, 1, 1, 1], "edit|snow|none|0": [1] * 4},
        1: {
            "original||none|0": [0, 1, 0, 0, 1, 2],
            "original||fog|3": [1, 0, 0, 1, 1, 1],
            "edit|snow|none|0": [0, 0, 1, 1],
        },
    }
    for step, arrays in answered.items():
        kept = {f"image-answers:{k}|pred": np.array(v, dtype=np.int32) for k, v in arrays.items()}
        kept |= {f"image-answers:{k}|logp": np.zeros(len(v), dtype=np.float32) for k, v in arrays.items()}
        np.savez(folder / "outcomes" / f"{step:06d}.npz", **kept)
    base = {"run": "r", "alpha": 1.0, "severity": 0, "layer": "", "n": 4, "shift": "none", "metric": "accuracy"}
    told = [base | {"step": 1, "n_edits": 1, "scope": "at-edit", "probe": "edit", "value": 0.5, "request": "snow"}]
    (folder / "classes.json").write_text(json.dumps({"0": "cow", "1": "sheep"}))
    np.savez(folder / "flips.npz", **{"original||none|1": np.frombuffer(b"picture", dtype=np.uint8)})
    return RunData("r", pd.DataFrame(told, columns=list(COLUMNS)), path=folder)


def test_images_gained_and_lost(tmp_path: Path) -> None:
    album = Album(1000)
    found = gallery(images(tmp_path / "r"), album, 1)
    assert found is not None
    original, edit = found.sets()
    assert (original.n, original.right_before, original.right_now, original.gained, original.lost) == (6, 4, 3, 1, 2)
    assert (edit.title, edit.gained, edit.lost, len(edit.won)) == ("images of the edit snow", 2, 0, 1)
    lost, won = original.missed[0], original.won[0]
    assert (lost.name, lost.words, lost.picture) == ("original1", "cow: taken for sheep now", 0)
    assert (won.words, won.picture) == ("cow: taken for sheep before", None)
    assert (lost.variants, lost.right_before, lost.right_now) == (1, 1, 1)
    (fog,) = found.corruptions()
    assert (fog.name, fog.original, fog.edit, fog.gained, fog.lost) == ("fog", (2 / 6, 2 / 6), None, 1, 1)
    assert album.sources() == ["data:image/webp;base64,cGljdHVyZQ=="]


def test_pictures_are_kept_once_and_up_to_the_limit() -> None:
    album = Album(10)
    assert [album.add(b"12345"), album.add(b"12345"), album.add(b"67890"), album.add(b"x")] == [0, 0, 1, None]
    assert len(album.sources()) == 2


def test_the_more_runs_the_fewer_edits_of_each() -> None:
    assert [room.of(n).edits for n in (1, 4, 12, 54, 1000)] == [300, 300, 100, 22, 8]
    assert room.of(3).flips > room.of(54).flips
