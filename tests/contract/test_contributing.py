"""CONTRIBUTING.md is true: its files, written as they stand there outside the package, run with its commands."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.runs import CommandLine

from edit_robust.runs.reader import Run, list_runs

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
FILES = {m[1]: text for _, text in BLOCKS if (m := re.match(r"# file: (\S+)\n", text))}
COMMANDS = [
    line for kind, text in BLOCKS if not kind for line in text.splitlines() if line.startswith("edit-robust run")
]
QUICK = ["tracker=none", "device=cpu", "figures=false", "text_tokens=100"]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's files, from which the commands are given."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in [n for n in sys.modules if n == "mine" or n.startswith("mine.")]:
        del sys.modules[name]


def go(say: CommandLine, outside: Path, command: str, *more: str) -> Run:
    """Give a command of the page, and the run that came of it."""
    said = say(*shlex.split(command)[1:], *QUICK, *more)
    assert said.code == 0, said.err
    (run,) = list_runs(outside / "outputs")
    assert run.complete
    return run


def commands(word: str) -> list[str]:
    found = [c for c in COMMANDS if word in c]
    assert found, f"the page has no command with {word}"
    return found


def test_two_files_each() -> None:
    assert {"measure", "editor", "task"} == {Path(f).parent.name for f in FILES if f.endswith(".yaml")}
    assert len([f for f in FILES if f.endswith(".py")]) == 4 and all(f.startswith("mine/") for f in FILES)
    assert len(COMMANDS) == 5


@pytest.mark.slow
def test_a_measure(say: CommandLine, outside: Path) -> None:
    (command,) = commands("plain-questions")
    run = go(say, outside, command, "editor.v_num_grad_steps=3", "editor.mom2_n_samples=20")
    rows = run.records[run.records.probe == "plain"]
    assert list(rows.step) == [0, 3] and (rows.n == 2).all()
    assert run.summary["plain_questions"] == 100 * rows.value.iloc[-1]
    assert run.arrays(3, "plain-questions")["right"].tolist() is not None and "ES" in run.summary
    assert [c.label for c in run.columns if c.key == "plain_questions"] == ["plain questions"]


@pytest.mark.slow
def test_a_measure_is_refused_where_a_model_lacks_what_it_needs(say: CommandLine, outside: Path) -> None:
    said = say(
        "run", "--config-dir", "mine/conf", "model=scene-cnn", "editor=local-ft", "measure=[images,plain-questions]"
    )
    assert said.code == 2 and "measure=plain-questions needs a model with scorer" in said.line


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("editor=noise"))
def test_an_editor(command: str, say: CommandLine, outside: Path) -> None:
    run = go(say, outside, command)
    norms = run.records[run.records.metric == "layer_delta_norm"].value
    assert len(norms) and norms.to_numpy() == pytest.approx(20.0 if "norm=20" in command else 1.0, rel=1e-5)


@pytest.mark.slow
def test_a_task(say: CommandLine, outside: Path) -> None:
    (command,) = commands("task=colours")
    run = go(say, outside, command, "editor.num_steps=2")
    assert run.summary["n_requests"] == 3 and set(run.examples.probe) == {"edit", "paraphrase", "neighbourhood"}


@pytest.mark.slow
def test_a_network(say: CommandLine, outside: Path) -> None:
    (command,) = commands("model=module")
    run = go(say, outside, command)
    assert run.summary["n_original_images"] == 16 and run.config["model"]["factory"] == "mine.net.make_net"
