"""The figure of downstream skill: a panel a task and protocol, both readings, floors and the unedited model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edit_robust.figures import applies
from edit_robust.figures.frame import RunData
from edit_robust.figures.language import downstream


def rows(probes: tuple[str, ...], seed: int) -> list[dict[str, object]]:
    """Records of 200 edits, every ten."""
    draw = np.random.default_rng(seed)
    found: list[dict[str, object]] = []
    for probe in probes:
        for n in range(0, 201, 10):
            values = {
                "f1_generated": (0.85 if n < 120 else 0.02) + 0.01 * draw.normal(),
                "f1_likelihood": (0.85 if n < 120 else 0.5) + 0.01 * draw.normal(),
            }
            values |= {"f1_constant": 1 / 3, "f1_coin": 0.5} if n == 0 else {}
            for metric, value in values.items():
                found.append(
                    {
                        **dict.fromkeys(("layer", "request"), ""),
                        **{"run": "r", "step": n, "alpha": 1.0, "n_edits": n, "scope": "model", "probe": probe},
                        **{"shift": "none", "severity": 0, "metric": metric, "value": value, "n": 200},
                    }
                )
    return found


def run(editor: str, order: int = 0, probes: tuple[str, ...] = ("sst2:gcf-4", "claims:world-2")) -> RunData:
    """200 edits; the generated answers collapse at 120, the likeliest ones fall to a coin."""
    config = {"trajectory": {"name": "sequential"}, "editor": {"name": editor}, "task": {"order": order}}
    return RunData(f"{editor}-{order}", pd.DataFrame(rows(probes, order)), config)


def test_a_panel_for_each_task_and_protocol() -> None:
    runs = [run("rome"), run("rome", 1), run("memit", probes=("sst2:gcf-4", "sst2:ume-0"))]
    drawn = downstream.draw(runs)
    assert [ax.get_title(loc="left") for ax in drawn.axes] == ["sst2 (gcf-4)", "claims (world-2)", "sst2 (ume-0)"]
    first, _, third = drawn.axes
    curves = [line for line in first.lines if len(line.get_xdata()) > 2]
    assert len(curves) == 4, "two editors, two readings"
    assert len([line for line in third.lines if len(line.get_xdata()) > 2]) == 2, "protocols do not share a panel"
    heights = {round(float(np.asarray(line.get_ydata())[0]), 1) for line in first.lines if len(line.get_xdata()) == 2}
    assert {0.0, 33.3, 50.0} <= heights
    assert min(curves[0].get_ydata()) == pytest.approx(0, abs=5)


def test_when_it_is_drawn() -> None:
    some = run("rome")
    assert applies(downstream, [some])
    single = RunData("x", some.records, {"trajectory": {"name": "single"}})
    before = RunData("y", some.records[some.records.step == 0], some.config)
    assert not downstream.wants(single) and not downstream.wants(before)
    assert "nothing was measured" in downstream.draw([]).axes[0].texts[0].get_text()
