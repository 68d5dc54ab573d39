"""The search for a learning rate: what it shows while it lasts, and when it gives a rate up."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.image_edits import EDITORS, bits, request, same, start
from helpers.tiny_nets import tiny_classifier
from rich.console import Console

from edit_robust.core import UserError
from edit_robust.core.work import Advance, Workspace
from edit_robust.editors.vision.helpers.options import Training
from edit_robust.editors.vision.rewriting import Rewriting
from edit_robust.editors.vision.supervised import Supervised
from edit_robust.messages import Ui

SEARCHING = [n for n in EDITORS if n != "rewriting-all"]
RATES = [0.001, 0.1, 1e30]  # the last one diverges at once


class Bars:
    """Notes progress bars: title, total, what was advanced."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, list[int]]] = []

    @contextmanager
    def __call__(self, title: str, total: int) -> Iterator[Advance]:
        steps: list[int] = []
        self.seen.append((title, total, steps))
        yield steps.append


@pytest.mark.parametrize("name", SEARCHING)
def test_every_step_is_shown_and_the_bar_comes_to_its_end(name: str, tmp_path: Path) -> None:
    model, editor = tiny_classifier("vgg"), EDITORS[name](lr="search")
    editor.training = type(editor.training)(**{**editor.training.__dict__, "lrs": tuple(RATES)})
    bars = Bars()
    state = start(editor, model, Workspace(tmp_path))
    model.progress = bars
    editor.edit(model, [request()], state)
    ((title, total, steps),) = bars.seen
    side_by_side = name in ("low-rank", "rewriting")
    assert title == "training with 3 learning rates"
    assert total == editor.training.epochs * (1 if side_by_side else 3)
    assert sum(steps) == total, "what a rate that stops early does not take is counted, too"
    assert steps.count(1) >= (6 if side_by_side else 12)


def test_a_bar_shows_what_is_left(tmp_path: Path) -> None:
    """Rich's bar, on a terminal: the seconds that are left stand in it."""
    ui, out = Ui(), io.StringIO()
    ui.console = Console(file=out, force_terminal=True, width=120, color_system=None)
    model, editor = tiny_classifier("vgg"), Supervised(lr_grid=[0.001, 0.01], max_epochs=200)
    state = start(editor, model, Workspace(tmp_path))
    model.progress = ui.progress
    editor.edit(model, [request()], state)
    shown = out.getvalue()
    assert "training with 2 learning rates" in shown and "/400" in shown and "0:00:" in shown


def long(name: str, patience: int | None) -> Any:
    """60 steps, looked at every second one."""
    if name == "rewriting":
        return Rewriting(restarts=2, lr_grid=[0.001, 0.1], num_steps=60, check_every=2, patience=patience)
    return EDITORS[name](max_epochs=60, check_every=2, patience=patience)


@pytest.mark.parametrize("name", SEARCHING)
def test_patience_gives_a_rate_up_and_leaves_the_choice_as_it_is(name: str, tmp_path: Path) -> None:
    model = tiny_classifier("vgg")
    found: dict[int | None, Any] = {}
    taken: dict[int | None, int] = {}
    before = bits(model)
    for patience in (None, 4, 1000):
        editor = long(name, patience)
        bars = Bars()
        state = start(editor, model, Workspace(tmp_path))
        model.progress = bars
        found[patience] = editor.edit(model, [request()], state)
        taken[patience] = bars.seen[0][2].count(1)
    assert taken[1000] == taken[None] > taken[4]
    assert all(
        a.tensors().keys() == b.tensors().keys() and all((a.tensors()[k] == b.tensors()[k]).all() for k in a.tensors())
        for a, b in zip(found[1000].delta.terms.values(), found[None].delta.terms.values(), strict=True)
    )
    step = int(found[4].info[0]["edit_steps"])
    assert step <= taken[4], "the weights kept are those of the best step seen"
    assert same(before, bits(model))


def test_patience_is_a_number_of_steps() -> None:
    with pytest.raises(UserError, match="patience"):
        Supervised(patience=0)
    how = Training((0.1, 1.0), 100, patience=20)
    assert [how.given_up(step, 10) for step in (20, 29, 30)] == [False, False, True]
    assert not Training((0.1, 1.0), 100).given_up(10**9, 10)
    warming = Training((0.1,), 1000, patience=20, optimizer="paint", warmup=500)
    assert not warming.given_up(500, 0) and not warming.given_up(519, 0) and warming.given_up(520, 0)
    assert warming.given_up(630, 610) and not warming.given_up(620, 610)
    assert not Training((0.1,), 100, select="none", patience=1).given_up(50, 0), "the last weights are kept: all steps"
