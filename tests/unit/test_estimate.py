"""What a config will take: sizes without weights, the formulas of docs/scale.md, a finished run's time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edit_robust.config.check import check
from edit_robust.config.compose import compose
from edit_robust.estimate import Estimate, Speed, estimate
from edit_robust.estimate.shown import estimates, gigabytes

SPEED = Speed(flops=1e12, bandwidth=1e11, about="a test")
GPTJ = ["model=gptj", "model.path=EleutherAI/gpt-j-6b", "task.path=facts.json", "task.n_requests=10000"]


def values(*overrides: str) -> dict[str, Any]:
    return check(compose(list(overrides)))


def item(found: Estimate, what: str) -> float:
    return next(i.size for i in (*found.memory, *found.disk) if i.what == what)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache of the hub, and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facts.json").write_text("[]")


@pytest.mark.usefixtures("offline")
def test_gptj_takes_what_the_page_on_scale_says() -> None:
    """docs/scale.md: 24.2 GB of weights, 19.3 while factoring, 12.9 kept; 4.9 GB of changes for 10,000 edits."""
    found = estimate(values("editor=memit", *GPTJ), speed=SPEED)
    assert found.plan is not None and found.plan.sizes.parameters == 6050882784
    assert found.plan.edited == ((4096, 16384),) * 6
    wanted = {
        "weights": 24.2,
        "copies of what edits change": 3.2,
        "second moments while summed": 17.2,
        "factoring": 19.3,
    }
    wanted |= {"factors, kept": 12.9, "a solve": 2.1, "second moments, once": 12.9, "changes": 4.9, "kept weights": 1.6}
    for what, size in wanted.items():
        assert item(found, what) / 1e9 == pytest.approx(size, abs=0.06), what
    assert item(found, "answers") / 1e6 == pytest.approx(46 + 8.4 + 6.6, abs=0.5)
    assert found.peak_bytes > 24.2e9 + 3.2e9 + 19.3e9 and found.seconds is not None and not found.unknown


@pytest.mark.usefixtures("offline")
def test_alphaedit_takes_its_null_spaces_and_keys_besides() -> None:
    found = estimate(values("editor=alphaedit", *GPTJ), speed=SPEED)
    assert item(found, "null spaces while prepared") / 1e9 == pytest.approx(45.1, abs=0.1)
    assert item(found, "past keys as carried") / 1e9 == pytest.approx(3.9, abs=0.05)
    assert item(found, "eigenvectors, once") / 1e9 == pytest.approx(12.9, abs=0.05)


@pytest.mark.usefixtures("offline")
def test_half_the_bytes_and_an_unknown_model() -> None:
    whole, half = (
        estimate(values("editor=rome", *GPTJ, f"model.dtype={d}"), speed=SPEED) for d in ("float32", "bfloat16")
    )
    assert item(half, "weights") * 2 == item(whole, "weights")
    found = estimate(values("model=hf", "model.path=somebody/something", "editor=ft"), speed=SPEED)
    assert found.plan is None and "somebody/something is unknown" in found.unknown[0] and found.seconds is None


@pytest.mark.parametrize(
    ("choice", "parameters", "edited"),
    [
        ("scene-cnn", 527696, (64, 576)),
        ("resnet50", 25557032, (1024, 256)),
        ("vit-b16", 86567656, (768, 3072)),
        ("clip-vit-l14", 427616513, (1024, 4096)),
    ],
)
def test_classifiers_are_built_without_memory(choice: str, parameters: int, edited: tuple[int, int]) -> None:
    editor = "one-layer" if "clip" in choice else "local-ft"
    task = "scene-world" if choice == "scene-cnn" else "digits" if "clip" in choice else "scene-world"
    found = estimate(values(f"model={choice}", f"task={task}", f"editor={editor}", "layer=middle"), speed=SPEED)
    assert found.plan is not None and found.plan.sizes.parameters == parameters
    assert found.plan.edited[0] == edited or choice == "scene-cnn"
    assert found.unknown, "how long training takes is not known beforehand"


@pytest.mark.parametrize(
    ("keep", "megabytes"), [("right", 0.65), ("answers", 25.2), ("logits", 2 * 1000 * 4.8)], ids=lambda x: str(x)
)
def test_answers_of_images_take_what_the_page_on_scale_says(keep: str, megabytes: float) -> None:
    """50,000 images under 95 variants, unedited and edited. Asked nothing of images, a run keeps nothing of them."""
    size = ["model=scene-cnn", "task=scene-world", "editor=low-rank", "task.n_validation=50000", "task.n_edit=1"]
    small = estimate(values(*size, "corruption=imagenet-c", f"measure.image-answers.keep={keep}"), speed=SPEED)
    assert small.plan is not None
    assert item(small, "answers") / 1e6 / (1 + small.plan.points) == pytest.approx(megabytes, rel=0.2)
    with pytest.raises(StopIteration):
        item(estimate(values(*size, "measure=[edits]"), speed=SPEED), "answers")


def test_the_built_in_sizes_are_those_of_the_loaded_models() -> None:
    from edit_robust import CausalLM, Classifier
    from edit_robust.estimate.sizes import sizes_of

    for model, choice in (
        (CausalLM("builtin:fact-gpt"), "fact-gpt"),
        (Classifier("builtin:scene-resnet"), "scene-resnet"),
    ):
        known = sizes_of(values(f"model={choice}", *(["editor=local-ft"] if choice != "fact-gpt" else [])))
        assert not isinstance(known, str)
        assert known.matrices == tuple(model.layer_at(i).shape for i in range(model.n_layers))
        assert known.parameters == sum(p.numel() for p in model.net.parameters())


def test_seconds_come_from_a_finished_run_like_it(tmp_path: Path) -> None:
    given = values("editor=rome", "task.n_requests=50")
    for name, editor, seconds in (("one", "rome", 20.0), ("other", "memit", 99.0)):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        config = {**given, "editor": {**given["editor"], "name": editor}}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        summary = {"n_edits": 10, "seconds_edit": seconds, "seconds_evaluate": 5.0, "seconds_load": 3.0}
        (path / "summary.json").write_text(json.dumps(summary))
        (path / "status.json").write_text(json.dumps({"status": "complete"}))
    found = estimate(given, tmp_path, SPEED)
    assert {one.what: one.seconds for one in found.time} == {"editing": 100.0, "measuring": 25.0, "load": 3.0}
    assert "2 s an edit in one" in [one.how for one in found.time]
    assert found.seconds == 128.0


def test_a_machine_twice_as_fast_takes_half_as_long() -> None:
    given = values("editor=rome", "task.n_requests=50")
    slow, fast = (estimate(given, speed=Speed(f, b, "")) for f, b in ((1e11, 1e10), (2e11, 2e10)))
    assert slow.seconds == pytest.approx(2 * (fast.seconds or 0))
    here = Speed.here()
    assert here.flops > 1e9 and here.bandwidth > 1e8


def test_a_sweep_is_added_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edit_robust.estimate.shown import show

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Speed, "here", lambda: SPEED)
    found = estimates(["editor=rome,memit,ft", "task.n_requests=20"], multirun=True)
    assert len(found) == 3 and len({one.run for one in found}) == 3
    show(found)
    out = capsys.readouterr().out
    assert "3 runs: " in out and "ft-fact-gpt" in out
    show(found[:1])
    assert "2 · 4 L d f" in capsys.readouterr().out
    assert (gigabytes(24.2e9), gigabytes(3.2e6), gigabytes(12)) == ("24.2 GB", "3.2 MB", "12 bytes")
