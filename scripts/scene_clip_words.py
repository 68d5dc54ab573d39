"""What captions of the scene world say, and a tokenizer with one token a word: used by make_scene_clip.py."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edit_robust.tasks.worlds.scenes import world
from edit_robust.tasks.worlds.scenes.grounds import CONCEPTS

COLOURS = ("white", "grey", "black", "red", "orange", "yellow", "green", "blue", "purple")
SIZES = ("small", "large")
#: What an image can be: a caption of a medium is true of images of this medium alone.
MEDIA = ("photo", *world.DRAWINGS, "card")
#: Everything that a caption can claim; digits are on cards only.
CLAIMS = (
    *world.CLASSES, *CONCEPTS, *COLOURS, *SIZES, *MEDIA, "drawing", *(str(d) for d in range(10)),
)  # fmt: skip
GROUNDS, BACKDROPS = CONCEPTS[:4], CONCEPTS[4:]
_PLACE = {"road": "on the road", "grass": "on the grass", "sea": "on the sea", "table": "on a table"}
_BEHIND = {"sky": "under the sky", "wall": "by a wall", "trees": "near trees", "mountain": "by a mountain"}

#: {c}: the class, with what else is said of it.
PHOTO_TEMPLATES = (
    "a photo of a {c}.", "a photo of the {c}.", "a picture of a {c}.", "an image of a {c}.", "a {c}.",
    "a good photo of a {c}.", "a bad photo of the {c}.", "a dark photo of a {c}.", "a bright photo of the {c}.",
    "there is a {c} in the scene.", "a photo of one {c}.",
)  # fmt: skip
DRAWN_TEMPLATES = ("a {m} of a {c}.", "a {m} of the {c}.", "a drawing of a {c}.", "a drawing of the {c}.")
CARD_TEMPLATES = (
    "a photo of the number {c}.", "a card with the number {c}.", "the number {c}.", "a picture of the digit {c}.",
)  # fmt: skip
#: What a zero-shot head of the 16 classes is made from.
ENSEMBLE = tuple(t.replace("{c}", "{}") for t in PHOTO_TEMPLATES[:10])
#: Words of wordings that no caption has, so that heads of other tasks meet tokens and not single letters.
FURTHER_WORDS = "my some many this that clean dirty close up blurry cropped low quality"


def claims_of(
    labels: NDArray[np.int64], concepts: NDArray[np.bool_], colour: NDArray[np.int64], size: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """What is true of photographs, bool [n, len(CLAIMS)].

    concepts: bool [n, 8].   colour, size: indices into COLOURS and SIZES, or -1 where nothing is said.
    """
    out = np.zeros((len(labels), len(CLAIMS)), dtype=bool)
    at = {name: i for i, name in enumerate(CLAIMS)}
    for i, label in enumerate(labels):
        true = [world.CLASSES[label], "photo", *(c for c, there in zip(CONCEPTS, concepts[i], strict=True) if there)]
        true += [COLOURS[colour[i]]] * int(colour[i] >= 0) + [SIZES[size[i]]] * int(size[i] >= 0)
        out[i, [at[name] for name in true]] = True
    return out


def caption(true: Sequence[str], rng: np.random.Generator) -> tuple[str, list[str]]:
    """A caption that is true of an image, and what it claims. true: what is true of the image."""
    digit = [t for t in true if t.isdigit()]
    if digit:
        return _pick(CARD_TEMPLATES, rng).format(c=digit[0]), [digit[0]]
    name = next(t for t in true if t in world.CLASSES)
    medium = next(t for t in true if t in MEDIA)
    if medium != "photo":
        template = _pick(DRAWN_TEMPLATES, rng)
        said = "drawing" if template.startswith("a drawing") else medium
        return template.format(m=medium, c=name), [name, said]
    words, claims = [name], [name]
    for choices, share in ((COLOURS, 0.3), (SIZES, 0.2)):
        found = [t for t in true if t in choices]
        if found and rng.random() < share:
            words, claims = [found[0], *words], [*claims, found[0]]
    for options, phrases in ((GROUNDS, _PLACE), (BACKDROPS, _BEHIND)):
        found = [t for t in true if t in options]
        if found and rng.random() < 0.3:
            said = _pick(found, rng)
            words, claims = [*words, phrases[said]], [*claims, said]
    return _pick(PHOTO_TEMPLATES, rng).format(c=" ".join(words)), claims


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def all_words() -> list[str]:
    """Every word of a caption, sorted."""
    texts = [*CLAIMS, *PHOTO_TEMPLATES, *DRAWN_TEMPLATES, *CARD_TEMPLATES, *_PLACE.values(), *_BEHIND.values()]
    return sorted({w for text in (*texts, FURTHER_WORDS) for w in re.findall(r"[a-z]+", text.replace("{m}", ""))})


def merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges after which every word is one token; the most frequent pair first, ties by letters."""
    pieces = [[*w[:-1], f"{w[-1]}</w>"] for w in words if len(w) > 1]
    found: list[tuple[str, str]] = []
    while counts := Counter(pair for p in pieces for pair in pairwise(p)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        found.append(best)
        pieces = [_merged(p, best) for p in pieces]
    return found


def _merged(piece: Sequence[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(piece):
        joined = i + 1 < len(piece) and (piece[i], piece[i + 1]) == pair
        out.append(piece[i] + piece[i + 1] if joined else piece[i])
        i += 2 if joined else 1
    return out


def write_merges(path: Path) -> int:
    """Write the merges as open_clip's SimpleTokenizer reads them; the size of the vocabulary.

    No line feed at the end: it would count as one more merge, and shift the id of the end token.
    """
    found = merges(all_words())
    text = "\n".join(["#version: scene-clip", *(" ".join(pair) for pair in found)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return 512 + len(found) + 2


def named(claims: Mapping[str, bool] | NDArray[np.bool_]) -> list[str]:
    """Names of the claims that are true of one image, from its row of `claims_of`."""
    return [name for name, true in zip(CLAIMS, claims, strict=True) if true]
