"""Draw an item from its runs, and say on it what was left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from edit_robust.core.files import write_text
from edit_robust.figures import by_name, suited
from edit_robust.figures.drawn import drawn
from edit_robust.figures.frame import RunData
from edit_robust.report import claims, claims_language, claims_patching, tables_language
from edit_robust.report.tables_language import Table
from edit_robust.reproduce.catalogue import Item
from edit_robust.reproduce.making import Made
from edit_robust.reproduce.plan import folder

FORMATS = ("png", "pdf")


def _claims(runs: Sequence[RunData]) -> Table | None:
    """The claims about edits of image classifiers."""
    table = claims.claims(runs)
    lines = tuple(tuple(text.replace("|", "/") for text in line) for line in claims.cells(table))
    title = "What the vision paper says of edits, and what these runs show"
    return Table("claims", title, claims.NOTE, tuple(claims.TITLES), lines) if lines else None


#: Tables by the names that the catalogue has for them; None where the runs have no numbers for one.
TABLES: dict[str, Callable[[Sequence[RunData]], Table | None]] = {
    "claims": _claims,
    "claims-patching": lambda runs: _unless_empty(claims_patching.TEXT.as_table(claims_patching.claims(runs))),
    "claims-language": lambda runs: _unless_empty(claims_language.TEXT.as_table(claims_language.claims(runs))),
    "distances": tables_language.distances,
    "collapse": tables_language.alone_and_in_sequence,
}


def _unless_empty(table: Table) -> Table | None:
    return table if table.lines else None


def tables(made: Made) -> list[Table]:
    """The tables of an item that its runs have numbers for."""
    found = [TABLES[name](made.runs) for name in made.plan.item.tables]
    return [table for table in found if table is not None]


def note_of(made: Made) -> str:
    """What stands below a figure's title: that it is a quick look, that runs are missing, that options were given."""
    parts = [made.plan.note]
    if made.missing:
        parts.append(f"{made.missing} runs are missing")
    told = [o for o in made.plan.overrides if not o.lstrip("+~").startswith(("hydra", "paths", "tracker", "figures"))]
    if told:
        parts.append("with " + " ".join(told))
    return "; ".join(part for part in parts if part)


def draw(made: Made, outputs: Path) -> list[Path]:
    """Draw an item's figures, or write its tables, as outputs/reproduce/PAPER/ITEM.*; gives back what was written."""
    item, note = made.plan.item, note_of(made)
    out = folder(outputs, item)
    out.mkdir(parents=True, exist_ok=True)
    runs = [of_shifts(run, item) for run in made.runs]
    written: list[Path] = []
    for name in item.draws:
        module = by_name(name)
        stem = out / (item.name if len(item.draws) == 1 else f"{item.name}-{name}")
        written += drawn(module, suited(module, runs), stem, FORMATS, note)
    found = tables(made)
    if found:
        path = out / f"{item.name}.md"
        heading = f"*{note}*\n\n" if note else ""
        text = "\n".join(f"## {t.title}\n\n{heading}{t.to_markdown()}\n{t.caption}\n" for t in found)
        write_text(path, text)
        written.append(path)
    return written


def of_shifts(run: RunData, item: Item) -> RunData:
    """The run with the shifted images of the original task that an item is about: corruptions, or natural shifts."""
    if not item.only:
        return run
    tidy: pd.DataFrame = run.tidy
    shifted = (tidy["shift"] != "none") & (tidy["probe"] == "original")
    corrupted = pd.to_numeric(tidy["severity"], errors="coerce").fillna(0) > 0
    gone = shifted & ~corrupted if item.only == "corruptions" else shifted & corrupted
    return replace(run, records=tidy[~gone].reset_index(drop=True))
