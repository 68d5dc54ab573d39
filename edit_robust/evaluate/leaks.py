"""Was an edit trained on images that it is judged by?"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edit_robust.core.data import ImageRequest
from edit_robust.core.images import ImageSet, Pixels, Triples

#: Size and hash of a picture's pixels; None where it is not at hand.
Content = tuple[tuple[int, ...], str] | None


@dataclass(frozen=True)
class Picture:
    """A picture under its name, without the style that stands behind an @, and what it shows."""

    name: str
    content: Content


def leaks(requests: Sequence[ImageRequest], sets: Sequence[ImageSet]) -> Mapping[str, tuple[int, int]]:
    """Per request: how many evaluation images (of how many) an edit was trained on, in whatever guise.

    Two images are one picture where their pixels are the same, whatever their names, formats and folders. So they are
    where their names are the same (a crop of a photograph that is segmented is named after it), unless pixels of the
    same size say otherwise: two tables may each have a 0.png of their own. Of an image that was made from another
    (`clean@edited`) the clean one counts. Every picture of a set is read once. Sets of the
    probes `original` and `edit` count, which results are told of.
    """
    sets = [x for x in sets if x.probe in ("original", "edit")]
    judged = [list(_shown(x)) for x in sets]
    found = {}
    for r in requests:
        names: dict[str, set[Content]] = {}
        contents: set[Content] = set()
        for picture in _trained_on(r):
            names.setdefault(picture.name, set()).add(picture.content)
            contents.add(picture.content)
        mine = [p for x, some in zip(sets, judged, strict=True) if x.request in ("", r.id) for p in some]
        found[r.id] = (sum(_is_among(p, names, contents) for p in mine), len(mine))
    return found


def _is_among(picture: Picture, names: Mapping[str, set[Content]], contents: set[Content]) -> bool:
    """Whether a picture is one of those with these names and contents."""
    if picture.content is not None and picture.content in contents:
        return True
    same_name = names.get(picture.name, set())
    sizes = {content[0] for content in same_name if content is not None}
    return bool(same_name) and (picture.content is None or picture.content[0] not in sizes)


def _trained_on(request: ImageRequest) -> Iterator[Picture]:
    """The pictures that an edit was made with or its learning rate was chosen on, before and after their change."""
    for triples in (request.x, request.search):
        if isinstance(triples, Triples):
            names = [_name(i) for i in triples.ids]
            yield from _pictures(names, (triples.clean[k] for k in range(len(names))))
            if triples.edited is not triples.clean:  # labelled images, without a counterpart
                yield from _pictures(names, (triples.edited[k] for k in range(len(names))))


def _shown(images: ImageSet) -> Iterator[Picture]:
    """The pictures that a set shows, or that its images were made of; of one that the set does not give only the name
    is known. A picture that is shown in several styles is read once."""
    load, known = images.clean or images.load, dict[str, Content]()
    for k, name in enumerate(map(_name, images.ids)):
        if images.clean is None and images.probe == "edit" and "@" in images.ids[k]:
            yield Picture(name, None)
            continue
        if name not in known:
            known[name] = _content(load(k))
        yield Picture(name, known[name])


def _pictures(names: Sequence[str], pixels: Iterable[Pixels]) -> Iterator[Picture]:
    return (Picture(name, _content(x)) for name, x in zip(names, pixels, strict=True))


def _name(name: str) -> str:
    """The picture's name, as a path without `./`, `//` and `folder/..`."""
    return posixpath.normpath(name.partition("@")[0])


def _content(pixels: Pixels) -> Content:
    return pixels.shape, hashlib.sha256(pixels.tobytes()).hexdigest()
