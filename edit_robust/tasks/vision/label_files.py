"""Labels of images that lie in one folder, without class folders: ImageNet's validation images as they are released.

A label file lies among the images. Known are

- tables: LOC_val_solution.csv (ImageId, PredictionString), or any .csv file with the columns path, label;
- text with a name and a label a line: `ILSVRC2012_val_00000001.JPEG 65`;
- text with a label a line, in the order of the images' names: indices, WordNet ids or names;
- ILSVRC2012_validation_ground_truth.txt, which numbers the classes in an order of its own: meta.mat of the development
  kit, which tells that order, must lie beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from edit_robust.core.errors import UserError, nearest
from edit_robust.tasks.reading import read_text
from edit_robust.tasks.vision.photographs import ClassNames, csv_table, imagenet_classes

GROUND_TRUTH, META, SOLUTION = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", ("ImageId", "PredictionString")
KINDS = (".txt", ".csv")
_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})")
_WNID = re.compile(r"n\d{8}")


def flat_labels(
    folder: Path, names: Sequence[str], classes: ClassNames | None, option: str
) -> tuple[tuple[int, ...], ClassNames | None]:
    """The label of every image of a folder, and the classes, as given or as the label file tells them (WordNet ids).

    names: the images' file names, sorted. Raises UserError where there is no label file or more than one, for images
    without a label, and for labels that are no class.
    """
    file = _label_file(folder, names, option)
    words = _words(file, names, option)
    if classes is None:
        classes = _told(file, words)
    where = f"{option}, {file}"
    if classes is not None:
        return tuple(classes.index(word, where) for word in words), classes
    return tuple(int(word) for word in words), None


def _label_file(folder: Path, names: Sequence[str], option: str) -> Path:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in KINDS and not p.name.startswith("."))
    if not found:
        raise UserError(
            f"{option}={folder}: {names[0]} lies in no class folder, and no file tells labels; put every image in a "
            f"folder named after its class, or a label file among the images ({GROUND_TRUTH} with {META}, "
            "LOC_val_solution.csv, or text with a name and a label a line), or give a .csv file with path, label"
        )
    if len(found) > 1:
        several = ", ".join(p.name for p in found[:4])
        raise UserError(f"{option}={folder}: which of {several} holds the labels? Leave one of them among the images")
    return found[0]


def _words(file: Path, names: Sequence[str], option: str) -> list[str]:
    """The label of every image as the file has it."""
    if file.suffix.lower() == ".csv":
        return _by_name(_table(file, option), names, file)
    lines = [(k, line.split(maxsplit=1)) for k, line in enumerate(read_text(file, option).splitlines(), 1)]
    lines = [(k, words) for k, words in lines if words]
    if not lines:
        raise UserError(f"{file} holds no labels")
    if file.name == GROUND_TRUTH:
        order = _order(file.parent / META, file)
        ids = [(k, words[0].strip()) for k, words in lines]
        if wrong := [(k, i) for k, i in ids if i not in order]:
            raise UserError(f"{file}, line {wrong[0][0]}: {wrong[0][1]!r} is no number of a class, 1 to {len(order)}")
        return _by_order([order[i] for _, i in ids], names, file)
    if all(len(words) == 1 for _, words in lines):
        return _by_order([words[0] for _, words in lines], names, file)
    if all(len(words) == 2 for _, words in lines) and _mostly_known([words[0] for _, words in lines], names):
        return _by_name([(f"{file}, line {k}", words[0], words[1].strip()) for k, words in lines], names, file)
    return _by_order([" ".join(words) for _, words in lines], names, file)  # names of classes have blanks in them


def _mostly_known(given: Sequence[str], names: Sequence[str]) -> bool:
    known = set(names) | {PurePosixPath(n).stem for n in names}
    return any(PurePosixPath(g).name in known for g in given)


def _table(file: Path, option: str) -> list[tuple[str, str, str]]:
    """Place in words, image and label of every row."""
    header = next(iter(read_text(file, option).splitlines()), "")
    columns = SOLUTION if SOLUTION[0] in [c.strip() for c in header.split(",")] else ("path", "label")
    rows = csv_table(file, option, columns, (), strict=False)
    # LOC_val_solution.csv: a class and its boxes, several times; the class is the first word.
    return [
        (w, row[columns[0]], row[columns[1]].split()[0] if columns is SOLUTION else row[columns[1]]) for w, row in rows
    ]


def _by_name(rows: Sequence[tuple[str, str, str]], names: Sequence[str], file: Path) -> list[str]:
    """Labels by the images' names, with or without folder and ending; rows about other images do not matter."""
    found: dict[str, str] = {}
    for where, name, word in rows:
        plain = PurePosixPath(name.replace("\\", "/")).name
        if found.setdefault(plain, word) != word:
            raise UserError(f"{where}: {plain} has the label {word}, but had {found[plain]} before")
    labels = [found.get(n, found.get(PurePosixPath(n).stem)) for n in names]
    if without := [n for n, word in zip(names, labels, strict=True) if word is None]:
        hint = nearest(without[0], list(found)[:1000], f"in {file.name}") if len(found) <= 1000 else ""
        more = f" and {len(without) - 1} others" if len(without) > 1 else ""
        raise UserError(f"{file} has no label for {without[0]}{more}" + (f"; {hint}" if hint else ""))
    return [word for word in labels if word is not None]


def _by_order(words: Sequence[str], names: Sequence[str], file: Path) -> list[str]:
    """A label a line: the n-th line is that of ILSVRC2012_val_n, else of the n-th name in their order."""
    numbers = [_NUMBERED.match(n) for n in names]
    if all(numbers):
        at = [int(m[1]) for m in numbers if m]
        if max(at) > len(words) or min(at) < 1:
            raise UserError(f"{file} has {len(words)} labels, and none for image number {max(at)}")
        return [words[k - 1] for k in at]
    if len(words) != len(names):
        raise UserError(
            f"{file} has {len(words)} labels, but there are {len(names)} images; a label a line needs as many lines as "
            "images (or lines with a name and a label)"
        )
    return list(words)


def _told(file: Path, words: Sequence[str]) -> ClassNames | None:
    """ImageNet's classes where labels are WordNet ids, None where they are indices; UserError for anything else."""
    if all(_WNID.fullmatch(w) for w in words):
        return imagenet_classes()
    if strange := [w for w in words if not w.isdigit()]:
        raise UserError(
            f'{file}: which class "{strange[0]}" stands for is unknown; name the model\'s classes: '
            "task.classes=imagenet, or a file with one name a line"
        )
    return None


def _order(meta: Path, file: Path) -> dict[str, str]:
    """ILSVRC2012's numbers of classes -> WordNet ids, from the development kit."""
    if not meta.is_file():
        raise UserError(
            f"{file} numbers the classes in an order of its own; put {META} beside it (data/{META} of "
            "ILSVRC2012_devkit_t12), or use LOC_val_solution.csv instead"
        )
    from scipy.io import loadmat

    try:
        synsets = loadmat(str(meta), squeeze_me=True)["synsets"]
        rows = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True)
        return {str(int(number)): str(wnid) for number, wnid, children in rows if not int(children)}
    except Exception as error:  # scipy has many words for a file that it cannot read
        raise UserError(f"{meta} is not {META} of ILSVRC2012_devkit_t12 ({type(error).__name__})") from error
