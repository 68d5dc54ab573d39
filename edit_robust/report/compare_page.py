"""A comparison of editors as one self-contained page: no script, no font, no request."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from edit_robust.figures.board import Board
from edit_robust.figures.leaderboard import CAPTION, draw_board
from edit_robust.figures.style import png
from edit_robust.report.compare_cells import cost_cells, cost_headings, difference, full, heading, notes

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d9dee3; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9da7b1; --line: #363c44; --page: #14171a; } }
body { margin: 0 auto; max-width: 75rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
p, figcaption { color: var(--soft); max-width: 50rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; background: #fff; }
"""


def page(boards: Sequence[Board]) -> str:
    """The page of one comparison or several."""
    parts = [_section(one) for one in boards]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Editors side by side</title><style>{STYLE}</style></head><body>"
        f"<h1>Editors side by side</h1>{''.join(parts)}</body></html>\n"
    )


def _section(found: Board) -> str:
    costs = cost_headings(found)
    image = b64encode(png(draw_board(found), dpi=130)).decode("ascii")
    rows = [
        [
            entry.label,
            *(full(entry.marks[m.key], m) for m in found.metrics),
            *(cost_cells(entry.cost)[h] for h in costs),
        ]
        for entry in found.entries
    ]
    others = [entry for entry in found.entries if entry.label != found.reference]
    less: list[list[str | tuple[str, bool]]] = [
        [entry.label, *((difference(entry.marks[m.key], m), entry.marks[m.key].differs) for m in found.metrics)]
        for entry in others
    ]
    alt = escape(f"Editors side by side: {found.title}", quote=True)
    picture = f'<img src="data:image/png;base64,{image}" alt="{alt}">'
    return (
        f"<h2>{escape(found.title)}</h2>"
        f"<figure>{picture}<figcaption>{escape(CAPTION)}</figcaption></figure>"
        f"{_table('Means, intervals, ranks and cost', ['editor', *(heading(m) for m in found.metrics), *costs], rows)}"
        f"<p>{escape(' '.join(notes(found)))}</p>"
        f"<h3>Less {escape(found.reference)}</h3><p>Paired differences; bold: more than noise.</p>"
        f"{_table(f'Less {found.reference}', ['editor', *(m.short for m in found.metrics)], less)}"
    )


def _table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str | tuple[str, bool]]]) -> str:
    def cell(value: str | tuple[str, bool]) -> str:
        text, strong = value if isinstance(value, tuple) else (value, False)
        return f"<td><b>{escape(text)}</b></td>" if strong else f"<td>{escape(text)}</td>"

    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in headings)
    body = "".join(f"<tr>{''.join(cell(v) for v in row)}</tr>" for row in rows)
    label = escape(caption, quote=True)
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{whole}</div>'
