"""Runs on images: what is measured is what the plain loop measures, and nothing depends on workers, kills or shards."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.runs import CommandLine, KilledError, fuse, go, override, records
from PIL import Image

from edit_robust.config.compose import compose
from edit_robust.config.identity import run_id
from edit_robust.config.launch import experiment
from edit_robust.core import UserError
from edit_robust.evaluate import image_answers
from edit_robust.evaluate.answer_store import AnswerStore, Place
from edit_robust.evaluate.statistics.paired import mcnemar
from edit_robust.models.vision.classifier import Classifier
from edit_robust.report import verdict
from edit_robust.runs.reader import Run
from edit_robust.shifts import corrupt, seed_of

pytestmark = pytest.mark.slow

N, CLASSES, SIZE = 18, 5, 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of pairs and a table of originals, with noise for pictures."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows, plain = [], []
    for i in range(N):
        x = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        y = x.copy()
        y[SIZE // 2 :] = (200, 220, 255)
        Image.fromarray(x).save(folder / f"{i}.png")
        Image.fromarray(y).save(folder / f"{i}-snow.png")
        split = ("train", "search", "val")[i % 3]
        rows.append({"path": f"{i}.png", "edited_path": f"{i}-snow.png", "label": i % CLASSES, "split": split})
    for i in range(100, 100 + N):
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        plain.append({"path": f"{i}.png", "label": i % CLASSES})
    for name, table in (("pairs.csv", rows), ("originals.csv", plain)):
        with (folder / name).open("w", newline="") as f:
            writer = csv.DictWriter(f, table[0])
            writer.writeheader()
            writer.writerows(table)
    return folder


Options = Callable[..., list[str]]


def usual_options(data: Path, folder: Path) -> list[str]:
    return [
        *("model=timm", "model.name=resnet10t", "model.path=random", f"model.n_classes={CLASSES}"),
        *(f"model.input_size={SIZE}", f"model.resize_size={SIZE}", "device=cpu", "model.batch_size=7"),
        *("task=pairs", f"task.path={data / 'pairs.csv'}", f"task.original={data / 'originals.csv'}"),
        *("editor=local-ft", "editor.lr=0.1", "editor.max_epochs=4", "layer.index=2"),
        *("corruption=[fog,impulse_noise]", "shifts.severities=[1,4]"),
        *("figures=false", "tracker=none", f"paths.outputs={folder / 'outputs'}"),
        *("measure=images", "measure.image-answers.keep=answers"),
    ]


@pytest.fixture
def options(data: Path, tmp_path: Path) -> Options:
    return lambda *more: override(usual_options(data, tmp_path), *more)


def run(given: list[str]) -> Run:
    return go(experiment(compose(given)))


@pytest.fixture(scope="module")
def usual(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of the options as they are, made once: read it, and leave its folder alone."""
    return run(usual_options(data, tmp_path_factory.mktemp("usual")))


def plainly(r: Run, data: Path, alpha: float = 1.0) -> dict[tuple[str, str, int], np.ndarray]:
    """(probe, shift, severity) -> log-probabilities [n, classes], from a loop over images that shares nothing."""
    model = Classifier(
        "random", "resnet10t", n_classes=CLASSES, input_size=SIZE, resize_size=SIZE, device="cpu", fast=False
    )
    found = {}
    with model.patched(r.delta().scale(alpha)):
        for probe in ("original", "edit"):
            some = r.examples[r.examples.probe == probe]
            request = "" if probe == "original" else some.group.iloc[0]
            for shift, severity in [("none", 0), ("fog", 1), ("fog", 4), ("impulse_noise", 1), ("impulse_noise", 4)]:
                rows = []
                for name in some.id:
                    pixels = np.asarray(Image.open(_file(data, name, probe)).convert("RGB"))
                    if severity:
                        seed = seed_of(f"{probe}|{request}", name, shift, severity)
                        pixels = corrupt(pixels, shift, severity, seed)
                    rows.append(model.net(model.see([pixels])).log_softmax(-1)[0].detach().numpy())
                found[probe, shift, severity] = np.stack(rows)
    return found


def _file(data: Path, name: str, probe: str) -> Path:
    stem = Path(name.partition("@")[0]).stem
    return data / (f"{stem}-snow.png" if probe == "edit" else f"{stem}.png")


def test_what_is_measured_is_what_a_plain_loop_measures(usual: Run, data: Path) -> None:
    r = usual
    for step, alpha in ((0, 0.0), (1, 1.0)):
        loop = plainly(r, data, alpha)
        stored = r.predictions(step)
        assert len(stored) == len(loop) == 10
        for (probe, _, shift, severity), (pred, logp) in stored.items():
            theirs = loop[probe, shift, severity]
            target = r.examples[r.examples.probe == probe].target.to_numpy()
            np.testing.assert_allclose(logp, theirs[np.arange(len(target)), target], atol=1e-4)
            assert np.array_equal(pred, theirs.argmax(1))
            here = (r.records.step == step) & (r.records.probe == probe) & (r.records["shift"] == shift)
            rows = r.records[here & (r.records.severity == severity)].set_index("metric").value
            assert rows["accuracy"] == pytest.approx((theirs.argmax(1) == target).mean())
            assert rows["loss"] == pytest.approx(-theirs[np.arange(len(target)), target].mean(), abs=1e-4)
            if step:
                before = r.predictions(0)[probe, "" if probe == "original" else r.examples.group.max(), shift, severity]
                was, now = before[0] == target, pred == target
                assert (rows["gained"], rows["lost"]) == ((now & ~was).sum(), (was & ~now).sum())
    s = r.summary
    table = r.records[r.records.metric == "accuracy"].pivot_table(
        index=["probe", "shift", "severity"], columns="step", values="value"
    )
    shifted = table.drop(index="none", level="shift")
    assert s["original_ood_penalty"] == pytest.approx((shifted[1] - shifted[0]).loc["original"].mean())
    assert s["editing_ood_penalty"] == pytest.approx(shifted[1].loc["edit"].mean() - table[1].loc["edit", "none", 0])
    assert s["edit_accuracy"] == pytest.approx(table[1].loc["edit", "none", 0])
    assert r.records[r.records.metric == "leaked"].value.tolist() == [0.0]


def test_the_plain_path_measures_the_same(options: Options, usual: Run) -> None:
    other = run(options("model.fast=false"))
    a, b = usual.records.drop(columns="run"), other.records.drop(columns="run")
    pd.testing.assert_frame_equal(a, b, atol=1e-4, rtol=1e-4)


def test_neither_workers_nor_the_store_change_anything(options: Options, usual: Run, tmp_path: Path) -> None:
    for i, more in enumerate(("shifts.workers=2", "shifts.store_gb=0.0")):
        other = run(options(more, f"paths.outputs={tmp_path / str(i)}"))
        assert usual.id == other.id and records(usual) == records(other)


def test_released_images_stand_for_the_original_tasks(options: Options, usual: Run, data: Path, tmp_path: Path) -> None:
    """With clean images as the released ones, corruptions take nothing from the original task."""
    for name in ("fog", "impulse_noise"):
        for severity in (1, 4):
            folder = tmp_path / "released" / name / str(severity)
            folder.mkdir(parents=True)
            for file in data.glob("1*.png"):
                shutil.copy(file, folder)
    found, plain = run(options(f"shifts.released={tmp_path / 'released'}")), usual
    for step in (0, 1):
        got = found.predictions(step)
        for key, (pred, logp) in got.items():
            probe, _, _, severity = key
            same = got["original", "", "none", 0] if probe == "original" else plain.predictions(step)[key]
            np.testing.assert_array_equal(pred, same[0])
            np.testing.assert_allclose(logp, same[1], atol=1e-5)
    assert "released ImageNet-C" in found.status["corruption"] and "released" not in plain.status["corruption"]
    (tmp_path / "released" / "fog" / "4" / "105.png").unlink()
    with pytest.raises(UserError, match="has no 105"):
        run(options(f"shifts.released={tmp_path / 'released'}", "force=true"))


def test_intervals_come_from_single_images(options: Options, usual: Run) -> None:
    r = usual
    summary, right = r.summary, [r.right(step) for step in (0, 1)]
    clean = ("original", "", "none", 0)
    difference = right[1][clean].astype(float) - right[0][clean]
    assert summary["original_change"] == pytest.approx(difference.mean())
    assert summary["original_change"] == pytest.approx(
        summary["original_accuracy"] - summary["unedited_original_accuracy"]
    )
    for name in ("edit_gain", "original_change", "original_ood_penalty", "editing_ood_penalty"):
        assert summary[f"{name}_low"] <= summary[name] <= summary[f"{name}_high"]
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    assert summary["original_mcnemar_p"] == pytest.approx(mcnemar(gained, lost))
    assert (summary["original_gained"], summary["original_lost"]) == (gained, lost)
    curve = run(options("trajectory=interpolate", "trajectory.alphas=[0.5,1]")).summary
    assert 0 <= curve["monotone_edit_violation"] <= 1 and 0 < curve["monotone_edit_p"] <= 1


def test_images_trained_on_and_judged_by_are_counted(options: Options, usual: Run, data: Path) -> None:
    """The leak audit: two of the photographs that the edit was made from are in the original task."""
    assert usual.summary["n_leaked"] == 0
    leaky = data / "leaky.csv"
    leaky.write_text((data / "originals.csv").read_text() + "0.png,0\n1.png,1\n2.png,2\n")  # train, search, val
    summary = run(options(f"task.original={leaky}")).summary
    assert summary["n_leaked"] == 2 and summary["leaked_share"] == pytest.approx(2 / (N + 3 + N // 3))
    assert "2 of the images it is judged by" in verdict(summary, {}) and "trained on, too" in verdict(summary, {})


def test_the_reported_images_choose_where_the_user_says_so(options: Options) -> None:
    """The paper's choice, by name: accuracy of selection is then that of the edit's own images."""
    r = run(options("editor.select=validation", "editor.lr=search", "editor.lr_grid=[0.01,0.1]"))
    at = r.records[r.records.metric == "search_accuracy"].value.iloc[0]
    assert at == pytest.approx(r.summary["edit_accuracy"])


def test_shards_change_nothing(options: Options, usual: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_answers, "SHARD_BYTES", 1)  # one batch each
    assert records(usual) == records(run(options()))


@pytest.mark.parametrize(
    ("trajectory", "editor"),
    [
        ("sequential", "low-rank"),
        ("interpolate", "local-ft"),
        *(
            pytest.param(*pair, marks=pytest.mark.thorough)
            for pair in (
                ("sequential", "local-ft"),
                ("single", "local-ft"),
                ("single", "low-rank"),
                ("interpolate", "low-rank"),
            )
        ),
    ],
)
def test_killed_anywhere_it_ends_with_the_same_records(
    options: Options, tmp_path: Path, trajectory: str, editor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_answers, "SHARD_BYTES", 1)
    given = options(f"trajectory={trajectory}", f"editor={editor}", "corruption=[fog]")
    whole = run(given)
    again = override(given, f"paths.outputs={tmp_path / 'other'}")
    kills = 0
    for after in range(2, 40, 4):
        try:
            with fuse(after, half=after % 3 == 0):
                run(again)
            break
        except KilledError:
            kills += 1
    resumed = run(again)
    assert kills >= 2
    assert resumed.complete and records(resumed) == records(whole)
    assert not (resumed.path / "state" / "panel").exists()


def test_a_shard_that_was_measured_is_not_measured_again(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_answers, "SHARD_BYTES", 1)
    measured: list[Place] = []
    add = AnswerStore.add

    def counted(self: AnswerStore, place: Place, *arrays: Any) -> None:
        if len(measured) == 7:
            measured.append(Place(-1, -1, -1))
            raise KilledError
        measured.append(place)
        add(self, place, *arrays)

    monkeypatch.setattr(AnswerStore, "add", counted)
    with pytest.raises(KilledError):
        run(options())
    shown: list[int] = []
    logits_along = Classifier.logits_along
    monkeypatch.setattr(
        Classifier, "logits_along", lambda self, x, lines: shown.append(len(x)) or logits_along(self, x, lines)
    )
    run(options())
    done = [m for m in measured if m.images >= 0]
    assert len(done) == len(set(done)) == 4 * 5  # three shards of the original task, one of the edit; five variants
    assert sum(shown) == (N + N // 3) * 5 - 7 * 7, "what was answered before the kill is not asked again"


def test_interpolation_starts_at_the_unedited_model_and_ends_at_the_edit(options: Options) -> None:
    edited = run(options("trajectory=single"))
    for more in ([], ["trajectory.each=true"]):
        line = run(options("trajectory=interpolate", "trajectory.alphas=[0.0,0.5,1.0]", *more))
        steps = [p["step"] for p in line.points]
        alphas = [p["alpha"] for p in line.points]
        assert alphas == [1.0, 0.0, 0.5, 1.0]
        for key, (pred, logp) in line.predictions(steps[1]).items():
            assert np.array_equal(pred, line.predictions(0)[key][0])
            np.testing.assert_allclose(logp, line.predictions(0)[key][1], atol=1e-6)
            np.testing.assert_allclose(line.predictions(steps[3])[key][1], edited.predictions(1)[key][1], atol=1e-5)
    assert (
        "matched_edit_accuracy" in line.summary
        or line.summary["edit_accuracy"] <= line.summary["unedited_edit_accuracy"]
    )


def test_the_base_is_left_bit_for_bit(options: Options) -> None:
    made = experiment(compose(options("editor=global-ft", "trajectory=interpolate")))
    model = made.model()
    before = {k: v.clone() for k, v in model.net.state_dict().items()}
    go(type(made)(**{**made.__dict__, "model": lambda: model}))
    assert all(torch.equal(v, before[k]) for k, v in model.net.state_dict().items())


def test_a_diverging_learning_rate_is_refused_and_recorded(options: Options) -> None:
    r = run(options("editor.lr=1e38"))
    assert r.complete and r.summary["n_refused"] == 1
    assert r.summary["edit_accuracy"] == r.summary["unedited_edit_accuracy"]


def test_moved_files_make_the_same_run(options: Options, data: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(data, tmp_path / "moved")
    moved = [o.replace(str(data), str(tmp_path / "moved")) for o in options()]
    ids = [run_id(dict(experiment(compose(o)).config)) for o in (options(), moved)]
    assert ids[0] == ids[1]
    picture = tmp_path / "moved" / "3-snow.png"
    Image.fromarray(np.zeros((SIZE, SIZE, 3), dtype=np.uint8)).save(picture)
    assert run_id(dict(experiment(compose(moved)).config)) != ids[0]  # the table is the same, a picture is another


def test_words_and_images_do_not_mix(say: CommandLine) -> None:
    for given, says in [
        (["editor=rewriting"], "rome"),
        (["model=scene-cnn"], "local-ft"),
        (["corruption=fog"], "images"),
        (["model=scene-cnn", "editor=rewriting", "task=facts", "task.path=x"], "scene-world"),
    ]:
        said = say("run", *given)
        assert said.code == 2 and says in said.line, said.err


@pytest.mark.parametrize(
    "more, says",
    [
        (["shifts.severities=[0]"], "severities are 1 to 5"),
        (["shifts.severities=[6]"], "severities are 1 to 5"),
        (["corruption=fogg"], "fog"),
        (["shifts.order=relesed"], "released"),
        (["shifts.released=absent"], "absent is no folder"),
        (["shifts.released=."], "unpack weather.tar"),
        (["model.name=resnet10x"], "resnet10t"),
        (["model.n_classes=3"], "3 classes"),
        (["layer.index=9"], "layers 0 to 3"),
        (["task.path=absent.csv"], "absent.csv"),
        (["editor.lr=0"], "lr"),
    ],
)
def test_rubbish_is_one_clear_line(options: Options, say: CommandLine, more: list[str], says: str) -> None:
    said = say("run", *options(*more))
    assert said.code == 2 and says in said.line, said.err


def test_labels_out_of_range_name_the_image(options: Options) -> None:
    with pytest.raises(UserError, match="3 classes"):
        run(options("model.n_classes=3"))


SMALL = [
    *("task=scene-world", "model=scene-cnn", "layer.index=5", "corruption=[fog,pixelate]", "shifts.severities=[3]"),
    *("task.n_validation=16", "task.n_edit=16", "task.n_search=16", "task.n_moments=16", "task.n_natural=16"),
    *("tracker=none", "device=cpu"),
]


def test_the_built_in_world_runs_and_draws(tmp_path: Path) -> None:
    r = run([*SMALL, "editor=rewriting", "trajectory=interpolate", f"paths.outputs={tmp_path}"])
    for name in ("edit_accuracy", "original_accuracy", "original_ood_penalty", "editing_ood_penalty"):
        assert r.summary[name] is not None
        if name != "original_ood_penalty":  # the unedited model has none: it is what the edited one is compared with
            assert r.summary[f"unedited_{name}"] is not None
    assert (r.summary["n_original_images"], r.summary["n_edit_images"]) == (16, 16)
    assert {"rendition", "filtered", "snow"} <= set(r.records["shift"])
    drawn = {p.stem for p in (r.path / "figures").glob("*.png")}
    assert {"triples", "tradeoff", "edit-accuracy", "editing-penalty", "original-penalty", "layer-map"} <= drawn
    page = (r.path / "report.html").read_text()
    assert "grass-snow" in page and "scene world" in page
    assert r.status["data"] and "2 variants" in r.status["corruption"]


def test_several_edits_have_lines_of_their_own(tmp_path: Path) -> None:
    pairs = "task.pairs=[grass-snow,sea-wood]"
    r = run(
        [
            *(*SMALL, "editor=local-ft", "editor.lr=0.003", pairs, "trajectory=interpolate", "trajectory.each=true"),
            *("trajectory.alphas=[0.5,1.0]", "figures=false", f"paths.outputs={tmp_path}"),
        ]
    )
    assert [p["n_edits"] for p in r.points] == [0, 1, 1, 1, 1]
    edited = r.records[(r.records.scope == "at-edit") & (r.records.metric == "accuracy")]
    assert set(edited[edited.step <= 2].request) == {"grass-snow"}
    assert set(edited[edited.step >= 3].request) == {"sea-wood"}
    assert r.summary["n_requests"] == 2
