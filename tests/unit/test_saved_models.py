"""Export says what is wrong before it loads a model. (That exported weights are right: tests/contract/test_runs.py.)"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edit_robust.core import UserError
from edit_robust.exports.exporting import export
from edit_robust.runs.reader import Run


def test_a_run_without_a_whole_change_and_a_full_folder(tmp_path: Path) -> None:
    run = Run(tmp_path / "a-run")
    (run.path / "deltas").mkdir(parents=True)
    (run.path / "config.yaml").write_text(yaml.safe_dump({"model": {"path": "nowhere"}}))
    with pytest.raises(UserError, match="a-run has kept no change of the weights"):
        export(run, tmp_path / "new")
    with pytest.raises(UserError, match="is not empty"):
        export(run, tmp_path)
    assert not (tmp_path / "new").exists()
