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


def test_no_torch_and_no_pyplot() -> None:
    """All rooms in one process, so that it starts once: the first module that is named is the one to look at."""
    names = ["edit_robust.report.grid", *(name for room in ROOMS for name in modules(room))]
    code = f"""
import importlib, sys
for i, name in enumerate({names!r}):
    importlib.import_module(name)
    bad = {BAD!r} + (("matplotlib",) if i == 0 else ())  # a list of runs needs not even matplotlib
    print(*(name + " imports " + one + ";" for one in bad if one in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.split() == [], done.stdout
