"""Damaged files among images to judge by, coefficients that are no numbers, a head of another model: a line each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edit_robust.config.asking import asking
from edit_robust.core import UserError
from edit_robust.models.vision.clip import Clip
from edit_robust.runs.reader import Run
from edit_robust.tasks.vision.image_folder import ImageFolder
from edit_robust.trajectories import Combine, Interpolate


def folder(path: Path, n: int = 4) -> Path:
    """Two classes with n pictures each; the second of the first class is damaged."""
    g = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(g.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path / name / f"{i}.png")
    damaged = path / "cat" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    return path


def task(path: Path, **more: Any) -> ImageFolder:
    own = folder(path / "own")
    (own / "cat" / "1.png").unlink()
    options: dict[str, Any] = {"path": str(own), "n_held_out": 0, "original_classes": ["cat", "dog"], **more}
    return ImageFolder(name="pets", original=str(folder(path / "original")), **options)


def test_a_damaged_photograph_of_the_original_task_is_named(tmp_path: Path) -> None:
    original = task(tmp_path).image_sets([])[0]
    assert len(original) == 8
    with pytest.raises(UserError, match=r"1\.png cannot be read as an image") as error:
        [original.load(i) for i in range(8)]
    assert "\n" not in str(error.value)


def test_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        original = task(tmp_path, corrupt="skip").image_sets([])[0]
    assert len(original) == len(original.labels) == 7 and not any(name.endswith("cat/1.png") for name in original.ids)
    assert all(original.load(i).shape == (40, 40, 3) for i in range(7))
    same = task(tmp_path / "again").image_sets([])[0]
    for name, i in zip(original.ids, range(7), strict=True):
        k = [Path(x).parts[-2:] for x in same.ids].index(Path(name).parts[-2:])
        assert np.array_equal(original.load(i), same.load(k)) and original.labels[i] == same.labels[k]
    assert "1 images are left out" in caplog.text and "1.png" in caplog.text


@pytest.mark.parametrize("walk", [Interpolate, Combine])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_coefficients_are_numbers(walk: type, wrong: float) -> None:
    with pytest.raises(UserError, match=rf"trajectory.alphas has {wrong} in it: coefficients must be finite numbers"):
        walk(alphas=[0.0, wrong, 1.0])


def test_a_head_of_another_model(tmp_path: Path) -> None:
    words: dict[str, Any] = {"class_names": ["cat", "dog"], "templates": ["a {}"], "device": "cpu"}
    first = Clip("builtin:scene-clip", head_cache=str(tmp_path), **words)
    (file,) = tmp_path.glob("*.safetensors")
    for wrong in (torch.zeros(3, 64), torch.zeros(2, 512)):
        save_file({"head": wrong}, file)
        with pytest.raises(UserError, match="that of another model or of other words: 2 classes x 64 are needed"):
            Clip("builtin:scene-clip", head_cache=str(tmp_path), **words)
    file.unlink()
    assert torch.equal(Clip("builtin:scene-clip", head_cache=str(tmp_path), **words).net.head, first.net.head)


def test_options_of_an_evaluation_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(UserError, match="keep=bits"):
        asking(Run(run), ["measure=[image-answers]", "+measure.image-answers.keep=bits"], tmp_path)
