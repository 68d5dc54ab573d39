"""One self-contained page about one or several runs: what was run, what came out, what the numbers mean."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edit_robust.figures import ALL, Module, applies, style, suited
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.grouping import APART, Group, flatten, groups
from edit_robust.report import claims_language, claims_patching
from edit_robust.report.claims import shown
from edit_robust.report.glossary import explained
from edit_robust.report.grid import columns_of, grid, side_by_side
from edit_robust.report.sentence import verdict
from edit_robust.report.signs import signs_shown
from edit_robust.report.status import status_of
from edit_robust.report.tables_language import tables

TEMPLATE = "report.html.j2"
#: Up to so many runs are shown unfolded.
OPEN = 3


def write_report(runs: Sequence[RunData], out: Path, drawn: Path | None = None) -> Path:
    """Write the page about these runs to `out` (a file, or a folder that gets `report.html`); gives back its path.

    drawn: a folder with figures of these very runs as they are now; they are not drawn again.
    """
    path = out if out.suffix in (".html", ".htm") else out / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    labels = {run.run_id: label_of(group, run) for group in groups(runs) for run in group.runs}
    sections = [section(run, labels[run.run_id]) for run in runs]
    told = [claims_patching.shown(runs), claims_language.shown(runs)]
    page = environment.get_template(TEMPLATE).render(
        title=title_of(runs),
        runs=sections,
        unfolded=len(runs) <= OPEN,
        overview=overview(runs, labels) if len(runs) > 1 else None,
        figures=[inline(module, suited(module, runs), drawn) for module in ALL if applies(module, runs)],
        glossary=explained(column.key for run in runs for column in columns_of(run) if column.value is not None),
        claims=shown(runs),
        signs=signs_shown(runs),
        tables=[*tables(runs), *(table for table in told if table is not None)],
    )
    path.write_text(page, encoding="utf-8")
    return path


def title_of(runs: Sequence[RunData]) -> str:
    """What the page is about: the editors, the models, the tasks."""
    parts = []
    for key in ("editor.name", "model.name", "task.name"):
        names = list(dict.fromkeys(str(name) for run in runs if (name := setting(run.config, key))))
        if names:
            parts.append(", ".join(names[:4]) + (", ..." if len(names) > 4 else ""))
    return " · ".join(parts) or "Edited models"


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


def section(run: RunData, label: str) -> dict[str, Any]:
    """All that the page says about one run."""
    return {
        "id": run.run_id,
        "label": label,
        "verdict": verdict(run.summary, run.config),
        "grid": grid(columns_of(run), full=True),
        "status": status_of(run),
        "config": outline({key: value for key, value in run.config.items() if key not in APART}),
    }


def overview(runs: Sequence[RunData], labels: Mapping[str, str]) -> dict[str, Any]:
    """One line a run."""
    headings, lines = side_by_side(runs)
    return {
        "columns": headings,
        "lines": [(labels[run.run_id], run.run_id, cells) for run, cells in zip(runs, lines, strict=True)],
    }


def inline(module: Module, runs: Sequence[RunData], drawn: Path | None = None) -> dict[str, str]:
    """A figure as a data address, with its title and how to read it; taken from the folder `drawn` if it is there."""
    there = None if drawn is None else drawn / f"{module.NAME}.png"
    picture = there.read_bytes() if there and there.exists() else style.png(module.draw(runs))
    image = b64encode(picture).decode("ascii")
    return {"name": module.NAME, "title": module.TITLE, "caption": module.CAPTION, "source": image}


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
