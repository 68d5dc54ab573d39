"""One table of every claim of both papers: the claim, the test that decides it, what was measured, and the verdict.

The lines are those of the tables of claims (`claims`, `claims_patching`, `claims_language`); findings.yaml says which
of them decide which claim. A claim that no run could be asked about stands there as well, as `not seen`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from edit_robust.core.errors import UserError
from edit_robust.core.files import write_text
from edit_robust.figures.frame import RunData
from edit_robust.report.claim_files import KINDS, MODULES
from edit_robust.report.tables_language import Table

COLUMNS = (
    "finding",
    "paper",
    "section",
    "says",
    "claim",
    "at",
    "test",
    "value",
    "low",
    "high",
    "units",
    "verdict",
    "note",
)
AGREES, DISAGREES, NOT_SEEN = "agrees", "disagrees", "not seen"
#: What a claim comes to where its lines say different things.
MIXED = "mixed"
NO_RUNS = "no run at hand can be asked"
HEADINGS = ("paper, section", "claim", "line", "decided by", "value [95 % interval]", "units", "verdict", "note")
TITLE = "What the papers claim, and what these runs show"
NOTE = (
    "A claim agrees or disagrees where the whole 95 % interval of its line lies on one side of zero (or the test says "
    "so at 5 %); everything else is `not seen`, with the reason. Values are fractions, set so that zero is no "
    "difference: 0.01 is one point in a hundred. Lines that the papers do not claim are marked so in their note."
)


@dataclass(frozen=True)
class Claim:
    """name: short.   says: the claim.   pattern: which lines decide it.   test: how they do."""

    name: str
    paper: str
    section: str
    says: str
    pattern: str
    test: str


@cache
def catalogue() -> tuple[Claim, ...]:
    """Every claim of both papers, in their order."""
    told = yaml.safe_load((Path(__file__).parent / "findings.yaml").read_text(encoding="utf-8"))
    return tuple(Claim(**one) for one in told["findings"])


def findings(runs: Sequence[RunData]) -> pd.DataFrame:
    """A row a claim and line of its test, see COLUMNS, in the order of the papers; values are fractions."""
    tables = [table for module in MODULES if len(table := module.claims(runs))]
    lines: list[dict[str, Any]] = [one for table in tables for one in table.to_dict("records")]
    rows = []
    for claim in catalogue():
        own = [line for line in lines if re.search(claim.pattern, line["claim"])]
        rows += [_row(claim, line) for line in own] or [_row(claim, None)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(claim: Claim, line: dict[str, Any] | None) -> dict[str, Any]:
    """One line of a claim; None: nothing could be asked."""
    about = {
        "finding": claim.name,
        "paper": claim.paper,
        "section": claim.section,
        "says": claim.says,
        "test": claim.test,
    }
    if line is None:
        unknown = {"value": np.nan, "low": np.nan, "high": np.nan, "units": 0}
        return {**about, "claim": claim.says, "at": "", **unknown, "verdict": NOT_SEEN, "note": NO_RUNS}
    kept = {key: line[key] for key in ("claim", "at", "low", "high", "units", "verdict", "note")}
    return {**about, "value": line["difference"], **kept}


def verdicts(table: pd.DataFrame) -> dict[str, str]:
    """finding -> `agrees`, `disagrees`, `not seen`, or `mixed (3 agree, 1 not seen)`, over the paper's own lines."""
    found: dict[str, str] = {}
    for name, rows in table.groupby("finding", sort=False):
        own = rows[~rows.note.str.contains("not the paper's claim")]
        counts = (own if len(own) else rows).verdict.value_counts()
        words = {AGREES: "agree", DISAGREES: "disagree", NOT_SEEN: NOT_SEEN}
        parts = [f"{counts[v]} {words.get(v, v)}" for v in (AGREES, DISAGREES, NOT_SEEN) if v in counts]
        found[str(name)] = str(counts.index[0]) if len(counts) == 1 else f"{MIXED} ({', '.join(parts)})"
    return found


# -- as text -----------------------------------------------------------------------------------------------------------


def cells(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The table as text, see HEADINGS."""
    out: list[tuple[str, ...]] = []
    for one in table.to_dict("records"):
        number = "" if not np.isfinite(one["value"]) else f"{one['value']:+.3f}"
        interval = f" [{one['low']:+.3f}, {one['high']:+.3f}]" if np.isfinite(one["low"]) else ""
        line = ": ".join(part for part in (one["at"], one["claim"] if one["claim"] != one["says"] else "") if part)
        units = str(one["units"]) if one["units"] else ""
        where = f"{one['paper']}, {one['section']}"
        out.append((where, one["says"], line, one["test"], number + interval, units, one["verdict"], one["note"]))
    return out


def as_table(table: pd.DataFrame) -> Table:
    """The findings as a page shows them."""
    lines = tuple(tuple(text.replace("|", "/") for text in line) for line in cells(table))
    return Table("findings", TITLE, NOTE, HEADINGS, lines)


def shown(runs: Sequence[RunData]) -> Table | None:
    """The findings for a page about several runs: the claims that these can be asked about, where one line has more
    than one unit."""
    if len(runs) < 2:
        return None
    table = findings(runs)
    asked = table[table.note != NO_RUNS]
    if not (asked.units > 1).any():
        return None
    found = as_table(asked)
    n, of = asked.finding.nunique(), len(catalogue())
    rest = f" These runs can be asked about {n} of the {of} claims; the others need other runs." if n < of else ""
    return replace(found, caption=found.caption + rest)


def write_findings(table: pd.DataFrame, path: Path) -> Path:
    """Write the table as .md, as documents show it, or as .csv with all digits; gives back the path.

    Raises UserError for another kind of file.
    """
    if path.suffix not in KINDS:
        raise UserError(f"--out={path} must end in {' or '.join(KINDS)}")
    text = table.to_csv(index=False) if path.suffix == ".csv" else f"{as_table(table).to_markdown()}\n{NOTE}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path
