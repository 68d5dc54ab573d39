"""One self-contained page about one or several runs: what was run, what came out, what the numbers mean.

The page loads nothing: styles, figures (vectors), pictures and the few lines of script stand within it, and without the
script everything is shown. `page/` works out its parts, `report.html.j2` puts them in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edit_robust.evaluate.collapse import STICKS_OUT
from edit_robust.figures import ALL, Module, applies, suited
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.grouping import APART, Group, flatten, groups
from edit_robust.figures.style import Figure
from edit_robust.report import findings
from edit_robust.report.glossary import explained
from edit_robust.report.grid import columns_of, grid, side_by_side
from edit_robust.report.numbers import amount, finite, share
from edit_robust.report.page import room
from edit_robust.report.page.cost import commands, cost_of, environment
from edit_robust.report.page.edits import chance, edits_of, examples_of
from edit_robust.report.page.flips import Album, gallery
from edit_robust.report.page.questions import answers
from edit_robust.report.page.vectors import picture
from edit_robust.report.sentence import verdict
from edit_robust.report.signs import signs_shown
from edit_robust.report.status import status_of
from edit_robust.report.tables_language import Table, tables
from edit_robust.runs.files import read_json

TEMPLATE = "report.html.j2"
#: Up to so many runs are shown unfolded.
OPEN = 3


class Drawn(dict[str, dict[str, Any]]):
    """Figures as the page shows them, by name, taken while files are drawn: `draw_all(..., also=drawn.take)`."""

    def take(self, module: Module, figure: Figure) -> None:
        """Keep one figure, with its title and how to read it."""
        self[module.NAME] = captioned(module, figure)


def write_report(runs: Sequence[RunData], out: Path, drawn: Drawn | None = None) -> Path:
    """Write the page about these runs to `out` (a file, or a folder that gets `report.html`); gives back its path.

    drawn: figures of these very runs as they are now; others are drawn here.
    """
    there = Drawn() if drawn is None else drawn
    path = out if out.suffix in (".html", ".htm") else out / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = labels_of(runs)
    space = room.of(len(runs))
    album = Album(space.pictures)
    sections = [section(run, labels[run.run_id], space, album) for run in runs]
    figures = [
        there.get(module.NAME) or captioned(module, module.draw(suited(module, runs)))
        for module in ALL
        if applies(module, runs)
    ]
    below = all_tables(runs)
    glossary = explained(column.key for run in runs for column in columns_of(run) if column.value is not None)
    page = environment_of_templates().get_template(TEMPLATE)
    text = page.render(
        title=title_of(runs),
        runs=sections,
        several=len(runs) > 1,
        unfolded=len(runs) <= OPEN,
        overview=overview(runs, labels) if len(runs) > 1 else None,
        figures=figures,
        tables=below,
        glossary=glossary,
        album=album.sources(),
        contents=contents(sections, figures, below, glossary),
        sticks_out=f"{STICKS_OUT:g}",
        style=within("style.css"),
        script=within("script.js"),
    )
    path.write_text(text, encoding="utf-8")
    return path


def environment_of_templates() -> Environment:
    """Templates with the filters that they use."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"code": code, "wide": wide, "chance": chance, "amount": amount, "share": share}
    return made


def within(name: str) -> Markup:
    """A file of the page's own, as it stands."""
    return Markup((Path(__file__).parent / "page" / name).read_text(encoding="utf-8").strip())


def code(text: str) -> Markup:
    """Plain words with `commands` in them."""
    parts = text.replace(" %", "\u00a0%").split("`")
    if len(parts) % 2 == 0:
        return Markup.escape(text.replace(" %", "\u00a0%"))
    return Markup("").join(
        Markup("<code>{}</code>").format(p) if i % 2 else Markup.escape(p) for i, p in enumerate(parts)
    )


def wide(heading: str) -> str:
    """The class of a heading: long ones take more room, so that they do not become towers."""
    return "wide" if len(heading) > 14 else ""


def title_of(runs: Sequence[RunData]) -> str:
    """What the page is about: the editors, the models, the tasks."""
    parts = []
    for key in ("editor.name", "model.name", "task.name"):
        names = list(dict.fromkeys(str(name) for run in runs if (name := setting(run.config, key))))
        if names:
            parts.append(", ".join(names[:4]) + (", ..." if len(names) > 4 else ""))
    return " · ".join(parts) or "Edited models"


def labels_of(runs: Sequence[RunData]) -> dict[str, str]:
    """Run -> what it is called on the page; runs that nothing tells apart are called by their ids, too."""
    found = {run.run_id: label_of(group, run) for group in groups(runs) for run in group.runs}
    names = list(found.values())
    return {run: f"{name} ({run})" if names.count(name) > 1 else name for run, name in found.items()}


def label_of(group: Group, run: RunData) -> str:
    """The group's label; repeats are told apart by their order and seed."""
    if len(group.runs) == 1:
        return group.label
    flat = [flatten(one.config) for one in group.runs]
    own = flatten(run.config)
    repeats = [
        f"{key.rpartition('.')[2]} {own.get(key)}"
        for key in ("task.order", "seed")
        if len({str(one.get(key)) for one in flat}) > 1
    ]
    return ", ".join([group.label, *repeats])


def contents(
    sections: Sequence[Mapping[str, Any]], figures: Sequence[Any], below: Sequence[Table], glossary: Sequence[Any]
) -> list[tuple[str, str]]:
    """(name, words) of the page's parts that are there."""
    if len(sections) == 1:
        words = {"numbers": "The numbers", "figures": "Figures", "edits": "Edit by edit", "images": "Image by image"}
        words |= {"corruptions": "Under each corruption", "details": "Cost, environment, command"}
        there = {*sections[0]["parts"], *(["figures"] if figures else [])}
        found = [(name, text) for name, text in words.items() if name in there]
    elif sections:
        found = [("overview", "All runs"), *([("figures", "Figures")] if figures else [])]
    else:
        return []
    found += [(f"table-{table.name}", table.title) for table in below]
    found += [("runs", "Run by run")] if len(sections) > 1 else []
    return [*found, *([("glossary", "What the numbers mean")] if glossary else [])]


def section(run: RunData, label: str, space: room.Room, album: Album) -> dict[str, Any]:
    """All that the page says about one run. `parts`: names of what there is something of."""
    status = read_json(run.path / "status.json") if run.path is not None else {}
    told = status_of(run)
    examples = examples_of(run)
    edits = edits_of(run, examples, space.edits)
    seen = gallery(run, album, space.flips)
    found: dict[str, Any] = {
        "id": run.run_id,
        "label": label,
        "state": told["state"],
        "error": told.get("error", ""),
        "verdict": verdict(run.summary, run.config).replace(" %", "\u00a0%"),
        "answers": answers(run, examples, status, edits),
        "grid": grid(columns_of(run), full=True),
        "edits": edits,
        "sets": seen.sets() if seen else [],
        "corruptions": seen.corruptions() if seen else [],
        "many_requests": (finite(run.summary, "n_requests") or 1) > 1,
        "cost": cost_of(status, finite(run.summary, "n_edits") or finite(run.summary, "n_requests")),
        "environment": environment(status, told.get("data", "")),
        **dict(zip(("command", "of_sweep"), commands(run.path, status), strict=True)),
        "config": outline({key: value for key, value in run.config.items() if key not in APART}),
    }
    there = {"numbers": bool(found["grid"].scores or found["grid"].others), "edits": found["edits"] is not None}
    there |= {"images": bool(found["sets"]), "corruptions": bool(found["corruptions"]), "details": True}
    return found | {"parts": [name for name, some in there.items() if some]}


def overview(runs: Sequence[RunData], labels: Mapping[str, str]) -> dict[str, Any]:
    """One line a run."""
    headings, lines = side_by_side(runs)
    return {
        "columns": headings,
        "lines": [(labels[run.run_id], run.run_id, cells) for run, cells in zip(runs, lines, strict=True)],
    }


def all_tables(runs: Sequence[RunData]) -> list[Table]:
    """Tables about several runs: editors side by side, autopsies, the papers' claims, warning signs."""
    found = [*tables(runs), findings.shown(runs)]
    if (signs := signs_shown(runs)) is not None:
        title = "Which edits broke the model, and whether one could have known"
        found.append(Table("signs", title, signs["note"], signs["columns"], signs["lines"]))
    return [table for table in found if table is not None]


def captioned(module: Module, figure: Figure) -> dict[str, Any]:
    """A figure with its title and how to read it."""
    found = picture(figure, module.NAME, f"{module.TITLE}. {module.CAPTION}")
    return {"name": module.NAME, "title": module.TITLE, "caption": module.CAPTION, **found}


def outline(config: Mapping[str, Any], depth: int = 0) -> str:
    """The config as indented `key: value` lines."""
    lines = []
    for key, value in config.items():
        pad = "  " * depth
        if isinstance(value, Mapping):
            lines += [f"{pad}{key}:", outline(value, depth + 1)] if value else [f"{pad}{key}: {{}}"]
        else:
            lines.append(f"{pad}{key}: {'' if value is None else value}".rstrip())
    return "\n".join(lines)
