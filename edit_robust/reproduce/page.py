"""The page of a paper: every figure and table beside the paper's own numbers and the verdicts of its claims."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edit_robust.core.files import write_text
from edit_robust.figures import by_name
from edit_robust.figures.frame import RunData
from edit_robust.report.findings import catalogue, findings, verdicts
from edit_robust.report.tables_language import Table
from edit_robust.reproduce.catalogue import HERE, PAPER, Item, Paper, items
from edit_robust.reproduce.compare import Published, beside
from edit_robust.reproduce.drawing import note_of, tables
from edit_robust.reproduce.making import Made, made
from edit_robust.reproduce.plan import WORKERS, Plan, folder
from edit_robust.runs.reader import Run

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Section:
    """An item as the page shows it. pictures: (file, caption).   claims: (what the paper says, verdict)."""

    item: Item
    note: str
    pictures: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    published: tuple[tuple[Published, str], ...]
    claims: tuple[tuple[str, str], ...]
    command: str
    runs: int
    missing: int
    minutes: float | None


def write_page(paper: Paper, outputs: Path) -> Path:
    """Write outputs/reproduce/PAPER/index.html from what lies there; gives back its path."""
    sections = [_section(plan, outputs) for item in items() if item.paper == paper if (plan := kept(item, outputs))]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    undone = [item for item in items() if item.paper == paper and not kept(item, outputs)]
    text = environment.get_template(TEMPLATE).render(paper=paper, sections=sections, undone=undone)
    path = outputs / "reproduce" / paper.name / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def kept(item: Item, outputs: Path) -> Plan | None:
    """How an item was last made; None for one that was not."""
    file = folder(outputs, item) / f"{item.name}.json"
    if not file.is_file():
        return None
    told = json.loads(file.read_text())
    return Plan(item, told["scale"], told["quick"], tuple(told["overrides"]), told["data"])


def _section(plan: Plan, outputs: Path) -> Section:
    item, found = plan.item, made(plan, outputs)
    told = _verdicts(found.runs)
    own = [(claim.says, told[claim.name]) for claim in catalogue() if claim.name in item.claims]
    place = folder(outputs, item)
    pictures = []
    for name in item.draws:
        file = f"{item.name}.png" if len(item.draws) == 1 else f"{item.name}-{name}.png"
        if (place / file).is_file():
            pictures.append((file, by_name(name).CAPTION))
    return Section(
        item=item,
        note=note_of(found),
        pictures=tuple(pictures),
        tables=tuple(tables(found)),
        published=tuple(beside(item.place, found.runs, told)),
        claims=tuple(own),
        command=command(plan),
        runs=len(found.runs),
        missing=found.missing,
        minutes=spent(found),
    )


@lru_cache(maxsize=64)
def _verdicts(runs: tuple[RunData, ...]) -> dict[str, str]:
    """The verdict of every finding by these runs; items that share all their runs ask once."""
    return verdicts(findings(runs))


def command(plan: Plan) -> str:
    """The command line that makes an item."""
    parts = ["edit-robust reproduce", plan.item.place]
    parts += ["--scale paper --go"] if plan.scale == PAPER else []
    parts += ["--quick"] if plan.quick else []
    return " ".join([*parts, *map(shlex.quote, plan.overrides)])


def spent(found: Made) -> float | None:
    """Minutes of WORKERS cores that an item's runs took, by their own records; None where these do not say."""
    told: list[Mapping[str, float]] = [
        Run(run.path).status.get("processor_seconds") or {} for run in found.runs if run.path is not None
    ]
    return sum(sum(one.values()) for one in told) / WORKERS / 60 if told and all(told) else None


def pages(made_: Sequence[Plan], outputs: Path) -> list[Path]:
    """The pages of the papers that some items belong to."""
    return [write_page(paper, outputs) for paper in dict.fromkeys(plan.item.paper for plan in made_)]
