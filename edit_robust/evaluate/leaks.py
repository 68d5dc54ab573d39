"""Was an edit trained on images that it is judged by?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edit_robust.core.data import ImageRequest
from edit_robust.core.images import ImageSet


def leaks(requests: Sequence[ImageRequest], sets: Sequence[ImageSet]) -> Mapping[str, tuple[int, int]]:
    """Per request: how many evaluation images (of how many) an edit was trained on, in whatever guise.

    What stands before an @ in an image's name is the picture, what comes after it is its style.
    """
    found = {}
    for r in requests:
        used = [*r.x.ids, *(r.search.ids if r.search is not None else ())]
        trained = {i.partition("@")[0] for i in used}
        judged = [i.partition("@")[0] for x in sets if x.request in ("", r.id) for i in x.ids]
        found[r.id] = (sum(i in trained for i in judged), len(judged))
    return found
