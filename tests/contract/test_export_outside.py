"""Exported edits give a run's final numbers in transformers, peft, timm and open_clip, without this program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from helpers.runs import go, options, override
from helpers.tiny_clips import CONFIG, make, open_clip_folder

from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.config.nodes import build
from edit_robust.exports.exporting import export
from edit_robust.models.vision.classifier import Classifier
from edit_robust.runs.reader import Run

pytestmark = pytest.mark.slow

SCENES = [
    *("task=scene-world", "task.n_edit=16", "task.n_validation=24", "task.natural=[]", "task.n_search=8"),
    *("corruption=none", "figures=false", "tracker=none", "device=cpu", "trajectory=batch"),
]
TRAINED = ["editor=local-ft", "editor.lr=0.02", "editor.max_epochs=8", "editor.select=none"]
PAINTED = ["editor=paint", "editor.epochs=2", "editor.lr=0.0005", "editor.warmup=0", "editor.batch_size=4"]
#: Tiny networks of timm: of convolutions and with tokens, in another size than their own.
TIMM = {"resnet10t": ["model.input_size=32"], "test_vit": ["model.input_size=48"]}


def run(given: list[str]) -> Run:
    return go(experiment(compose(given)))


class Made:
    """Runs, their exports, and what other programs answer about these; everything is asked in one process."""

    def __init__(self, place: Path, checkpoint: Callable[[str], Path], facts: Path) -> None:
        self.place, self.checkpoint, self.facts = place, checkpoint, facts
        self.runs: dict[str, Run] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.texts()
        self.images()
        self.answers = self.ask()

    def texts(self) -> None:
        half = self.place / "llama-bfloat16"
        plain = transformers.AutoModelForCausalLM.from_pretrained(self.checkpoint("llama"), dtype=torch.bfloat16)
        plain.save_pretrained(half)
        transformers.AutoTokenizer.from_pretrained(self.checkpoint("llama")).save_pretrained(half)
        for name, folder, editor, more in (
            ("gpt2", self.checkpoint("gpt2"), "rome", []),
            ("gptj", self.checkpoint("gptj"), "ft", ["editor.lr=0.05", "editor.norm_constraint=0.05"]),
            ("llama", self.checkpoint("llama"), "memit", ["layer.index=[0,1]"]),
            ("half", half, "memit", ["layer.index=[1]", "model.dtype=bfloat16"]),
        ):
            found = run(options(folder, self.facts, self.place / "outputs", editor, *more))
            self.runs[name] = found
            self.job(f"{name} hf", "hf", found, "hf")
            if editor != "ft":
                self.job(f"{name} peft", "peft", found, "peft", base=str(folder))
            else:
                self.job(f"{name} peft", "peft", found, "peft", base=str(folder), rank=1000)

    def job(self, name: str, kind: str, found: Run, to: str, rank: int | None = None, **more: Any) -> None:
        folder = self.place / name.replace(" ", "-")
        export(found, folder, to, rank=rank)
        self.jobs[name] = {"kind": kind, "folder": str(folder), "questions": questions(found), **more}

    def images(self) -> None:
        own = open_clip_folder(make(CONFIG | {"quick_gelu": True}), self.place / "clip-folder")
        names = Classifier(path="builtin:scene-cnn", device="cpu").classes
        words = f"model.class_names=[{','.join(names or ())}]"
        clip = ["model=open-clip", f"model.path={own}", words, "model.templates=['a {}.']", *PAINTED]
        nets = {
            "scene-cnn": ["model=scene-cnn", *TRAINED],
            "scene-resnet": ["model=scene-resnet", *TRAINED],
            "scene-vit": ["model=scene-vit", *TRAINED],
            "scene-clip": ["model=scene-clip", *PAINTED],
            "clip": [*clip, f"model.head_cache={self.place}"],
        }
        for net, more in TIMM.items():
            size = [*more, "model.path=random", "model.n_classes=16", "model.resize_size=48", "layer.index=1"]
            nets[net] = ["model=timm", f"model.name={net}", *size, *TRAINED, "editor.lr=1.0"]
        for name, given in nets.items():
            found = run([*given, *override(SCENES, f"paths.outputs={self.place / 'outputs'}")])
            self.runs[name] = found
            made = export(found, self.place / name)
            job: dict[str, Any] = {"kind": made.to, "folder": str(made.folder), "images": str(self.pictures(found))}
            if name == "test_vit":
                job |= {"checkpoint": "test_vit", "options": {"num_classes": 16, "img_size": 48}}
            if made.to == "open_clip":
                model = build(found.config["model"], "model")
                templates = ["a {}."] if name == "clip" else model.source.words[1]
                job |= {"classes": list(model.classes), "templates": list(templates)}
            self.jobs[name] = job

    def pictures(self, found: Run) -> Path:
        """All clean images of a run, as the task gives them, in one file."""
        task = build(found.config["task"], "task")
        sets = [s for s in task.image_sets(task.requests()) if s.shift == "none"]
        path = self.place / f"{found.id}.npz"
        pixels = np.stack([s.load(i) for s in sets for i in range(len(s))])
        labels = np.concatenate([s.labels for s in sets])
        np.savez(path, pixels=pixels, labels=labels, probes=[s.probe for s in sets for _ in range(len(s))])
        return path

    def ask(self) -> dict[str, Any]:
        script = Path(__file__).parents[1] / "helpers" / "outside.py"
        asked, answered = self.place / "jobs.json", self.place / "answers.json"
        asked.write_text(json.dumps(self.jobs))
        command = [sys.executable, "-I", str(script), str(asked), str(answered)]
        done = subprocess.run(command, cwd=self.place, capture_output=True, text=True, env={**os.environ})
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(answered.read_text()))


def questions(found: Run) -> list[dict[str, Any]]:
    """Those that a run asked at its end."""
    index, _, _ = found.outcomes(found.points[-1]["step"])["final"]
    return [{"prompt": r.x, "choices": list(r.choices)} for r in found.examples.iloc[index].itertuples()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path], facts: Path) -> Made:
    return Made(tmp_path_factory.mktemp("outside"), checkpoint, facts)


def final_es(found: Run, logp: np.ndarray) -> float:
    """Share of the requests whose new answer is likelier than the old one, from other numbers than the run's own."""
    index, _, _ = found.outcomes(found.points[-1]["step"])["final"]
    edit = (found.examples.iloc[index].probe == "edit").to_numpy()
    return 100 * float((logp[edit, 0] > logp[edit, 1]).mean())


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "half"])
def test_transformers(made: Made, name: str) -> None:
    *logp, dtype = made.answers[f"{name} hf"]
    found = made.runs[name]
    assert dtype == ("torch.bfloat16" if name == "half" else "torch.float32")
    _, own, _ = found.outcomes(found.points[-1]["step"])["final"]
    tolerance = 0.1 if name == "half" else 1e-4  # bfloat16 sums in another order
    assert np.abs(np.array(logp) - own[:, :2]).max() < tolerance
    if name != "half":
        assert final_es(found, np.array(logp)) == pytest.approx(found.summary["final_ES"])
        before = found.outcomes(0)["unedited"][1]
        assert np.abs(np.array(logp) - before[: len(logp), :2]).max() > 0.01  # the edit is in it


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama"])
def test_peft(made: Made, name: str) -> None:
    """The adapter beside the weights, and merged into them."""
    found = made.runs[name]
    _, own, _ = found.outcomes(found.points[-1]["step"])["final"]
    for logp in made.answers[f"{name} peft"]:
        assert np.abs(np.array(logp) - own[:, :2]).max() < 2e-3
        assert final_es(found, np.array(logp)) == pytest.approx(found.summary["final_ES"])


@pytest.mark.parametrize("name", [*TIMM, "scene-cnn", "scene-resnet", "scene-vit", "scene-clip", "clip"])
def test_images(made: Made, name: str) -> None:
    """Every image is answered as the run said, and so the accuracies are its final ones."""
    found, said = made.runs[name], np.array(made.answers[name])
    file = np.load(made.jobs[name]["images"])
    step = found.points[-1]["step"]
    rows = found.records[(found.records.step == step) & (found.records.metric == "accuracy")]
    for probe in ("edit", "original"):
        some = file["probes"] == probe
        right = float((said[some] == file["labels"][some]).mean())
        row = rows[(rows.probe == probe) & (rows["shift"] == "none")].iloc[0]
        assert right == pytest.approx(row.value) and row.n == some.sum(), probe
    own = found.predictions(step)
    for (probe, _, shift, _), (pred, _) in own.items():
        if shift == "none":
            assert np.array_equal(said[file["probes"] == probe], pred)
    moved = [not np.array_equal(pred, found.predictions(0)[key][0]) for key, (pred, _) in own.items()
             if key in found.predictions(0)]  # fmt: skip
    assert any(moved) or name == "resnet10t"  # untrained, it answers nearly alike whatever the edit


def test_cards(made: Made) -> None:
    """Every folder says what was edited and how it is loaded; the code in it names its own folder."""
    for job in made.jobs.values():
        text = (Path(job["folder"]) / "README.md").read_text()
        run_of = next(r for r in made.runs.values() if r.id in text)
        assert f"`{run_of.status['model']}`" in text and Path(job["folder"]).name in text.split("```python")[1]
    assert open_clip.__version__ and "ES" in (made.place / "gpt2-hf" / "README.md").read_text()
