from __future__ import annotations

from pathlib import Path

import pytest
from helpers.pictures import class_folders
from helpers.tiny import tiny_facts, write_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of cats, dogs and tanks, two images each."""
    return class_folders(tmp_path)


@pytest.fixture
def cf_path(tmp_path: Path) -> str:
    """Twelve facts in CounterFact's form."""
    return str(write_json(tmp_path / "cf.json", tiny_facts(12)))
