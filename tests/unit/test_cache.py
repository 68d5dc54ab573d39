"""What is computed once and shared: made once, found again, never mixed up, damaged files named."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.helpers.cache import key_digest, learned, make_missing, read_arrays, write_arrays

KEY = {"model": "abc", "layers": ["a", "b"], "lr": 1e-6}


def tensors() -> dict[str, Tensor]:
    square = torch.arange(9.0).reshape(3, 3)
    return {"w": square, "t": square.T, "same": square, "half": torch.tensor([1.5], dtype=torch.bfloat16)}


def test_learned_state_is_made_once(tmp_path: Path) -> None:
    work, made = Workspace(tmp_path), []

    def make() -> dict[str, Tensor]:
        made.append(1)
        return tensors()

    first, again = (learned(work, "hypernetworks", KEY, make) for _ in range(2))
    assert len(made) == 1
    for found in (first, again):
        assert set(found) == set(tensors())
        for name, x in tensors().items():
            assert torch.equal(found[name], x) and found[name].dtype == x.dtype
    learned(work, "hypernetworks", {**KEY, "lr": 1e-5}, make)
    learned(work, "projectors", KEY, make)
    assert len(made) == 3, "another key or kind is another file"
    learned(work, "hypernetworks", dict(reversed(KEY.items())), make)
    assert len(made) == 3, "the order of a key's names means nothing"
    (story,) = (p for p in (tmp_path / "hypernetworks").glob("*.json") if p.stem == key_digest(KEY))
    assert json.loads(story.read_text()) == KEY
    names = {p.suffix for p in (tmp_path / "hypernetworks").iterdir()}
    assert names <= {".safetensors", ".json", ".lock"}, "temporary files are left"


def test_learning_that_fails_leaves_nothing(tmp_path: Path) -> None:
    work = Workspace(tmp_path)

    def fail() -> dict[str, Tensor]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        learned(work, "hypernetworks", KEY, fail)
    assert set(learned(work, "hypernetworks", KEY, tensors)) == set(tensors())


def test_damaged_files_are_named(tmp_path: Path) -> None:
    learned(Workspace(tmp_path), "hypernetworks", KEY, tensors)
    (path,) = tmp_path.glob("hypernetworks/*.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"the stored hypernetworks .* cannot be read .*delete it"):
        learned(Workspace(tmp_path), "hypernetworks", KEY, tensors)
    write_arrays(tmp_path / "a.npz", {"x": np.eye(3)}, {"from": "here"})
    assert torch.equal(read_arrays(tmp_path / "a.npz", ["x"], "matrix")[0], torch.eye(3, dtype=torch.float64))
    assert json.loads((tmp_path / "a.json").read_text()) == {"from": "here"}
    for content in (b"", b"hello", (tmp_path / "a.npz").read_bytes()[:60]):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"the stored matrix .* cannot be read"):
            read_arrays(tmp_path / "a.npz", ["x"], "matrix")


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    paths = [tmp_path / n for n in ("a", "b", "c")]
    paths[1].write_text("kept")
    asked: list[list[Path]] = []

    def make(missing: list[Path]) -> None:
        asked.append(missing)
        for p in missing:
            p.write_text("made")

    for _ in range(2):
        make_missing(paths, tmp_path / "locks" / "x.lock", make)
    assert asked == [[paths[0], paths[2]]] and paths[1].read_text() == "kept"


def _slowly(folder: Path) -> None:
    def make() -> dict[str, Tensor]:
        with (folder / "count").open("a") as f:
            f.write("x")
        time.sleep(0.5)
        return tensors()

    found = learned(Workspace(folder), "hypernetworks", KEY, make)
    assert torch.equal(found["w"], tensors()["w"])


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    both = [multiprocessing.get_context("fork").Process(target=_slowly, args=(tmp_path,)) for _ in range(2)]
    for p in both:
        p.start()
    for p in both:
        p.join(30)
    assert [p.exitcode for p in both] == [0, 0] and (tmp_path / "count").read_text() == "x"
