"""A search by Optuna: it finds the best, says the same again for the same seed, and refuses what makes no sense."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from edit_robust.config.compose import compose, expand, jobs
from edit_robust.config.objective import value_of
from edit_robust.config.searching import space_of
from edit_robust.core import UserError
from edit_robust.sweeps.search import Span, search, write_trials

SPACE = {"x": Span(0.01, 10.0, log=True), "layer": (0, 1, 2)}


def hill(options: list[dict[str, Any]], first: int) -> list[float | None]:
    """Highest at x = 0.5 in layer 1; nothing can be said of layer 2."""
    return [None if o["layer"] == 2 else -abs(math.log(o["x"] / 0.5)) - 3 * (o["layer"] != 1) for o in options]


def test_it_climbs_and_says_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'edit-robust[optuna]'")
    found = search(SPACE, hill, n_trials=40, at_once=3, seed=1)
    assert len(found.trials) == 40 and [t[0] for t in found.trials] == list(range(40))
    assert found.best is not None and found.best[2]["layer"] == 1 and 0.25 < found.best[2]["x"] < 1.0
    assert found.best[1] == max(v for _, v, _ in found.trials if not math.isnan(v))
    again = search(SPACE, hill, n_trials=7, at_once=3, seed=1)
    assert [t[2] for t in again.trials] == [t[2] for t in found.trials[:7]]
    assert [t[2] for t in search(SPACE, hill, 7, seed=2).trials] != [t[2] for t in again.trials]
    down = search(SPACE, hill, n_trials=7, direction="minimize", sampler="random", seed=1)
    assert down.best is not None and down.best[1] == min(v for _, v, _ in down.trials if not math.isnan(v))
    lines = write_trials(again, tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0] == "trial,value,x,layer" and len(lines) == 8


def test_a_search_in_which_nothing_succeeds_has_no_best() -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'edit-robust[optuna]'")
    assert search(SPACE, lambda options, first: [None] * len(options), n_trials=3).best is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"direction": "maximise"}, 'direction=maximise is no direction; did you mean "maximize"'),
        ({"sampler": "tpee"}, 'did you mean "tpe"'),
        ({"n_trials": 0}, "n_trials=0 must be at least 1"),
        ({"at_once": 0}, "n_jobs=0 must be at least 1"),
        ({"space": {}}, "nothing to search"),
        ({"space": {"x": Span(1.0, 0.5)}}, "x cannot be searched"),
        ({"space": {"x": Span(0.0, 0.5, log=True)}}, "x cannot be searched"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], says: str) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'edit-robust[optuna]'")
    with pytest.raises(UserError, match=says):
        search(**{"space": SPACE, "run": hill, "n_trials": 2, **wrong})


def test_options_of_the_command_line_become_a_space() -> None:
    given = [
        "a=interval(1,5)",
        "b=tag(log, interval(0.1, 1))",
        "c=x,y",
        "d=range(0,10,3)",
        "e=5",
        "a=int(interval(2,3))",
    ]
    space, fixed = space_of([*given, "f=1,2", "f=7"])
    assert space == {
        "a": Span(2, 3, whole=True),
        "b": Span(0.1, 1, log=True),
        "c": ("x", "y"),
        "d": Span(0, 9, whole=True, step=3),
    }
    assert fixed == ["e=5", "f=7"]
    assert expand(["editor.v_lr=tag(log,interval(0.1,1))"]) == [["editor.v_lr=0.1"], ["editor.v_lr=1.0"]]
    tried = {o for job in jobs(["experiment=learning-rate-search"]) for o in job}
    assert {"editor.v_lr=0.05", "editor.v_lr=2.0", "layer.index=2"} <= tried


def test_the_objective_is_a_number_of_the_summary() -> None:
    summary = {"S": 71.5, "final_S": 3, "perplexity": None, "editor": "rome"}
    assert value_of(summary, None) is None and value_of(summary, "S") == 71.5 and value_of(summary, "final_S") == 3.0
    assert math.isnan(value_of(summary, "perplexity") or 0.0)
    with pytest.raises(UserError, match=r'objective=finalS is no number .* did you mean "final_S"'):
        value_of(summary, "finalS")
    with pytest.raises(UserError, match="objective=editor is 'rome', and no number"):
        value_of(summary, "editor")
    assert compose(["objective=S"]).objective == "S"
