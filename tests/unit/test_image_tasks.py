"""The image tasks: decoding, tables, folders, archives, splits, and every error a user can run into."""

from __future__ import annotations

import ast
import csv
import importlib.util
import inspect
import io
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
import yaml
from beartype.door import is_bearable
from PIL import Image

from edit_robust.core import image_files as images
from edit_robust.core.errors import UserError
from edit_robust.core.image_files import image_size, read_image, read_mask
from edit_robust.core.images import ImageSet, Triples
from edit_robust.tasks.vision import folders
from edit_robust.tasks.vision.concept_style import ConceptStyle
from edit_robust.tasks.vision.folders import listing
from edit_robust.tasks.vision.pairs import Pairs, read_pairs, split_rows
from edit_robust.tasks.vision.photographs import ClassNames, class_names, csv_table, imagenet_classes
from edit_robust.tasks.vision.scene_world import SceneWorldTask
from edit_robust.tasks.vision.segments import paper_split, read_annotations
from edit_robust.tasks.vision.textures import Lazy, fitted, read_arrays, read_textures
from edit_robust.tasks.vision.vehicles_on_snow import VehiclesOnSnow

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
TASKS = (Pairs, VehiclesOnSnow, ConceptStyle, SceneWorldTask)
NAMES = ("cat", "dog", "fire truck", "tank")


def shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"{path} is not here")
    return SHARED / path


def fails(words: str, make: Any) -> str:
    """The one-line message of the UserError that `make` raises; it holds every one of `words`, split at " & "."""
    with pytest.raises(UserError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words.split(" & "):
        assert word in message, f"{word!r} is not in {message!r}"
    return message


def picture(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def table(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


# --- pixels -----------------------------------------------------------------------------------------------------------


def modes() -> dict[str, tuple[Image.Image, str, int]]:
    """name -> an image of 3 x 4 pixels, the ending to save it with, and the red of its first pixel as it is seen."""
    grey = np.full((3, 4), 100, np.uint8)
    rgba = np.dstack([np.full((3, 4, 3), 10, np.uint8), np.zeros((3, 4), np.uint8)])
    palette = Image.fromarray(grey).convert("P")
    cmyk = Image.fromarray(np.zeros((3, 4, 4), np.uint8), mode="CMYK")
    return {
        "grey": (Image.fromarray(grey), ".png", 100),
        "bits": (Image.fromarray(grey > 0), ".png", 255),
        "palette": (palette, ".png", 100),
        "alpha": (Image.fromarray(rgba), ".png", 255),
        "grey-alpha": (Image.fromarray(rgba).convert("LA"), ".png", 255),
        "cmyk": (cmyk, ".tif", 255),
        "16-bit": (Image.fromarray(np.full((3, 4), 25700, np.uint16)), ".png", 100),
        "32-bit": (Image.fromarray(np.full((3, 4), 25700, np.int32)), ".tif", 100),
        "float": (Image.fromarray(np.full((3, 4), 100 / 255, np.float32)), ".tif", 100),
    }


@pytest.mark.parametrize("mode", modes())
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image, ending, red = modes()[mode]
    path = save(tmp_path / f"x{ending}", image)
    found = read_image(path)
    assert (found.shape, found.dtype) == ((3, 4, 3), np.uint8)
    assert abs(int(found[0, 0, 0]) - red) <= 1
    assert image_size(path) == (3, 4)
    assert found.flags.writeable


def test_cmyk_jpeg_and_transparent_palette(tmp_path: Path) -> None:
    cmyk = Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).convert("CMYK")
    assert abs(int(read_image(save(tmp_path / "c.jpg", cmyk))[4, 4, 1]) - 200) < 6
    see_through = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    assert read_image(save(tmp_path / "p.png", see_through, transparency=0))[0, 0].tolist() == [255] * 3


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.png", picture(0, 4, 6), exif=exif)
    assert np.array_equal(read_image(path), np.rot90(picture(0, 4, 6), -1))
    assert image_size(path) == (6, 4)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return start + struct.pack(">I", 4) + b"IDATxxxx"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as an image (the file is empty)"),
        (b"GIF89a", "cannot be read as an image"),
        (b"not an image", "no known image format"),
        (png_header(30_000, 30_000), "too large (more than 200 million pixels)"),
        (png_header(16_000, 15_000), "too large"),
        (png_header(8, 8), "cannot be read as an image"),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    fails(f"{path} & {words}", lambda: read_image(path))


def test_damaged_small_and_absent_images(tmp_path: Path) -> None:
    whole = save(tmp_path / "x.png", picture(0, 64, 64)).read_bytes()
    for name, ending in (("cut.png", whole[: len(whole) // 2]), ("flipped.png", whole[:60] + b"xx" + whole[62:])):
        (tmp_path / name).write_bytes(ending)
        fails(f"{name} & cannot be read as an image", lambda name=name: read_image(tmp_path / name))
    jpeg = save(tmp_path / "x.jpg", picture(0, 64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    fails("cut.jpg & truncated", lambda: read_image(tmp_path / "cut.jpg"))
    fails("1 x 7 pixels", lambda: read_image(save(tmp_path / "thin.png", picture(0, 7, 1))))
    fails("no such file", lambda: read_image(tmp_path / "absent.png"))
    fails("no such file", lambda: image_size(tmp_path / "absent.png"))
    fails("cannot be read", lambda: read_image(tmp_path))


def test_masks(tmp_path: Path) -> None:
    half = np.zeros((4, 6), np.uint8)
    half[2:] = 1
    for scale in (1, 90, 255):
        mask = read_mask(save(tmp_path / "m.png", half * scale), (4, 6))
        assert mask.dtype == bool and np.array_equal(mask, half > 0)
    assert read_mask(save(tmp_path / "full.png", np.full((4, 6), 255, np.uint8))).all()
    fails("m.png & 6 x 4 & 4 x 6 & same size", lambda: read_mask(tmp_path / "m.png", (6, 4)))
    fails("zero everywhere", lambda: read_mask(save(tmp_path / "empty.png", half * 0)))


def test_textures(tmp_path: Path) -> None:
    torch.save({"imgs": torch.full((2, 3, 8, 8), 0.5)}, tmp_path / "a.pt")
    np.savez(tmp_path / "b.npz", imgs=np.full((3, 3, 8, 8), 7, np.uint8))
    assert [t[0, 0, 0] for t in read_textures(tmp_path / "a.pt")] == [128, 128]
    assert [t.shape for t in read_textures(tmp_path / "b.npz")] == [(8, 8, 3)] * 3
    save(tmp_path / "folder" / "x.png", picture(0))
    save(tmp_path / "folder" / "y.jpg", picture(1))
    assert len(read_textures(tmp_path / "folder")) == 2
    assert len(read_textures(tmp_path / "folder" / "x.png")) == 1
    assert fitted(picture(0, 20, 10), (7, 9)).shape == (7, 9, 3)
    (tmp_path / "none").mkdir()
    fails("task.textures & holds no images", lambda: read_textures(tmp_path / "none"))
    fails("task.textures & no such file or folder", lambda: read_textures(tmp_path / "absent"))
    torch.save({"img": torch.zeros(1, 3, 8, 8)}, tmp_path / "c.pt")
    fails('has no "imgs" & did you mean "img"?', lambda: read_textures(tmp_path / "c.pt"))
    torch.save({"imgs": torch.zeros(1, 8, 8, 3)}, tmp_path / "d.pt")
    fails("[1, 8, 8, 3] & [n, 3, height, width]", lambda: read_textures(tmp_path / "d.pt"))
    torch.save({"imgs": torch.full((1, 3, 8, 8), 99.0)}, tmp_path / "e.pt")
    fails("numbers from 0 to 1", lambda: read_textures(tmp_path / "e.pt"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/nowhere/evil").touch, ())


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"imgs": Evil()}, tmp_path / "x.pt")
    fails("x.pt cannot be read as plain tensors", lambda: read_arrays(tmp_path / "x.pt"))
    np.savez(tmp_path / "x.npz", imgs=np.array([{}], dtype=object))
    fails("x.npz cannot be read as named arrays", lambda: read_arrays(tmp_path / "x.npz"))
    (tmp_path / "y.pt").write_bytes(b"junk")
    fails("y.pt cannot be read", lambda: read_arrays(tmp_path / "y.pt"))


def test_lazy_is_a_sequence() -> None:
    made: list[int] = []
    lazy = Lazy(4, lambda i: made.append(i) or i * 10)  # type: ignore[func-returns-value]
    assert (len(lazy), lazy[2], lazy[-1], list(lazy), lazy[1:3]) == (4, 20, 30, [0, 10, 20, 30], [10, 20])
    assert made[0] == 2
    with pytest.raises(IndexError):
        lazy[4]


# --- classes ----------------------------------------------------------------------------------------------------------


def test_class_names(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    for given in (list(NAMES), str(tmp_path / "names.txt")):
        found = class_names(given)
        assert found is not None and found.names == NAMES
        assert [found.index(w, "x") for w in ("cat", "Fire_Truck", "firetruck", "3")] == [0, 2, 2, 3]
    assert class_names(None) is None
    names = ClassNames(NAMES)
    fails('here: no class is named "dgo" & did you mean "dog"?', lambda: names.index("dgo", "here"))
    fails("no class 4 & 0 to 3", lambda: names.index("4", "here"))
    fails("no class is named", lambda: names.index_within("", "here"))
    fails('"cat" is there twice', lambda: class_names(["cat", "cat"]))
    fails("holds no names", lambda: class_names([]))
    fails("task.classes & no such file", lambda: class_names(str(tmp_path / "nothing.txt")))


def test_imagenet_names_match_the_vehicles() -> None:
    names = imagenet_classes()
    assert len(names) == 1000
    vehicles = ("armytank", "carwheel", "firetruck", "motorscooter", "racingcar", "schoolbus", "trafficlight")
    assert [names.index_within(v, "x") for v in vehicles] == [847, 479, 555, 670, 751, 779, 920]
    assert (names.index("n01440764", "x"), names.names[0]) == (0, "tench")
    fails(
        '"motor scooterr"; did you mean "motor scooter"?',
        lambda: names.index_within("motor scooterr", "folder motor scooterr"),
    )
    fails('no class is named "zzqx"; 1000 are known, such as tench', lambda: names.index("zzqx", "x"))
    fails('"crane" fits 2 classes (134 crane, 517 crane); give the index', lambda: names.index("crane", "x"))
    fails('"wheel" fits 5 classes', lambda: names.index_within("wheel", "x"))


# --- tables and folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 'line 1: the column "path" is missing'),
        ("path,lable\na,1\n", 'unknown column "lable" & did you mean "label"?'),
        ("path,path,label\n", '"path" is there twice'),
        ("path\na\n", '"label" is missing; found path'),
        ("path,label\n", "holds no rows"),
        ("path,label\na,1\nb\n", "line 3: 1 cells for 2 columns"),
        ("path,label\na,1\n\n,2\n", 'line 4: "path" is empty'),
        ('path,label\n"a,1\n', "not valid CSV"),
        ("path,label\n\xff,1\n", "is not UTF-8"),
    ],
)
def test_csv_errors(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    fails(f"t.csv & {words}", lambda: csv_table(path, "task.path", ("path", "label"), ()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of cats, dogs and tanks, two images each."""
    for i, name in enumerate(("cat", "dog", "tank")):
        for j in range(2):
            save(tmp_path / "val" / name / f"{j}.png", picture(10 * i + j))
    return tmp_path / "val"


def packed(folder: Path, ending: str, prefix: str = "val/") -> Path:
    path = folder.parent / f"set{ending}"
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            for p in files:
                z.write(p, prefix + str(p.relative_to(folder)))
            z.writestr("__MACOSX/val/cat/._0.png", b"")
    else:
        with tarfile.open(path, "w") as t:
            for p in reversed(files):
                t.add(p, prefix + str(p.relative_to(folder)))
    return path


@pytest.mark.parametrize("kind", ["folder", ".tar", ".zip"])
def test_class_folders_and_archives(folder: Path, kind: str) -> None:
    place = folder if kind == "folder" else packed(folder, kind)
    (folder / "notes.txt").write_text("no image")
    found = listing(str(place), ClassNames(NAMES), "task.original")
    assert [i.removeprefix("val/") for i in found.ids] == [f"{n}/{j}.png" for n in ("cat", "dog", "tank") for j in "01"]
    assert found.labels == (0, 0, 1, 1, 3, 3)
    assert np.array_equal(found.load(found.ids[3]), picture(11))
    some = found.take([5, 0]).images("original", shift="rendition")
    assert (some.labels.tolist(), some.shift, some.source, len(some)) == ([3, 0], "rendition", place.name, 2)
    assert np.array_equal(some.load(0), picture(21))


def test_folders_go_by_index_wnid_or_name(tmp_path: Path, folder: Path) -> None:
    for name, index in (("n01443537", 1), ("7", 7)):
        save(tmp_path / name / name / "x.png", picture(0))
        assert listing(str(tmp_path / name), None, "task.original").labels == (index,)
    fails('"cat" stands for is unknown & task.classes=', lambda: listing(str(folder), None, "task.original"))


def test_folder_errors(tmp_path: Path, folder: Path) -> None:
    def read(path: Path, names: Sequence[str] = NAMES) -> Any:
        return lambda: listing(str(path), ClassNames(tuple(names)), "task.original")

    fails('folder tank: no class is named "tank" & bank', read(folder, ("cat", "dog", "bank")))
    (folder / "lynx").mkdir()
    fails("the class folder lynx holds no images", read(folder))
    save(folder / "flat.png", picture(0))
    fails("flat.png lies in no class folder", read(folder))
    (tmp_path / "none").mkdir()
    fails("holds no images", read(tmp_path / "none"))
    fails('no such folder; did you mean "val"?', read(tmp_path / "vall"))
    (tmp_path / "x.rar").write_bytes(b"")
    fails("neither a folder nor a .tar or .zip file", read(tmp_path / "x.rar"))
    for part in ("train", "val"):
        save(tmp_path / "both" / part / "cat" / f"{part}.png", picture(0))
        save(tmp_path / "odd" / f"{part}2" / "cat" / "x.png", picture(0))
    assert listing(str(tmp_path / "both"), ClassNames(NAMES), "x").ids == ("val/cat/val.png",)
    fails("class folders at several places", read(tmp_path / "odd"))


def test_archive_errors(tmp_path: Path, folder: Path) -> None:
    def read(path: Path) -> Any:
        return lambda: listing(str(path), ClassNames(NAMES), "task.original")

    fails("points out of the archive", read(packed(folder, ".tar", "../../")))
    fails("points out of the archive", read(packed(folder, ".zip", "../")))
    for name in ("bad.zip", "bad.tar"):
        (tmp_path / name).write_bytes(b"x" * 2000)
        fails(f"{name} cannot be read as an archive", read(tmp_path / name))
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as t:
        t.add(folder, "val")
    fails("compressed", read(tmp_path / "packed.tar"))
    with tarfile.open(tmp_path / "link.tar", "w") as t:
        t.add(folder / "cat" / "0.png", "val/cat/0.png")
        link = tarfile.TarInfo("val/dog/0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        t.addfile(link)
        broken = tarfile.TarInfo("val/dog/1.png")
        broken.size = 4
        t.addfile(broken, io.BytesIO(b"oops"))
    found = read(tmp_path / "link.tar")()
    assert found.ids == ("val/cat/0.png", "val/dog/1.png")
    fails("link.tar: val/dog/1.png cannot be read as an image", lambda: found.load("val/dog/1.png"))


def test_a_giant_member_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_MAX_BYTES", 10)
    fails("is too large", lambda: listing(str(packed(folder, ".zip")), ClassNames(NAMES), "task.original"))


# --- pairs ------------------------------------------------------------------------------------------------------------


def pair_rows(root: Path, n: int = 10, styles: int = 1, **more: Any) -> list[dict[str, Any]]:
    """n clean images with `styles` edited ones each, in folders beside the table."""
    rows = []
    for i in range(n):
        save(root / "clean" / f"{i}.png", picture(i))
        for s in range(styles):
            save(root / "edited" / f"{i}_{s}.png", picture(100 + 10 * i + s))
            values = {k: v(i) if callable(v) else v for k, v in more.items()}
            rows.append({"path": f"clean/{i}.png", "edited_path": f"edited/{i}_{s}.png", "label": i % 4} | values)
    return rows


def pairs_task(root: Path, rows: list[dict[str, Any]], **options: Any) -> Pairs:
    original = table(root / "original.csv", [{"path": r["path"], "label": r["label"]} for r in rows])
    return Pairs(**{"path": table(root / "pairs.csv", rows), "original": original} | options)


def clean_of(ids: Sequence[str]) -> set[str]:
    return {i.partition("@")[0] for i in ids}


def test_pairs_protocol(tmp_path: Path) -> None:
    task = pairs_task(tmp_path, pair_rows(tmp_path, 10, 2), classes=list(NAMES), n_original=6, concept="ground")
    (request,) = task.requests()
    train, search = request.x, request.extra["search"]
    assert isinstance(train, Triples) and isinstance(search, Triples)
    assert (request.id, request.target, request.extra["concept"], request.extra["style"]) == (
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
    assert clean_of(request.extra["search"].ids) == {"clean/1.png", "clean/4.png"}
    assert request.x.labels.tolist() == [0, 3]
    for row in rows:
        row["split"] = row["split"].replace("search", "train")
    (request,) = pairs_task(tmp_path, rows, classes=list(NAMES)).requests()
    assert (len(request.x), len(request.extra["search"])) == (3, 1)
    (request,) = pairs_task(tmp_path, rows, classes=list(NAMES), search_share=0.0).requests()
    assert (len(request.x), len(request.extra["search"])) == (4, 0)


def test_pairs_of_different_sizes(tmp_path: Path) -> None:
    rows = pair_rows(tmp_path, 4)
    for name in ("clean/0.png", "edited/0_0.png"):
        save(tmp_path / name, picture(0, 20, 30))
    task = pairs_task(tmp_path, rows)
    sizes = {x.shape[:2] for r in task.requests() for t in (r.x, r.extra["search"]) for x in t.clean}
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


# --- vehicles on snow -------------------------------------------------------------------------------------------------


def snow_folder(root: Path) -> Path:
    for i, name in enumerate(("firetruck", "tank")):
        for j in range(2):
            save(root / "snow" / "test" / name / f"{j}.jpg", picture(i + j))
    return root / "snow"


def segments_file(path: Path, labels: Sequence[int], idx: Sequence[int] | None = None, size: int = 8) -> Path:
    """A file of segmentations: image i is random, its mask the lower half."""
    n = len(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    masks = np.zeros((n, 1, size, size), np.uint8)
    masks[:, :, size // 2 :] = 1
    imgs = np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    held = {"imgs": imgs, "masks": masks, "labels": np.asarray(labels)}
    if idx is not None:
        held["idx"] = np.asarray(idx)
    if path.suffix == ".npz":
        np.savez(path, **held)
    else:
        torch.save({k: torch.from_numpy(v) for k, v in held.items()}, path)
    return path


def vehicles(root: Path, **options: Any) -> VehiclesOnSnow:
    save(root / "photos" / "0.png", picture(0))
    original = table(root / "original.csv", [{"path": "photos/0.png", "label": 2}])
    return VehiclesOnSnow(**{"snow": str(snow_folder(root)), "original": original, "classes": list(NAMES)} | options)


def test_vehicles_from_pairs(tmp_path: Path) -> None:
    pairs = table(tmp_path / "pairs.csv", pair_rows(tmp_path, 10))
    task = vehicles(tmp_path, pairs=pairs)
    (request,) = task.requests()
    assert (request.id, request.extra["concept"], request.extra["style"]) == ("vehicles-on-snow", "vehicles", "snow")
    assert (len(request.x), len(request.extra["search"])) == (8, 2)
    _, edit = task.image_sets([request])
    assert (edit.ids, edit.labels.tolist()) == (
        ("firetruck/0.jpg", "firetruck/1.jpg", "tank/0.jpg", "tank/1.jpg"), [2, 2, 3, 3],
    )  # fmt: skip
    assert edit.load(0).shape == (12, 16, 3) and task.moment_images().ids == ("photos/0.png",)
    assert len(vehicles(tmp_path, pairs=pairs, n_train=3).requests()[0].x) == 3
    rows = pair_rows(tmp_path, 4, split=lambda i: "val" if i else "train")
    (request,) = vehicles(tmp_path, pairs=table(tmp_path / "p2.csv", rows)).requests()
    assert clean_of(request.x.ids) == {"clean/0.png"} and len(request.extra["search"]) == 0


def test_vehicles_by_pasting(tmp_path: Path) -> None:
    save(tmp_path / "snow.png", np.full((20, 30, 3), 250, np.uint8))
    half = np.zeros((12, 16), np.uint8)
    half[6:] = 255
    save(tmp_path / "m.png", half)
    rows = [{k: r[k] for k in ("path", "label")} | {"mask_path": "m.png"} for r in pair_rows(tmp_path, 5)]
    given = {
        "table": table(tmp_path / "masks.csv", rows),
        "npz": str(segments_file(tmp_path / "road.npz", [2, 3, 2, 3, 3])),
    }
    for path in given.values():
        (request,) = vehicles(tmp_path, originals=path, textures=str(tmp_path / "snow.png")).requests()
        x = request.x
        assert (len(x), len(request.extra["search"])) == (4, 1)
        assert (x.edited[0][x.mask(0)] == 250).all()
        assert np.array_equal(x.edited[0][~x.mask(0)], x.clean[0][~x.mask(0)])
    released = segments_file(tmp_path / "snow" / "train" / "road:15.pt", [2, 3, 2, 3, 3])
    save(released.parent / "snow_texture.jpg", np.full((20, 30, 3), 250, np.uint8))
    assert len(vehicles(tmp_path).requests()[0].x) == 4


def test_vehicles_errors(tmp_path: Path) -> None:
    fails("task.snow and task.original must be given & EditingClassifiers", lambda: VehiclesOnSnow(None, None))
    fails("give one of them", lambda: VehiclesOnSnow("s", "o", pairs="p", originals="q"))
    fails("task.originals and task.textures must be given & task.pairs", vehicles(tmp_path).requests)
    save(tmp_path / "snow" / "test" / "tanc" / "x.png", picture(0))
    task = vehicles(tmp_path)
    fails('folder tanc & did you mean "tank"? & +task.labels.tanc=', lambda: task.image_sets([task_request()]))
    task = vehicles(tmp_path, labels={"tanc": "tank"})
    assert task.image_sets([task_request()])[1].labels.tolist() == [2, 2, 3, 3, 3]
    fails("task.labels.tanc & no class 9", lambda: vehicles(tmp_path, labels={"tanc": 9}).image_sets([task_request()]))
    fails("must end in .pt", vehicles(tmp_path, originals="x.txt", textures="y").requests)


def task_request() -> Any:
    from edit_robust.core.data import Request

    return Request("vehicles-on-snow", None, None)


def test_vehicles_on_real_snow() -> None:
    snow = shared("snow/test")
    task = VehiclesOnSnow(snow=str(snow.parent), original=str(snow), classes="imagenet")
    (edit,) = [s for s in task.image_sets([task_request()]) if s.probe == "edit"]
    assert len(edit) == 42 and set(edit.labels) == {479, 555, 670, 751, 779, 847, 920}
    assert all(min(edit.load(i).shape[:2]) > 200 for i in range(0, 42, 6))


# --- concept-style ----------------------------------------------------------------------------------------------------


def test_the_papers_split() -> None:
    labels = [0] * 20 + [1] * 30 + [2] * 19
    split = paper_split(labels, 3, n_train=10, rho=0.5, s_train=1, n_search=5, leak_free=True, seed=0)
    train, search, val = ({i for i, _ in part} for part in (split.train, split.search, split.val))
    assert {labels[i] for i in train} == {0, 1} and len(split.train) == 20 and len({v for _, v in split.train}) == 1
    assert len(split.search) == 10 and not train & search and not train & val and not search & val
    assert len(split.val) == (69 - 30) * 3
    leaky = paper_split(labels, 3, 10, 0.5, 1, 5, leak_free=False, seed=0)
    assert leaky.train == split.train and len(leaky.val) == len(split.val) + 20 * 2
    assert not set(leaky.val) & set(leaky.train)
    with pytest.raises(ValueError, match="30"):
        paper_split(labels, 3, 16, 0.5, 1, 5, True, 0)


@pytest.fixture
def concepts(tmp_path: Path) -> dict[str, str]:
    """Twelve images of three classes, one file of segmentations of all of them, two styles."""
    for i in range(12):
        save(tmp_path / "val" / NAMES[i // 4] / f"{i}.png", picture(i, 8, 8))
    order = np.random.default_rng(0).permutation(12)
    path = tmp_path / "seg" / "COCO" / "concept_ImageNet_COCO_road.pt"
    segments_file(path, [int(i) // 4 for i in order], order.tolist())
    (tmp_path / "styles").mkdir()
    torch.save({"imgs": torch.full((3, 3, 10, 10), 1.0)}, tmp_path / "styles" / "snow.pt")
    save(tmp_path / "styles" / "wood" / "a.png", picture(0))
    return {k: str(tmp_path / v) for k, v in (("original", "val"), ("segmentations", "seg"), ("styles", "styles"))}


def concept_task(places: dict[str, str], **options: Any) -> ConceptStyle:
    small = {"n_train": 1, "rho": 0.5, "n_search": 1, "classes": list(NAMES), "n_original": 4}
    return ConceptStyle(**places | small | options)


def test_concept_style(concepts: dict[str, str]) -> None:
    task = concept_task(concepts)
    snow, wood = task.requests()
    assert (snow.id, wood.id, snow.extra["concept"], snow.extra["style"]) == ("road-snow", "road-wood", "road", "snow")
    assert (len(snow.x), len(snow.extra["search"]), len(wood.x)) == (3, 3, 3)
    mask = snow.x.mask(0)
    assert mask.mean() == 0.5 and (snow.x.edited[0][mask] == 255).all()
    assert np.array_equal(snow.x.edited[0][~mask], snow.x.clean[0][~mask])
    original, edit, _ = task.image_sets([snow, wood])
    assert (len(original), len(edit), edit.request, edit.source) == (4, 6 * 3, "road-snow", "texture paste")
    assert len(set(edit.ids)) == len(edit) and edit.load(0).shape == (8, 8, 3)
    train, search, val = (clean_of(ids) for ids in (snow.x.ids, snow.extra["search"].ids, edit.ids))
    assert not train & val and not train & search and not search & val
    assert [NAMES.index(i.partition("/")[0]) for i in edit.ids] == edit.labels.tolist()
    assert len(concept_task(concepts, n_edit=5).image_sets([snow])[1]) == 5
    assert len(concept_task(concepts, n_variants=2).image_sets([snow])[1]) == 12
    leaky = concept_task(concepts, leak_free=False).image_sets([snow])[1]
    assert len(leaky) == 6 * 3 + 3 * 2
    assert [r.id for r in concept_task(concepts, pairs=["road-wood"]).requests()] == ["road-wood"]


def test_concept_style_stylised_and_annotations(tmp_path: Path, concepts: dict[str, str]) -> None:
    for i in range(12):
        for v in range(2):
            stylised = np.full((8, 8, 3), 20 * i + v, np.uint8)
            save(tmp_path / "stylised" / "ImageNet" / "snow" / str(v) / f"img_{i}.png", stylised)
    (tmp_path / "concept_road_161.json").write_text('{"class_0": "yes", "class_1": "no", "class_2": "yes"}')
    options = {"stylised": str(tmp_path / "stylised"), "pairs": "road-snow", "annotations": str(tmp_path)}
    task = concept_task(concepts, **options)
    (request,) = task.requests()
    assert set(request.x.labels) == {0, 2}
    position = {name: i for i, name in enumerate(task.originals.every.ids)}
    for k, name in enumerate(request.x.ids):
        clean, _, style = name.partition("@")
        assert (request.x.edited[k][request.x.mask(k)] == 20 * position[clean] + int(style[-1])).all()
    for path in (tmp_path / "stylised").rglob("*.png"):
        path.unlink()
    fails("img_ & no such file", lambda: request.x.edited[0])
    task = concept_task(concepts, **options | {"pairs": "road-wood"})
    fails("no folder wood/0", task.requests)


def test_concept_style_from_mask_images(tmp_path: Path, concepts: dict[str, str]) -> None:
    half = np.zeros((8, 8), np.uint8)
    half[4:] = 255
    for i in range(8):
        save(tmp_path / "masks" / "road" / f"{NAMES[i // 4]}_{i}.png", half)
    places = concepts | {"segmentations": str(tmp_path / "masks")}
    (request,) = concept_task(places, pairs="road-snow").requests()
    clean = tmp_path / "val" / request.x.ids[0].partition("@")[0]
    assert len(request.x) == 2 and np.array_equal(request.x.clean[0], read_image(clean))
    save(tmp_path / "masks" / "road" / "cat_99.png", half)
    fails("cat_99.png & no image of val is called so", concept_task(places, pairs="road-snow").requests)


def test_concept_style_errors(tmp_path: Path, concepts: dict[str, str]) -> None:
    fails("task.segmentations, task.styles must be given & releases", lambda: ConceptStyle("o", None, None))
    fails("task.rho=0.0", lambda: concept_task(concepts, rho=0.0))
    fails("no pair 'road-snwo' & did you mean \"road-snow\"?", concept_task(concepts, pairs="road-snwo").requests)
    fails("no class has 20 images & has 4", concept_task(concepts, n_train=10).requests)
    fails("all 12 images are used up", concept_task(concepts, n_train=4, rho=1.0).requests)
    fails("task.s_train=2 & wood has 1", concept_task(concepts, s_train=2).requests)
    for option, words in (("segmentations", "segmentations.tar.gz"), ("styles", "styles.tar.gz")):
        places = concepts | {option: str(tmp_path / "absent")}
        fails(f"task.{option} & no such folder & {words}", concept_task(places).requests)
    (tmp_path / "concept_raod_1.json").write_text("{}")
    task = concept_task(concepts, annotations=str(tmp_path))
    fails('no concept_road_*.json & did you mean "raod"?', task.requests)
    path = tmp_path / "seg" / "COCO" / "concept_ImageNet_COCO_road.pt"
    for labels, idx, words in (
        ([0, 0], [0, 4], "idx 4 has class 0, but file 4 of val by sorted path, dog/4.png, has class 1"),
        ([0, 0], [1, 1], '"idx" must hold different'),
        ([0, 9], [0, 1], "labels are from 0 to 9; there are 4 classes"),
    ):
        segments_file(path, labels, idx)
        fails(f"{path} & {words}", concept_task(concepts).requests)
    np.savez(path.with_suffix(".npz"), imgs=np.zeros((1, 3, 8, 8)), masks=np.zeros((1, 8, 9)), labels=np.zeros(1))
    fails("are both of road", concept_task(concepts).requests)
    path.unlink()
    fails("do not fit", concept_task(concepts).requests)
    np.savez(path.with_suffix(".npz"), imgs=np.zeros((1, 3, 8, 8)), masks=np.zeros((1, 8, 8)), labels=np.zeros(1))
    fails("every mask is zero", concept_task(concepts).requests)


def test_annotations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "concept_road_1.json"
    path.write_text('{"class_444": "yes", "class_7": "no"}')
    assert read_annotations(path) == {444}
    path.write_text('{"444": "yes"}')
    fails('the entry "444" is not of the form', lambda: read_annotations(path))
    real = shared("annotations/concept_road_1619633014.json")
    assert {444, 751, 920, 670} <= read_annotations(real)


# --- scene world ------------------------------------------------------------------------------------------------------


SMALL = {"n_train": 2, "n_labels": 2, "n_search": 4, "n_edit": 6, "n_validation": 16, "n_moments": 5, "n_natural": 8}


def test_scene_world() -> None:
    task = SceneWorldTask(**SMALL, natural=["rendition"])
    (request,) = task.requests()
    x, search = request.x, request.extra["search"]
    assert (request.id, request.extra["concept"], request.extra["style"]) == ("grass-snow", "grass", "snow")
    assert len(x) == 4 and len(set(x.labels)) == 2 and len(search) == 4
    for i in range(4):
        changed = (x.clean[i] != x.edited[i]).any(-1)
        assert changed.any() and not (changed & ~x.mask(i)).any()
    original, edit, drawn = task.image_sets([request])
    assert (len(original), len(edit), len(drawn), drawn.shift) == (16, 6, 8, "rendition")
    assert edit.load(2).shape == (48, 48, 3) and np.array_equal(np.bincount(original.labels), [1] * 16)
    variants = [{i[-1] for i in ids} for ids in (x.ids, search.ids, edit.ids)]
    assert variants[0] == {"0"} and variants[1] == {"1"} and not variants[2] & {"0", "1"}
    assert not clean_of(x.ids) & (clean_of(search.ids) | clean_of(edit.ids) | set(original.ids))
    moments = task.moment_images()
    assert len(moments) == 5 and not set(moments.ids) & set(original.ids)
    assert len(task.classes) == 16
    again = SceneWorldTask(**SMALL | {"n_edit": 3, "n_validation": 4})
    assert np.array_equal(again.requests()[0].x.edited[3], x.edited[3])
    assert np.array_equal(again.image_sets([request])[1].load(1), edit.load(1))
    assert not np.array_equal(SceneWorldTask(**SMALL, world_seed=1).requests()[0].x.clean[0], x.clean[0])


def test_scene_world_vehicles_labels_and_shifts() -> None:
    task = SceneWorldTask(**SMALL, pairs=["vehicles-on-snow"], natural=["snow"])
    (request,) = task.requests()
    assert (request.id, request.extra["concept"]) == ("vehicles-on-snow", "vehicles")
    assert set(request.x.labels) == {0, 1} and set(request.extra["search"].labels) <= set(range(6))
    _, edit, masked, free = task.image_sets([request])
    assert edit.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert (masked.shift, masked.classes, free.shift, free.classes) == (
        "snow", tuple(range(6)), "snow-unmasked", None,
    )  # fmt: skip
    chosen = SceneWorldTask(**SMALL, labels=["sheep"]).requests()[0].x.labels
    assert set(chosen) == {9}


def test_scene_world_filtered() -> None:
    if not (ROOT / "edit_robust/assets/scene-world/filtered.json").is_file():
        pytest.skip("the filtered set is not built")
    found = SceneWorldTask(**SMALL, natural=["filtered"]).image_sets([])[1]
    assert found.shift == "filtered" and len(found) == 8


def test_scene_world_errors() -> None:
    assert len(SceneWorldTask(pairs="all").pairs) == 64
    fails("no pair 'gras-snow' & did you mean \"grass-snow\"?", lambda: SceneWorldTask(pairs="gras-snow"))
    fails("task.pairs is empty", lambda: SceneWorldTask(pairs=[]))
    fails("no class 'cwo' & did you mean \"cow\"?", lambda: SceneWorldTask(labels=["cwo"]))
    fails("no shift 'snwo' & did you mean", lambda: SceneWorldTask(natural=["snwo"]))
    fails("task.s_train=5 & 6 variants", lambda: SceneWorldTask(s_train=5))
    fails("task.n_edit=0", lambda: SceneWorldTask(n_edit=0))
    fails("cow is no vehicle", SceneWorldTask(pairs="vehicles-on-snow", labels=["cow"]).requests)


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_constructor_is_a_typed_schema(task: type) -> None:
    signature, hints = inspect.signature(task.__init__), get_type_hints(task.__init__)
    for name, parameter in signature.parameters.items():
        if name == "self":
            continue
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert parameter.default is parameter.empty or is_bearable(parameter.default, hints[name])
        assert not is_bearable(object(), hints[name])
    assert task.asks == "images" and "\n" not in task.needs  # type: ignore[attr-defined]
    for method in ("requests", "image_sets", "moment_images", "reference_accuracies", "classes"):
        assert hasattr(task, method)


@pytest.mark.parametrize(
    ("name", "task"), zip(("pairs", "vehicles-on-snow", "concept-style", "scene-world"), TASKS, strict=True)
)
def test_the_config_holds_every_option_with_its_default(name: str, task: type) -> None:
    held = yaml.safe_load((ROOT / "conf" / "task" / f"{name}.yaml").read_text())
    assert held.pop("_target_") == f"{task.__module__}.{task.__name__}"
    parameters = dict(inspect.signature(task.__init__).parameters)
    parameters.pop("self")
    assert list(held) and set(held) == set(parameters)
    assert held["name"] == name
    for option, value in held.items():
        default = parameters[option].default
        if option != "natural" and default is not inspect.Parameter.empty:
            assert value == default or option == "n_original", option


def test_init_reads_nothing() -> None:
    Pairs("absent.csv", "absent")
    VehiclesOnSnow("absent", "absent", pairs="absent.csv")
    ConceptStyle("absent", "absent", "absent")
    SceneWorldTask()


@pytest.mark.parametrize("task", TASKS)
def test_slow_libraries_are_imported_inside_functions(task: type) -> None:
    folder = Path(inspect.getfile(task)).parent
    for path in folder.glob("*.py"):
        top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {alias.name for n in top for alias in n.names} | {getattr(n, "module", None) for n in top}
        assert not {str(n).partition(".")[0] for n in names} & {"timm", "torchvision", "transformers"}


# --- the script -------------------------------------------------------------------------------------------------------


def script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run scripts/make_pairs.py in this process; its exit code."""
    path = ROOT / "scripts" / "make_pairs.py"
    spec = importlib.util.spec_from_file_location("make_pairs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_pairs", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    with pytest.raises(SystemExit) as ended:
        module.main()
    return int(ended.value.code or 0)


def test_make_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pair_rows(tmp_path, 4)
    photos = [{"name": Path(r["path"]).stem, "class": r["label"] + 1, "author": "x"} for r in rows]
    source = table(tmp_path / "images.csv", photos)
    torch.save({"imgs": torch.full((2, 3, 10, 10), 1.0)}, tmp_path / "snow.pt")
    columns = ["--id-column", "name", "--label-column", "class", "--label-offset", "-1"]
    images_folder = ["--images", str(tmp_path / "clean")]
    given = [source, str(tmp_path / "snow.pt"), *columns, "--out", str(tmp_path / "out")]
    assert script(monkeypatch, *given, *images_folder, "--variants", "2") == 0
    assert "8 pairs of 4 photographs" in capsys.readouterr().out
    task = Pairs(str(tmp_path / "out/pairs.csv"), str(tmp_path / "out/originals.csv"))
    (request,) = task.requests()
    x = request.x
    assert len(x) + len(request.extra["search"]) + len(task.image_sets([request])[1]) == 8
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
        assert script(monkeypatch, *given, *wrong) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_make_pairs_from_folders_with_masks(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    save(tmp_path / "snow.png", np.full((9, 9, 3), 255, np.uint8))
    half = np.zeros((12, 16), np.uint8)
    half[6:] = 255
    for path in folder.rglob("*.png"):
        save(tmp_path / "masks" / f"{path.parent.name}_{path.name}", half)
    given = [str(folder), str(tmp_path / "snow.png"), "--classes", str(tmp_path / "names.txt")]
    masks = ["--masks", str(tmp_path / "masks"), "--out", str(tmp_path / "out")]
    assert script(monkeypatch, *given, *masks) == 0
    rows = read_pairs(str(tmp_path / "out/pairs.csv"), None, "task.path")
    assert [r.label for r in rows] == [0, 0, 1, 1, 3, 3]
    assert np.array_equal(read_mask(rows[0].mask or ""), half > 0)


def test_images_module_has_no_global_effect() -> None:
    assert Image.MAX_IMAGE_PIXELS == 89478485 and images.MAX_PIXELS == 200_000_000


def test_reference_networks_of_the_scene_world_know_every_shift() -> None:
    known = SceneWorldTask().reference_accuracies()
    assert known and len(known) >= 6
    for net in known:
        assert set(net) == {"model", "n", "accuracy"}
        assert {"original", "rendition", "filtered", "snow", "fog/1", "glass_blur/5"} <= set(net["accuracy"])
        assert all(0 <= v <= 1 for v in net["accuracy"].values())
