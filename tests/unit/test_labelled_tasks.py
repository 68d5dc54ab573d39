"""Tasks of labelled images in words: splits, words, files of every kind, and one line for what is wrong with them."""

from __future__ import annotations

import gzip
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.real import DATA

from edit_robust.core import UserError
from edit_robust.core.images import ImageSet
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.evaluate.image_words import in_columns, n_answers
from edit_robust.tasks.base import NamesClasses
from edit_robust.tasks.vision.digits import SIDE, Digits, SceneDigits
from edit_robust.tasks.vision.labelled import LabelledImages
from edit_robust.tasks.vision.mnist import Mnist
from edit_robust.tasks.vision.svhn import Svhn

SMALL: dict[str, Any] = {"n_original": 16, "n_held_out": 8}


def one_line(match: str, make: Any) -> None:
    with pytest.raises(UserError, match=match) as e:
        make()
    assert "\n" not in str(e.value)


def disjoint(task: LabelledImages) -> dict[str, ImageSet]:
    """The task's sets by probe, seen to share no image with each other or with the training images."""
    (request,) = task.requests()
    sets = {x.probe: x for x in task.image_sets([request]) if x.shift == "none"}
    assert list(sets) == ["original", "edit", "edit-held-out", "original-held-out"]
    parts = [set(request.x.ids), set(sets["edit"].ids), set(sets["edit-held-out"].ids)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert not set(sets["original"].ids) & set(sets["original-held-out"].ids)
    assert request.words == sets["edit"].words == sets["edit-held-out"].words == task.words
    assert sets["original"].words is None is sets["original-held-out"].words
    assert sets["edit"].request == sets["edit-held-out"].request == request.id
    return sets


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "templates", "match"),
    [
        (["a", "b", "A "], ["a {}."], '"a" and "A " are the same'),
        (["a", " "], ["a {}."], "one is empty"),
        (["a"], ["a {}."], "two or more"),
        (["a", "b"], ["a photo."], r'"a photo\." has no \{\}'),
        (["a", "b"], [], "templates: there is none"),
    ],
)
def test_words_that_make_no_head(names: list[str], templates: list[str], match: str) -> None:
    one_line(match, lambda: Vocabulary.of(names, templates))
    if templates and len(names) > 1:
        prompts = templates
        ten = [*names, *map(str, range(10 - len(names)))]
        one_line(match, lambda: Digits(names=ten, prompts=prompts).class_names)


def test_prompts_and_files_of_words(tmp_path: Path) -> None:
    assert Vocabulary.of(["cat", "dog"], ["a {}.", "{}"]).prompts(1) == ["a dog.", "dog"]
    file = tmp_path / "prompts.txt"
    file.write_text("the number {}.\n\nthe digit {}.\n")
    task = Digits(prompts=str(file), names=[f"no {i}" for i in range(10)])
    assert isinstance(task, NamesClasses)
    assert task.templates == ["the number {}.", "the digit {}."] and task.classes[3] == "no 3"
    one_line("9 names, and the task has 10", lambda: Digits(names=list("012345678")).class_names)
    file.write_text("\n")
    one_line("is empty", lambda: Digits(prompts=str(file)).templates)


# -- built-in digits ---------------------------------------------------------------------------------------------------


def test_scikit_learns_digits() -> None:
    task = Digits(**SMALL, n_test=300, natural=["rendition"], n_natural=8)
    sets, (request,) = disjoint(task), task.requests()
    assert task.templates == ['a photo of the number: "{}".'] and task.class_names == list("0123456789")
    assert (len(request.x), len(sets["edit"]), len(sets["edit-held-out"])) == (1489, 300, 8)
    assert "rendition" in {x.shift for x in task.image_sets([request])}
    image = request.x.edited[0]
    assert image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8 and image.max() > 200
    assert request.x.clean is request.x.edited and set(request.x.labels) == set(range(10))
    again, other = Digits(**SMALL, n_test=300).requests()[0], Digits(**SMALL, n_test=300, seed=1).requests()[0]
    assert again.x.ids == request.x.ids != other.x.ids
    assert np.array_equal(again.x.edited[5], request.x.edited[5])
    few = Digits(**SMALL, n_train=40, n_test=20).requests()[0].x
    assert len(few) == 40
    few_sets = Digits(n_original=16, n_held_out=0, n_test=5, natural=[]).image_sets([request])
    assert [len(x) for x in few_sets] == [16, 5]
    assert len(Digits(n_original=16, n_held_out=0, n_test=5).image_sets([request])[-1]) == 128  # renditions


@pytest.mark.parametrize("kind", ["mnist", "svhn", "cards"])
def test_the_worlds_digits(kind: Any) -> None:
    task = SceneDigits(kind=kind, n_train=20, n_test=10, **SMALL)
    sets, (request,) = disjoint(task), task.requests()
    assert request.x.labels.tolist() == [*range(10), *range(10)]
    first = request.x.edited[3]
    assert first.shape == (48, 48, 3) and np.array_equal(first, request.x.edited[3])
    assert not np.array_equal(first, sets["edit"].load(3))


# -- files -------------------------------------------------------------------------------------------------------------


def arrays(n: int, shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(seed)
    return r.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % 10


def write_idx(path: Path, values: np.ndarray) -> None:
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as f:
        f.write(head + values.astype(np.uint8).tobytes())


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("place", [".", "MNIST/raw"])
def test_mnists_own_files(end: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    x, y = arrays(60, (28, 28), 0)
    xt, yt = arrays(20, (28, 28), 1)
    for stem, images, labels in (("train", x, y), ("t10k", xt, yt)):
        write_idx(folder / f"{stem}-images-idx3-ubyte{end}", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte{end}", labels)
    task = Mnist(path=str(tmp_path), **SMALL)
    sets, (request,) = disjoint(task), task.requests()
    assert (len(request.x), len(sets["edit"]), len(sets["edit-held-out"])) == (52, 20, 8)
    for k, name in enumerate(request.x.ids):
        i = int(name.rpartition("/")[2])
        assert np.array_equal(request.x.edited[k][:, :, 1], x[i]) and request.x.labels[k] == y[i]
    assert np.array_equal(sets["edit"].load(7)[:, :, 0], xt[7])
    (folder / f"t10k-labels-idx1-ubyte{end}").write_bytes(b"\x00\x00\x08")
    one_line("cannot be read as an idx file", lambda: Mnist(path=str(tmp_path), **SMALL).requests())
    (folder / f"t10k-labels-idx1-ubyte{end}").unlink()
    one_line("holds no t10k-labels-idx1-ubyte", lambda: Mnist(path=str(tmp_path), **SMALL).requests())


def test_npz_files(tmp_path: Path) -> None:
    x, y = arrays(60, (28, 28), 0)
    xt, yt = arrays(20, (28, 28), 1)
    np.savez(tmp_path / "both.npz", x_train=x, y_train=y, x_test=xt, y_test=yt)
    np.savez(tmp_path / "one.npz", x=x, y=y)
    np.savez(tmp_path / "test.npz", x=xt, y=yt)
    both, one = Mnist(path=str(tmp_path / "both.npz"), **SMALL), Mnist(path=str(tmp_path / "one.npz"), **SMALL)
    two = Mnist(path=str(tmp_path / "one.npz"), test=str(tmp_path / "test.npz"), **SMALL)
    assert [len(disjoint(t)["edit"]) for t in (both, one, two)] == [20, 12, 20]
    assert [len(t.requests()[0].x) for t in (both, one, two)] == [52, 40, 52]
    for name, held, match in (
        ("names", {"a": x, "b": y}, "holds a, b; arrays x and y"),
        ("floats", {"x": x / 255, "y": y}, "uint8"),
        ("lengths", {"x": x, "y": y[:-1]}, "60 images and 59 labels"),
        ("labels", {"x": x, "y": y + 5}, "has label 10; 0 to 9"),
        ("none", {"x": x[:0], "y": y[:0]}, "holds no images"),
        ("halves", {"x": x, "y": y + 0.5}, "whole numbers"),
        ("class", {"x": x[:5], "y": y[:5]}, 'the class "[0-9]" has no images to train on'),
    ):
        np.savez(tmp_path / f"{name}.npz", **held)
        one_line(match, lambda name=name: Mnist(path=str(tmp_path / f"{name}.npz"), **SMALL).requests())
    one_line("there is no such file", lambda: Mnist(path=str(tmp_path / "on.npz"), **SMALL).requests())
    for make in (Mnist, Svhn):
        one_line(r"task\.path must be given", make)


def test_svhns_own_files(tmp_path: Path) -> None:
    from scipy.io import savemat

    for part, n in (("train", 40), ("test", 10)):
        x, y = arrays(n, (32, 32, 3), n)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": x.transpose(1, 2, 3, 0), "y": np.where(y == 0, 10, y)[:, None]})
    task = Svhn(path=str(tmp_path), **SMALL)
    sets = disjoint(task)
    x, y = arrays(10, (32, 32, 3), 10)
    assert np.array_equal(sets["edit"].load(4), x[4]) and sets["edit"].labels.tolist() == y.tolist()
    (tmp_path / "test_32x32.mat").write_bytes(b"no such thing")
    one_line(r"cannot be read as SVHN's \.mat", lambda: Svhn(path=str(tmp_path), **SMALL).requests())


@pytest.mark.skipif(not (DATA / "mnist_train_1000.npz").is_file(), reason="needs the shared data")
def test_the_shared_mnist() -> None:
    task = Mnist(path=str(DATA / "mnist_train_1000.npz"), test=str(DATA / "mnist_test_1000.npz"), **SMALL)
    sets = disjoint(task)
    assert len(sets["edit"]) == 1000 and len(task.requests()[0].x) == 992


# -- options -----------------------------------------------------------------------------------------------------------


def test_options_are_checked_with_one_line() -> None:
    for options, match in (
        ({"seed": -1}, r"task\.seed=-1"), ({"n_train": 0}, r"task\.n_train=0"), ({"n_held_out": -1}, "n_held_out=-1"),
        ({"natural": {"imagenet-r": "x"}}, "names folders"), ({"natural": ["renditions"]}, "rendition"),
        ({"original_prompts": ["{}"]}, "do not go with"), ({"original": "x", "natural": ["snow"]}, "NAME: FOLDER"),
        ({"n_original": 0}, r"task\.n_original=0"),
    ):  # fmt: skip
        one_line(match, lambda options=options: Digits(**options))


def test_few_draws_may_miss_a_class(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Digits(n_train=3, **SMALL).requests()
    assert "classes have no images to train on" in caplog.text


# -- asked beside the model's own classes ------------------------------------------------------------------------------


class Heads:
    """A model with three classes of its own, and others behind them."""

    name, n_classes, classes, n_columns = "heads", 3, ("a", "b", "c"), 3

    def columns(self, words: Vocabulary) -> tuple[int, ...]:
        if words.class_names == self.classes:
            return (0, 1, 2)
        self.n_columns = 3 + len(words.class_names)
        return tuple(range(3, self.n_columns))


def a_set(words: Vocabulary | None, labels: list[int], classes: tuple[int, ...] | None = None) -> ImageSet:
    ids = tuple(f"{words}{i}" for i in range(len(labels)))
    return ImageSet(
        "edit", ids, np.array(labels), lambda i: np.zeros((2, 2, 3), np.uint8), words=words, classes=classes
    )


def test_labels_are_places_among_the_logits_of_all_heads() -> None:
    model: Any = Heads()
    words, own = Vocabulary.of(["x", "y"], ["{}"]), Vocabulary.of(["a", "b", "c"], ["{}"])
    plain, mine = a_set(None, [0, 2]), a_set(own, [1])
    assert in_columns([plain, mine], model) == [plain, mine] and n_answers(model) == 3
    found = in_columns([plain, mine, a_set(words, [1, 0]), a_set(words, [1], (1,))], model)
    assert [x.labels.tolist() for x in found] == [[0, 2], [1], [4, 3], [4]]
    assert [x.classes for x in found] == [(0, 1, 2), (0, 1, 2), (3, 4), (4,)] and n_answers(model) == 5
    one_line("has label 2, but 2 classes", lambda: in_columns([a_set(words, [2])], model))

    class Fixed:
        name, n_classes = "fixed", 3

    one_line("2 classes of its own .*scene-clip", lambda: in_columns([a_set(words, [0])], Fixed()))  # type: ignore[arg-type]
