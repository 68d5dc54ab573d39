"""What draws and tells of runs imports no torch: it works where no model library is installed, and starts at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edit_robust

pytestmark = pytest.mark.slow

ROOT = Path(edit_robust.__file__).parent
ROOMS = ("figures", "report", "trackers", "evaluate/statistics", "evaluate/columns*.py", "runs/reader.py")
BAD = ("torch", "transformers", "timm", "open_clip", "matplotlib.pyplot")


def modules(room: str) -> list[str]:
    """The modules of a folder, or those that a pattern matches."""
    place = ROOT / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else sorted(ROOT.glob(room))
    assert files, room
    names = (".".join(["edit_robust", *file.relative_to(ROOT).with_suffix("").parts]) for file in files)
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("room", ROOMS)
def test_no_torch_and_no_pyplot(room: str) -> None:
    names = modules(room)
    code = f"""
import importlib, sys
bad = {BAD!r}
for name in {names!r}:
    importlib.import_module(name)
    print(*(name + " imports " + one for one in bad if one in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == [], done.stdout


def test_a_list_of_runs_needs_no_matplotlib() -> None:
    code = "import sys, edit_robust.report.grid; print(*(name in sys.modules for name in ('torch', 'matplotlib')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]
