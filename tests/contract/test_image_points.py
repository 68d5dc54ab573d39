"""Points measured together: within a bound of memory, with nothing asked twice, and told in the status."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import KilledError, fuse, go, records
from torch import Tensor

from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.core import Delta
from edit_robust.core.images import ImageSet
from edit_robust.core.work import Workspace
from edit_robust.evaluate import image_answers, image_pass, image_shards
from edit_robust.evaluate.answer_store import Keep
from edit_robust.evaluate.base import Setting
from edit_robust.evaluate.image_answers import ImageAnswers
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.judging import judge
from edit_robust.runs.folder import RunFolder
from edit_robust.runs.reader import Run
from edit_robust.shifts.images.variants import ShiftOptions
from edit_robust.trajectories import Point, Scope

pytestmark = pytest.mark.slow

SMALL = [
    *("task=scene-world", "model=scene-cnn", "editor=local-ft", "editor.lr=0.003", "editor.max_epochs=5"),
    *("layer.index=5", "corruption=[fog,pixelate]", "shifts.severities=[3]", "task.natural=[]"),
    *("task.n_validation=16", "task.n_edit=16", "task.n_search=8", "model.batch_size=8"),
    *("trajectory=interpolate", "trajectory.alphas=[0.25,0.5,0.75,1.0]"),
    *("tracker=none", "device=cpu", "figures=false"),
]


def run(folder: Path, *more: str) -> Run:
    return go(experiment(compose([*SMALL, f"paths.outputs={folder}", *more])))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of the options as they are, made once: read it, and leave its folder alone."""
    return run(tmp_path_factory.mktemp("whole"))


def test_points_in_several_groups_and_shards_give_the_same(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    flush = ImageAnswers.flush
    monkeypatch.setattr(ImageAnswers, "flush", lambda self: flushed.append(len(self._waiting)) or flush(self))
    monkeypatch.setattr(image_answers, "SHARD_BYTES", 1)
    shards = run(tmp_path / "shards")
    assert records(whole) == records(shards) and flushed == [5]
    monkeypatch.setattr(image_answers, "KEPT_ANSWERS", 2 * 32 * 3 / 8)  # of two points: 32 images, 3 variants
    groups = run(tmp_path / "groups")
    assert flushed == [5, 3, 2]
    columns = ["step", "probe", "shift", "severity", "metric", "n"]
    a, b = (r.records.set_index(columns).value for r in (whole, groups))
    assert a.index.equals(b.index) and np.allclose(a, b, atol=1e-5)


def test_a_thread_ahead_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[str] = []
    shown = image_shards.ahead
    monkeypatch.setattr(image_shards, "ahead", lambda items: beside.append("ahead") or shown(items))
    alone = run(tmp_path / "alone")
    assert not beside, "small images are made ready in place"
    monkeypatch.setattr(image_shards, "AHEAD_FROM", 1)
    assert records(run(tmp_path / "ahead")) == records(alone) and beside


def test_a_kill_while_points_are_written_asks_nothing_again(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    write = RunFolder.write_point

    def until(self: RunFolder, step: int, *args: Any, **more: Any) -> None:
        if len(written) == 3:
            raise KilledError
        written.append(step)
        write(self, step, *args, **more)

    monkeypatch.setattr(RunFolder, "write_point", until)
    with pytest.raises(KilledError):
        run(tmp_path / "again")
    monkeypatch.setattr(RunFolder, "write_point", write)
    assert (tmp_path / "again" / "runs" / whole.id / "state" / "shards" / "group.json").exists()
    monkeypatch.setattr(Classifier, "logits_along", None)  # nobody is asked
    again = run(tmp_path / "again")
    assert records(again) == records(whole)
    assert not (again.path / "state" / "shards").exists()
    for step in (int(p["step"]) for p in whole.points):
        ours, theirs = again.right(step), whole.right(step)
        assert ours.keys() == theirs.keys() and len(ours) == 6
        assert all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_a_kill_anywhere_among_several_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_answers, "KEPT_ANSWERS", 2 * 32 * 3 / 8)
    whole = run(tmp_path / "whole")
    kills = 0
    for after in range(3, 60, 8):
        try:
            with fuse(after):
                run(tmp_path / "again")
            break
        except KilledError:
            kills += 1
    assert kills >= 3 and records(run(tmp_path / "again")) == records(whole)


def test_the_status_tells_of_precision_and_of_a_store_that_is_too_small(whole: Run, tmp_path: Path) -> None:
    plain = whole
    assert "precision" not in plain.status and "store" not in plain.status
    assert list((plain.path.parents[1] / "cache" / "corrupted").glob("*.npy"))
    told = run(tmp_path / "told", "+model.tf32=true", "shifts.store_gb=0.0001")
    assert told.status["precision"] == "tf32 was asked for, and has no effect: cpu computes in float32"
    assert "not kept" in told.status["store"] and "shifts.store_gb=0.0001" in told.status["store"]
    assert not list((tmp_path / "told" / "cache").rglob("*.npy"))
    assert plain.id != told.id, "on a GPU the answers are others"
    a, b = (r.records.drop(columns="run") for r in (plain, told))
    assert a.equals(b)


def test_only_verdicts_leave_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[int, ...]] = []
    cpu = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: fetched.append((self.element_size(), *self.shape)) or cpu(self))
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    target = np.array([0, 6, 3, 3, 1])
    found = judge(logits, target, before="first")
    assert fetched == [(1, 3, 5), (8, 3), (8, 3, 2)], "a byte an image and model, and sums"
    assert found.pred is None and found.logp is None and found.moved is not None
    right = logits.argmax(-1).numpy() == target
    assert np.array_equal(found.right, right) and right.any() and not right.all()
    logp = logits.double().log_softmax(-1)[:, torch.arange(5), torch.from_numpy(target)]
    np.testing.assert_allclose(found.loss, -logp.sum(1).numpy())
    moved = [[(now & ~right[0]).sum(), (~now & right[0]).sum()] for now in right]
    assert found.moved.tolist() == moved and moved[0] == [0, 0] and any(moved[1] + moved[2])
    given = judge(logits[1:], target, before=right[0], answers=True)
    assert given.moved is not None and given.moved.tolist() == moved[1:]
    assert given.pred is not None and np.array_equal(given.pred, logits[1:].argmax(-1).numpy())
    assert given.logp is not None and np.array_equal(given.logp, logp[1:].float().numpy())
    some = judge(logits, target, (1, 3, 6), answers=True)
    assert some.pred is not None and set(some.pred.ravel().tolist()) <= {1, 3, 6} and some.moved is None
    assert some.logp is not None and (some.logp[:, 0] == -np.inf).all() and np.isfinite(some.logp[:, 1:]).all()


class Oracle:
    """Answers at random, without a network."""

    name, size, n_classes, batch_size, cropping = "oracle", 8, 1000, 16, "as they are"

    def crop(self, image: np.ndarray) -> np.ndarray:
        return image

    def crop_mask(self, mask: np.ndarray) -> np.ndarray:
        return mask

    def normalise(self, pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(pixels)).float()

    def logits_along(self, x: Tensor, lines: Sequence[tuple[Delta, Sequence[float]]]) -> list[list[Tensor]]:
        g = torch.Generator().manual_seed(int(x.sum()))
        return [[torch.rand(len(x), 10, generator=g) + a for a in alphas] for _, alphas in lines]

    judge = staticmethod(judge)

    @contextmanager
    def at_base(self, base: Mapping[str, Tensor]) -> Iterator[None]:
        yield


class Asked:
    """A task of many small images; ImageNet's, where it says so."""

    def __init__(self, n: int, benchmark: str = "") -> None:
        self.n, self.benchmark = n, benchmark

    def image_sets(self, requests: Sequence[Any]) -> list[ImageSet]:
        labels, ids = np.arange(self.n) % 10, tuple(map(str, range(self.n)))
        images = np.random.default_rng(0).integers(0, 256, (self.n, 8, 8, 3), dtype=np.uint8)
        return [ImageSet("original", ids, labels, lambda i: images[i], benchmark=self.benchmark)]


def measure(folder: Path, task: Asked, keep: Keep = "right") -> ImageAnswers:
    """The measure, with a model that needs no memory of its own."""
    run_folder = folder / "run"
    run_folder.mkdir(parents=True)
    setting = Setting(
        run_id="r",
        model=Oracle(),  # type: ignore[arg-type]
        task=task,  # type: ignore[arg-type]
        requests=[],
        layers=[],
        changes=[],
        before=type("Before", (), {"values": {}})(),
        run=Run(run_folder),
        work=Workspace(folder / "cache", run_folder),
    )
    found = ImageAnswers({}, ShiftOptions(store_gb=0.0), keep)
    found.prepare(setting)
    return found


def point(step: int, n: int, delta: Delta) -> Point:
    return Point(step, step / n, 0, (Scope("edit", []),), change=lambda: delta)


@pytest.mark.parametrize(("keep", "each", "stored"), [("right", 1 / 8 + 4, 2.2), ("answers", 1 / 8 + 8, 6.2)])
def test_memory_does_not_grow_with_the_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Keep, each: float, stored: float
) -> None:
    """200 points of 2000 images are 400,000 answers: 50 kB as bits, 3.2 MB as classes and probabilities of 32 bits;
    memory holds a shard of them."""
    n_points, n_images, delta = 200, 2000, Delta({})
    monkeypatch.setattr(image_answers, "SHARD_BYTES", 200 << 10)
    monkeypatch.setattr(image_pass, "JUDGED", 1 << 12)
    one = measure(tmp_path, Asked(n_images), keep)
    for step in range(n_points):
        one.at(point(step, n_points, delta), {})
    tracemalloc.start()
    found = one.flush()
    sizes = [sum(x.nbytes for x in each.outcomes.values()) for each in found]  # as they are written, one at a time
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [n_images * each] * n_points
    on_disk = (tmp_path / "run" / "state" / "shards" / "answers.bin").stat().st_size
    assert n_points * n_images * stored < on_disk <= n_points * n_images * (stored + 1), "sums are of 16 images here"
    assert peak < 1_200_000, f"{peak} bytes"
    one.done()
    assert not (tmp_path / "run" / "state" / "shards").exists()


def test_what_is_kept_of_single_images_changes_no_number(whole: Run, tmp_path: Path) -> None:
    bits = sum(p.stat().st_size for p in (whole.path / "outcomes").glob("*.npz"))
    for keep in ("answers", "logits"):
        more = run(tmp_path / keep, f"measure.image-answers.keep={keep}")
        assert more.id == whole.id and records(more) == records(whole)
        assert {k[3] for k in whole.predictions(0)} == {0} != {k[3] for k in more.predictions(0)}, "without corruption"
        for step in (0, 5):
            right = whole.right(step)
            assert right.keys() == more.right(step).keys() == more.predictions(step).keys()
            for key, (pred, logp) in more.predictions(step).items():
                target = more._targets[key[0], key[1], "none"]
                assert np.array_equal(right[key], pred == target) and np.array_equal(more.right(step)[key], right[key])
                if keep == "logits":
                    name = "|".join(map(str, key))
                    logits = more.arrays(step, "image-answers")[f"{name}|logits"].astype(np.float64)
                    shifted = logits - np.log(np.exp(logits).sum(1, keepdims=True))
                    np.testing.assert_allclose(shifted[np.arange(len(target)), target], logp, atol=0.02)
        assert sum(p.stat().st_size for p in (more.path / "outcomes").glob("*.npz")) > bits


@pytest.mark.parametrize("benchmark", ["", "imagenet"])
def test_records_say_whether_the_original_task_is_imagenet(tmp_path: Path, benchmark: str) -> None:
    one = measure(tmp_path, Asked(20, benchmark))
    one.at(point(0, 1, Delta({})), {})
    metrics = [r.metric for r in one.flush()[0].records]
    assert ("imagenet" in metrics) == (benchmark == "imagenet")
    one.model.n_classes = 10  # a network that tells other classes apart
    one.at(point(0, 1, Delta({})), {})
    assert "imagenet" not in [r.metric for r in one.flush()[0].records]
