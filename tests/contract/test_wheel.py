"""A built wheel, unpacked where no repository is, composes, checks and runs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder / "dist"), versions=["standard"])
    with zipfile.ZipFile(wheel) as z:
        z.extractall(folder / "site")
    return folder / "site"


def _command(site: Path, cwd: Path, *args: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "edit_robust.cli", *args]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_configs_and_assets(installed: Path) -> None:
    package = installed / "edit_robust"
    assert {p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")} == {
        p.relative_to(package / "conf") for p in (package / "conf").rglob("*.yaml")
    }
    for name in ("assets/fact-gpt/model.safetensors", "assets/fact-gpt/manifest.json", "report/report.html.j2"):
        assert (package / name).is_file(), name
    assert not (installed / "tests").exists() and not list(installed.rglob("__pycache__"))


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """The built-in model and world: the run's config is composed and checked first, as `check` does it."""
    given = ["task.n_requests=2", "editor.v_num_grad_steps=3", "editor.mom2_n_samples=20", "text_tokens=200"]
    out = _command(installed, tmp_path, "run", *given, "editor.context_templates=bare", "tracker=none", "figures=false")
    assert "outputs/runs/rome-fact-gpt-fact-world-sequential-" in out
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert (
        str(installed) not in (run / "records.jsonl").read_text() and '"git": {}' in (run / "status.json").read_text()
    )
