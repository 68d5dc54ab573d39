"""The tables of the papers' claims as a file: .md as documents show them, .csv with all digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from edit_robust.core.errors import UserError
from edit_robust.core.files import write_text
from edit_robust.figures.frame import RunData
from edit_robust.report import claims, claims_language, claims_patching

KINDS = (".md", ".csv")
#: The vision paper's claims about edits, then those about patching; the scaling paper's.
MODULES = (claims, claims_patching, claims_language)


def write_claims(runs: Sequence[RunData], path: Path) -> Path:
    """Write what the runs show of the vision paper's and of the scaling paper's claims; gives back the path.

    Raises UserError for another kind of file, and where no claim can be asked of these runs.
    """
    if path.suffix not in KINDS:
        raise UserError(f"--claims={path} must end in {' or '.join(KINDS)}")
    found = [(module, table) for module in MODULES if len(table := module.claims(runs))]
    if not found:
        raise UserError("no claim can be asked of these runs: they edit no image classifier, and nothing in sequence")
    if path.suffix == ".md":
        text = "\n".join(module.to_markdown(table) for module, table in found)
    else:
        text = pd.concat([table for _, table in found], ignore_index=True).to_csv(index=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path
