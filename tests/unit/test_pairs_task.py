"""The task of one's own image pairs, the natural shifts beside it, and the script that makes pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.errors import fails
from helpers.pictures import NAMES, clean_of, pair_rows, pairs_task, picture, save, table
from helpers.runs import CommandLine

from edit_robust.core.errors import UserError
from edit_robust.core.image_files import read_image, read_mask
from edit_robust.core.images import ImageSet, Triples
from edit_robust.tasks.vision.pairs import Pairs, read_pairs, split_rows


def test_pairs_protocol(tmp_path: Path) -> None:
    task = pairs_task(tmp_path, pair_rows(tmp_path, 10, 2), classes=list(NAMES), n_original=6, concept="ground")
    (request,) = task.requests()
    train, search = request.x, request.search
    assert isinstance(train, Triples) and isinstance(search, Triples)
    assert (request.id, request.target, request.concept, request.style) == (
        "pairs", None, "ground", "edited",
    )  # fmt: skip
    original, edit = task.image_sets([request])
    assert isinstance(edit, ImageSet)
    assert (original.probe, edit.probe, edit.request, edit.shift, edit.classes) == (
        "original", "edit", "pairs", "none", None,
    )  # fmt: skip
    parts = [clean_of(ids) for ids in (train.ids, search.ids, edit.ids)]
    assert [len(p) for p in parts] == [4, 1, 5]
    assert len(set.union(*parts)) == 10
    assert (len(train), len(search), len(edit), len(original)) == (8, 2, 10, 6)
    clean, _, edited = train.ids[0].partition("@")
    assert np.array_equal(train.clean[0], read_image(tmp_path / clean))
    assert np.array_equal(train.edited[0], read_image(tmp_path / edited))
    assert train.mask(0).all()
    assert np.array_equal(edit.load(3), read_image(tmp_path / edit.ids[3].partition("@")[2]))
    assert edit.labels[3] == int(Path(edit.ids[3].partition("@")[0]).stem) % 4
    moments = task.moment_images()
    assert len(moments) == 4 and not set(moments.ids) & set(original.ids)
    assert task.classes == NAMES and task.reference_accuracies() is None
    again = pairs_task(tmp_path, pair_rows(tmp_path, 10, 2), classes=list(NAMES))
    assert again.requests()[0].x.ids == train.ids
    assert pairs_task(tmp_path, pair_rows(tmp_path, 10, 2), seed=1).requests()[0].x.ids != train.ids


def test_pairs_with_masks_names_and_splits(tmp_path: Path) -> None:
    half = np.zeros((12, 16), np.uint8)
    half[6:] = 255
    save(tmp_path / "m.png", half)
    rows = pair_rows(tmp_path, 6, mask_path="m.png", split=lambda i: ("train", "search", "val")[i % 3])
    for row in rows:
        row["label"] = NAMES[row["label"]]
    rows[0]["mask_path"] = ""
    task = pairs_task(tmp_path, rows, classes=list(NAMES))
    (request,) = task.requests()
    assert clean_of(request.x.ids) == {"clean/0.png", "clean/3.png"}
    assert request.x.mask(0).all() and np.array_equal(request.x.mask(1), half > 0)
    assert clean_of(request.search.ids) == {"clean/1.png", "clean/4.png"}
    assert request.x.labels.tolist() == [0, 3]
    for row in rows:
        row["split"] = row["split"].replace("search", "train")
    (request,) = pairs_task(tmp_path, rows, classes=list(NAMES)).requests()
    assert (len(request.x), len(request.search)) == (3, 1)
    (request,) = pairs_task(tmp_path, rows, classes=list(NAMES), search_share=0.0).requests()
    assert (len(request.x), len(request.search)) == (4, 0)


def test_pairs_of_different_sizes(tmp_path: Path) -> None:
    rows = pair_rows(tmp_path, 4)
    for name in ("clean/0.png", "edited/0_0.png"):
        save(tmp_path / name, picture(0, 20, 30))
    task = pairs_task(tmp_path, rows)
    sizes = {x.shape[:2] for r in task.requests() for t in (r.x, r.search) for x in t.clean}
    sizes |= {task.image_sets(task.requests())[1].load(i).shape[:2] for i in range(2)}
    assert sizes == {(12, 16), (20, 30)}


def test_a_small_split_leaves_something_to_train_on(tmp_path: Path) -> None:
    rows = read_pairs(table(tmp_path / "p.csv", pair_rows(tmp_path, 3)), None, "task.path")
    for n, counts in ((3, [1, 1, 1]), (2, [1, 0, 1]), (1, [1, 0, 0])):
        found = split_rows(rows[:n], 0.2, 0.5, 0)
        assert [sum(r.split == s for r in found) for s in ("train", "search", "val")] == counts
    fails("no pair is left for val & too few", pairs_task(tmp_path, pair_rows(tmp_path, 1)).requests)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "clean/none.png"}, '"path" & no file & 0.png'),
        ({"edited_path": "edited"}, '"edited_path" & no file'),
        ({"label": "cow"}, '"label" must be an index & task.classes'),
        ({"label": "-1"}, '"label" must be an index'),
        ({"edited_path": "small.png"}, "edited_path is 5 x 4 pixels, path is 16 x 12"),
        ({"mask_path": "small.png"}, "mask_path is 5 x 4 pixels, path is 16 x 12"),
        ({"mask_path": "zero.png"}, '"mask_path" & zero.png & zero everywhere'),
        ({"edited_path": "bad.png"}, "bad.png cannot be read as an image"),
        ({"split": "valid"}, '"split" is "valid" & did you mean "val"?'),
        ({"split": ""}, '"split" is ""'),
        ({"path": "clean/0.png", "split": "val"}, "is val, but clean/0.png is in train & line 2"),
        ({"path": "clean/0.png", "edited_path": "edited/0_0.png"}, "the same path and edited_path & line 2"),
    ],
)
def test_pairs_errors(tmp_path: Path, change: dict[str, str], words: str) -> None:
    save(tmp_path / "small.png", picture(0, 4, 5))
    save(tmp_path / "zero.png", np.zeros((12, 16), np.uint8))
    (tmp_path / "bad.png").write_bytes(b"bad")
    rows = pair_rows(tmp_path, 3, mask_path="", split=lambda i: ("train", "val", "train")[i])
    rows[2] |= change
    fails(f"pairs.csv, line 4 & {words}" if "bad" not in words else words, pairs_task(tmp_path, rows).requests)


def test_pairs_options_are_checked(tmp_path: Path) -> None:
    fails("task.original must be given & class folders", lambda: Pairs("p", None))
    fails("task.val_share=1.0", lambda: Pairs("p", "o", val_share=1.0))
    fails("task.n_original=0", lambda: Pairs("p", "o", n_original=0))
    fails("task.seed=-1", lambda: Pairs("p", "o", seed=-1))
    rows = pair_rows(tmp_path, 4)
    task = pairs_task(tmp_path, rows, classes=["cat", "dog"])
    fails('pairs.csv, line 4: "label": there is no class 2', task.requests)
    rows[3]["label"] = 9
    task = pairs_task(tmp_path, rows, classes=list(NAMES))
    fails('original.csv, line 5: "label" & no class 9', task.moment_images)
    fails("no such file", Pairs(str(tmp_path / "pair.csv"), "o").requests)
    with pytest.raises(UserError, match='did you mean "mask_path"'):
        pairs_task(tmp_path, pair_rows(tmp_path, 3, mask_pth="")).requests()


def test_natural_shifts(tmp_path: Path, folder: Path) -> None:
    rows = pair_rows(tmp_path, 4)
    natural = {"imagenet-r": str(folder), "imagenet-a": None}
    task = pairs_task(tmp_path, rows, classes=list(NAMES), natural=natural, n_natural=5)
    sets = task.image_sets(task.requests())
    assert [(s.probe, s.shift, s.classes, len(s)) for s in sets[2:]] == [
        ("original", "imagenet-r", (0, 1, 3), 5),
        ("original", "imagenet-r-unmasked", None, 5),
    ]
    save(folder / "fire truck" / "x.png", picture(0))
    sets = pairs_task(tmp_path, rows, classes=list(NAMES), natural=natural).image_sets([])
    assert [(s.shift, s.classes) for s in sets[1:]] == [("imagenet-r", None)]
    fails("task.natural.imagenet-r", lambda: pairs_task(tmp_path, rows, natural=natural).image_sets([]))


def test_natural_shifts_in_their_own_folders(tmp_path: Path) -> None:
    """V2's folders are positions in ImageNet's list; R's are WordNet ids below a folder of its own."""
    for name in ("0", "10", "2", "999"):
        save(tmp_path / "v2" / "imagenetv2-matched-frequency-format-val" / name / "x.png", picture(0))
    for name in ("n01443537", "n01440764"):
        save(tmp_path / "r" / "imagenet-r" / name / "x.png", picture(0))
    (tmp_path / "r" / "imagenet-r" / "README.txt").write_text("about")
    natural = {"imagenet-v2": str(tmp_path / "v2"), "imagenet-r": str(tmp_path / "r")}
    task = pairs_task(tmp_path, pair_rows(tmp_path, 4), classes="imagenet", natural=natural)
    found = {s.shift: (s.labels.tolist(), s.classes) for s in task.image_sets([])[1:]}
    assert found["imagenet-v2"] == ([0, 10, 2, 999], (0, 2, 10, 999)) and found["imagenet-r"] == ([0, 1], (0, 1))
    assert found["imagenet-r-unmasked"] == ([0, 1], None)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def test_make_pairs(tmp_path: Path, say: CommandLine) -> None:
    rows = pair_rows(tmp_path, 4)
    photos = [{"name": Path(r["path"]).stem, "class": r["label"] + 1, "author": "x"} for r in rows]
    source = table(tmp_path / "images.csv", photos)
    torch.save({"imgs": torch.full((2, 3, 10, 10), 1.0)}, tmp_path / "snow.pt")
    columns = ["--id-column", "name", "--label-column", "class", "--label-offset", "-1"]
    images_folder = ["--images", str(tmp_path / "clean")]
    given = [source, str(tmp_path / "snow.pt"), *columns, "--out", str(tmp_path / "out")]
    told = say("make-pairs", *given, *images_folder, "--variants", "2")
    assert told.code == 0 and "8 pairs of 4 photographs" in told.out
    task = Pairs(str(tmp_path / "out/pairs.csv"), str(tmp_path / "out/originals.csv"))
    (request,) = task.requests()
    x = request.x
    assert len(x) + len(request.search) + len(task.image_sets([request])[1]) == 8
    assert 0.3 < x.mask(0).mean() < 0.6 and (x.edited[0][x.mask(0)] == 255).all()
    assert np.array_equal(x.edited[0][~x.mask(0)], x.clean[0][~x.mask(0)])
    stem = int(Path(x.ids[0].partition("@")[0]).stem)
    assert x.labels[0] == stem % 4
    for wrong, words in (
        ([], "no image"),
        ([*images_folder, "--variants", "3"], "holds 2 textures"),
        ([*images_folder, "--share", "1"], "between 0 and 1"),
        ([*images_folder, "--masks", str(tmp_path / "edited")], "none is called"),
        ([*images_folder, "--label-offset", "-9"], "is no index"),
    ):
        told = say("make-pairs", *given, *wrong)
        assert (
            told.code == 2 and told.err.startswith("edit-robust: ") and words in told.err and told.err.count("\n") == 1
        )


def test_make_pairs_from_folders_with_masks(tmp_path: Path, folder: Path, say: CommandLine) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    save(tmp_path / "snow.png", np.full((9, 9, 3), 255, np.uint8))
    half = np.zeros((12, 16), np.uint8)
    half[6:] = 255
    for path in folder.rglob("*.png"):
        save(tmp_path / "masks" / f"{path.parent.name}_{path.name}", half)
    given = [str(folder), str(tmp_path / "snow.png"), "--classes", str(tmp_path / "names.txt")]
    masks = ["--masks", str(tmp_path / "masks"), "--out", str(tmp_path / "out")]
    assert say("make-pairs", *given, *masks).code == 0
    rows = read_pairs(str(tmp_path / "out/pairs.csv"), None, "task.path")
    assert [r.label for r in rows] == [0, 0, 1, 1, 3, 3]
    assert np.array_equal(read_mask(rows[0].mask or ""), half > 0)
