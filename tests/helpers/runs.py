"""Small runs for tests: options that make one quick, and the command line in this process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edit_robust.cli import main
from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.messages import Ui
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runner import Experiment, execute
from edit_robust.runs import files, folder, ledger
from edit_robust.runs.reader import Run

VALUES = ["editor.v_num_grad_steps=3", "editor.mom2_n_samples=4", "editor.context_templates=bare"]
QUICK = {
    "rome": VALUES,
    "r-rome": VALUES,
    "p-rome": VALUES,
    "memit": [*VALUES, "editor.mom2_update_weight=10"],
    "ft": ["editor.num_steps=2"],
    "ft-l2": ["editor.num_steps=2"],
    "ft-unconstrained": ["editor.num_steps=2"],
}


def options(model: Path, facts: Path, outputs: Path, editor: str = "rome", *more: str) -> list[str]:
    """The options of a quick run of `editor` on four facts of a CounterFact file."""
    return [
        f"editor={editor}",
        "model=hf",
        f"model.path={model}",
        "device=cpu",
        "task=counterfact",
        f"task.path={facts}",
        "task.n_requests=4",
        "trajectory.every=2",
        "text_tokens=100",
        "figures=false",
        "tracker=none",
        f"paths.outputs={outputs}",
        *QUICK[editor],
        *more,
    ]


def override(given: list[str], *more: str) -> list[str]:
    """`given` with other values for some of its options; `trajectory=` takes `trajectory.every` away."""
    keys = {m.partition("=")[0] for m in more} | (
        {"trajectory.every"} if any("trajectory=" in m for m in more) else set()
    )
    return [*(g for g in given if g.partition("=")[0] not in keys), *more]


def prepared(given: list[str], model: CausalLM) -> Experiment:
    """The experiment of these options on a model that is loaded already."""
    made = experiment(compose(given))
    return Experiment(**{**made.__dict__, "model": lambda: model})


def go(made: Experiment) -> Run:
    return execute(made, Ui(quiet=True))


def records(run: Run) -> bytes:
    return (run.path / "records.jsonl").read_bytes()


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """What stands on stderr, which must be one line and no traceback."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1 and "Traceback" not in self.err, self.err
        return lines[0]


class CommandLine:
    """`edit-robust ...` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *args: str) -> Said:
        self.monkeypatch.setattr(sys, "argv", ["edit-robust", *args])
        self.capsys.readouterr()
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:  # Hydra's --info leaves a handler that would go on writing to this test's stderr
            root.handlers[:], root.level = handlers, level
        code = end.value.code
        out, err = self.capsys.readouterr()
        return Said(code if isinstance(code, int) else 0 if code is None else 1, out, err)


class KilledError(BaseException):
    """Stands for a kill: nothing of the program catches it but to clean up."""


@contextmanager
def fuse(after: int, half: bool = False, error: BaseException | None = None) -> Iterator[None]:
    """Let writing to disk number `after` fail: before the file takes its name, or in the middle of an appended line."""
    left = [after]
    append, sync = files.append, os.fsync

    def burnt() -> bool:
        left[0] -= 1
        return left[0] <= 0

    def bad_sync(handle: int) -> None:
        if burnt():
            raise error or KilledError
        sync(handle)

    def bad_append(path: Path, text: str) -> int:
        if half and left[0] <= 1:
            with path.open("ab") as f:
                f.write(text.encode()[: len(text) // 2])
            raise error or KilledError
        return append(path, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", bad_sync)
        for module in (folder, ledger):
            patch.setattr(module, "append", bad_append)
        yield


def made_until(editor: type, at: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the edit of request `at` be killed. -> the requests whose edits are made, as they are made"""
    made: list[str] = []
    edit = editor.edit  # type: ignore[attr-defined]

    def dies(self: Any, model: Any, requests: Any, state: Any) -> Any:
        if requests[0].id == str(at):
            raise KilledError
        made.append(requests[0].id)
        return edit(self, model, requests, state)

    monkeypatch.setattr(editor, "edit", dies)
    return made


def value_of(options: list[str], key: str) -> Any:
    return next(o.partition("=")[2] for o in options if o.startswith(f"{key}="))
