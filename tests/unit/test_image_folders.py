"""Class names, tables, class folders and archives of images."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.errors import fails
from helpers.pictures import NAMES, picture, save

from edit_robust.tasks.vision import folders
from edit_robust.tasks.vision.folders import listing
from edit_robust.tasks.vision.photographs import ClassNames, class_names, csv_table, imagenet_classes


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
