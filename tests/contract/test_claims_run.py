"""The scaling paper's claims asked of real runs: read from their folders, by the command line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers.runs import CommandLine, go, prepared

from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.report.claims_language import COLUMNS


@pytest.mark.slow
def test_runs_on_disk_fill_the_table(say: CommandLine, tmp_path: Path) -> None:
    """ROME and FT-C in two orders on the built-in model: six edits, asked again after every two."""
    common = ["model=fact-gpt", "task.n_requests=6", "trajectory.every=2", "measure=[answers,forgetting,edits,drift]"]
    common += ["figures=false", "tracker=none", f"paths.outputs={tmp_path / 'outputs'}"]
    quick = {"rome": ["editor.v_num_grad_steps=20", "editor.mom2_adjustment=false"], "ft": []}
    for editor, more in quick.items():
        for order in (0, 1):
            go(prepared([*common, f"editor={editor}", f"task.order={order}", *more], CausalLM(path="builtin:fact-gpt")))
    done = say("report", "--outputs", str(tmp_path / "outputs"), "--claims", str(tmp_path / "claims.csv"))
    assert done.code == 0 and not (tmp_path / "outputs" / "report.html").exists()
    table = pd.read_csv(tmp_path / "claims.csv")
    assert list(table.columns) == list(COLUMNS)
    faster = table[table.claim.str.startswith("FT-C forgets faster than ROME")].iloc[0]
    never = table[table.claim.str.startswith("FT-C never")].iloc[0]
    assert (never.units, never.seeds, never.models) == (2, 2, 1) and never.verdict == "not seen"
    assert faster.units in (0, 2) and set(table.verdict) <= {"agrees", "disagrees", "not seen"}
    gone = table[table.claim.str.startswith("MEND")]
    assert set(gone.note) == {"no runs of MEND"} and set(gone.verdict) == {"not seen"}
    assert say("report", "--outputs", str(tmp_path / "outputs"), "--claims", "claims.pdf").code != 0
