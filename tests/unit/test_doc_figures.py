"""Every figure of the documentation can be made again."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edit_robust.config.compose import compose, jobs
from edit_robust.figures import by_name

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/make_doc_figures.py as a module."""
    spec = importlib.util.spec_from_file_location("make_doc_figures", ROOT / "scripts" / "make_doc_figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_image_has_its_commands(script: ModuleType) -> None:
    assert {p.stem for p in IMAGES.iterdir()} == set(script.MADE)
    for image in script.MADE.values():
        assert image.script or image.figure == by_name(image.figure).NAME
        assert not image.script or (ROOT / image.script.split()[0]).is_file()


def test_every_image_that_a_page_shows_is_there() -> None:
    shown = {
        (page.parent / name).resolve()
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == {p.resolve() for p in IMAGES.iterdir()}


@pytest.mark.thorough
def test_the_commands_compose(script: ModuleType) -> None:
    for lines in script.RUNS.values():
        for line in lines:
            options = [word for word in line.split() if word != "-m"]
            for job in jobs(options, multirun="-m" in line.split()):
                assert compose(job).editor.name


def test_the_list_names_every_figure(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_doc_figures.py"])
    script.main()
    said = capsys.readouterr().out
    assert all(f"{name}.png" in said for name in script.MADE) and "experiment=scene-methods" in said
