from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import CommandLine, options
from helpers.tiny import tiny_facts, write_json


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten facts in CounterFact's form."""
    return write_json(tmp_path_factory.mktemp("facts") / "facts.json", tiny_facts(10))


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    """The command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def quick(checkpoint: Callable[[str], Path], facts: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """(editor, *more) -> the options of a quick run in this test's own outputs folder."""
    return lambda editor="rome", *more: options(checkpoint("gpt2"), facts, tmp_path / "outputs", editor, *more)
