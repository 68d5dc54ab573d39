"""Folders of images with a label file among them, as ImageNet's validation images are released."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.errors import fails
from helpers.pictures import NAMES, pair_rows, pairs_task, picture, save
from scipy.io import savemat

from edit_robust.tasks.vision.folders import Listing, listing
from edit_robust.tasks.vision.label_files import GROUND_TRUTH, META
from edit_robust.tasks.vision.photographs import ClassNames, imagenet_classes

VAL = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3, 4)]
WNIDS = ("n01440764", "n03062245", "n15075141", "n01440764")  # tench, cocktail shaker, toilet paper, tench
LABELS = (0, 503, 999, 0)


def flat(folder: Path, names: Sequence[str] = VAL) -> Path:
    for i, name in enumerate(names):
        save(folder / name, picture(i), format="PNG")
    return folder


def labelled(folder: Path, name: str, text: str, classes: ClassNames | None = None) -> Listing:
    (folder / name).write_text(text)
    return listing(str(folder), classes, "task.original")


def meta(folder: Path, order: Sequence[str]) -> None:
    """A development kit's meta.mat: numbers from 1 in an order of their own, and classes above them in the tree."""
    rows = [(i, wnid, "words", 0) for i, wnid in enumerate(order, 1)] + [(len(order) + 1, "n00001740", "entity", 3)]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    savemat(folder / META, {"synsets": np.array(rows, dtype=kinds)[:, None]})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val.txt", "".join(f"{n} {k}\n" for n, k in zip(VAL, LABELS, strict=True))),
        ("val.txt", "".join(f"val/{n}  {w}\n" for n, w in zip(reversed(VAL), reversed(WNIDS), strict=True))),
        ("val.txt", "".join(f"{n.removesuffix('.JPEG')}\t{w}\n" for n, w in zip(VAL, WNIDS, strict=True)) + "\n"),
        ("synsets.txt", "\n".join(WNIDS)),
        ("labels.txt", "\n".join(map(str, LABELS)) + "\n"),
        ("labels.csv", "path,label\n" + "".join(f"{n},{w}\n" for n, w in zip(VAL, WNIDS, strict=True))),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n"
            + "".join(
                f"{n[:-5]},{w} 1 2 3 4 {w} 5 6 7 8\n" for n, w in zip(reversed(VAL), reversed(WNIDS), strict=True)
            ),
        ),
    ],
)
def test_every_kind_of_label_file(tmp_path: Path, name: str, text: str) -> None:
    folder = flat(tmp_path / "val")
    found = labelled(folder, name, text, imagenet_classes())
    assert (found.ids, found.labels, found.where) == (tuple(VAL), LABELS, "val")
    assert found.benchmark == "imagenet" and found.images("original").benchmark == "imagenet"
    assert np.array_equal(found.load(VAL[2]), picture(2))
    alone = listing(str(folder), None, "task.original")  # WordNet ids and indices need no names
    assert alone.labels == LABELS
    assert alone.benchmark == ("imagenet" if "n0144" in text else ""), "indices alone may be those of any data"


def test_the_development_kits_numbers_have_an_order_of_their_own(tmp_path: Path) -> None:
    folder = flat(tmp_path / "val")
    wrong = lambda: labelled(folder, GROUND_TRUTH, "2\n3\n1\n2\n")  # noqa: E731
    fails(f"{GROUND_TRUTH} & order of its own & meta.mat & LOC_val_solution.csv", wrong)
    meta(folder, ("n15075141", "n01440764", "n03062245"))
    assert wrong().labels == LABELS
    (folder / VAL[1]).unlink()  # some of the images: lines go by the numbers in their names
    assert listing(str(folder), None, "task.original").labels == (0, 999, 0)
    fails("line 3 & '9' & 1 to 3", lambda: labelled(folder, GROUND_TRUTH, "2\n3\n9\n2\n"))
    fails("has 3 labels & none for image number 4", lambda: labelled(folder, GROUND_TRUTH, "2\n3\n1\n"))
    (folder / META).write_bytes(b"nothing")
    fails("meta.mat is not meta.mat of ILSVRC2012_devkit_t12", wrong)


def test_ones_own_images(tmp_path: Path) -> None:
    names = ["b.png", "a.png", "c.png"]
    folder = flat(tmp_path / "mine", names)
    classes = ClassNames(NAMES)
    found = labelled(folder, "labels.txt", "cat\nfire truck\ntank\n", classes)
    assert (found.ids, found.labels, found.benchmark) == (("a.png", "b.png", "c.png"), (0, 2, 3), "")
    found = labelled(folder, "labels.txt", "b.png fire truck\nother.png dog\nc.png 1\na.png cat\n", classes)
    assert found.labels == (0, 2, 1)


def test_what_is_wrong_with_labels_is_one_line(tmp_path: Path) -> None:
    folder = flat(tmp_path / "mine", ["a.png", "b.png"])

    def read(name: str, text: str, classes: ClassNames | None = None) -> Any:
        for old in (*folder.glob("*.txt"), *folder.glob("*.csv")):
            old.unlink()
        return lambda: labelled(folder, name, text, classes)

    classes = ClassNames(NAMES)
    fails("a.png lies in no class folder & ground_truth.txt & path, label", lambda: listing(str(folder), None, "x"))
    fails("labels.txt has 3 labels & 2 images", read("labels.txt", "0\n1\n2\n"))
    fails("labels.txt has no label for b.png", read("labels.txt", "a.png 0\n"))
    fails("line 2: a.png has the label 1, but had 0 before", read("labels.txt", "a.png 0\na.png 1\nb.png 1\n"))
    fails('no class is named "lynx"', read("labels.txt", "a.png lynx\nb.png cat\n", classes))
    fails("there is no class 4; the 4 classes are 0 to 3", read("labels.txt", "a.png 4\nb.png 1\n", classes))
    fails('"lynx" stands for is unknown & task.classes=', read("labels.txt", "a.png lynx\nb.png cat\n"))
    fails("holds no labels", read("labels.txt", "\n\n"))
    fails('"label" is missing; found path, class', read("labels.csv", "path,class\na.png,0\n"))
    fails("is not UTF-8", lambda: (folder / "labels.csv").write_bytes(b"\xff") and listing(str(folder), None, "x"))
    read("labels.txt", "0\n1\n")
    (folder / "labels.txt").write_text("0\n1\n")
    (folder / "more.csv").write_text("path,label\n")
    fails("which of labels.txt, more.csv holds the labels?", lambda: listing(str(folder), None, "x"))


def test_a_task_reads_them_as_its_original_task(tmp_path: Path) -> None:
    folder = flat(tmp_path / "val")
    (folder / "val.txt").write_text("".join(f"{n} {w}\n" for n, w in zip(VAL, WNIDS, strict=True)))
    task = pairs_task(tmp_path, pair_rows(tmp_path, 10))
    task = type(task)(path=task.path, original=str(folder), classes="imagenet")
    original = task.image_sets(task.requests())[0]
    assert original.labels.tolist() == list(LABELS) and original.benchmark == "imagenet"
    assert np.array_equal(original.load(0), picture(0))
