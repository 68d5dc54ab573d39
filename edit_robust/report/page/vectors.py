"""Figures as vectors within the page: inline SVG whose names collide with nothing else there."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

import numpy as np
from markupsafe import Markup

from edit_robust.figures import style

#: A vector drawing larger than this (bytes) takes more than its picture would.
LIMIT = 400_000

_HEAD = re.compile(r"^.*?(?=<svg\b)|<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
_OPENING = re.compile(r"<svg\b[^>]*>")
_NAMED = re.compile(r'\sid="([^"]+)"')
_USED = re.compile(r'(?:href="#|url\(#)([^")]+)')
_FONT = re.compile(r'font-family:[^;"]*;\s*')  # the page names one, as wide as the one that the figure was laid out for
_STRAIGHT = re.compile(r' transform="rotate\(-?0 [^"]*"')
_NUMBER = re.compile(r"-?\d+\.\d{3,}(?!\d*e)")
_COORDINATES = re.compile(r'\b(?:d|points|x|y|transform)="(?!matrix)[^"]*"')


def picture(figure: style.Figure, name: str, alt: str) -> dict[str, Any]:
    """A figure for the page: `markup`, and whether it shows `photographs`, which stay as they are in the dark.

    name: before all names within it.   alt: what it shows, in words.
    """
    text = style.svg(figure)
    shows = any(np.ndim(np.asarray(image.get_array())) == 3 for ax in figure.axes for image in ax.get_images())
    if len(text) > LIMIT:
        source = f"data:image/png;base64,{b64encode(style.png(figure)).decode('ascii')}"
        return {"markup": Markup('<img src="{}" alt="{}">').format(source, alt), "photographs": shows}
    return {"markup": Markup(inline(text, name, alt)), "photographs": shows}


def inline(text: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page: without head, styles and unused names, the others made unique by `name`.

    Coordinates are in hundredths of a point. alt: what it shows, for those who do not see it.
    """
    text = _HEAD.sub("", text)
    used = set(_USED.findall(text))
    text = _NAMED.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', text)
    text = text.replace("xlink:href=", "href=").replace("url(#", f"url(#{name}-")
    text = _STRAIGHT.sub("", _FONT.sub("", text))
    text = _COORDINATES.sub(lambda m: _NUMBER.sub(_short, re.sub(r"\s+", " ", m[0])), text)
    text = re.sub(r">\s+<", "><", text)
    box = re.search(r'viewBox="([^"]+)"', text)
    width, height = (box[1] if box else "0 0 700 400").split(" ")[2:]
    label = str(Markup.escape(alt))
    size = f'style="--width: {width}" viewBox="0 0 {width} {height}"'
    opening = f'<svg {size} role="img" aria-label="{label}">'
    return _OPENING.sub(lambda _: opening, text, count=1).strip()


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
