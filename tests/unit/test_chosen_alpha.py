"""Alpha chosen on held-out images by a constraint, and told apart from what it gives on the others."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from edit_robust.evaluate.chosen_alpha import HELD_OUT, alpha_for, chosen_alphas, held_out_curve
from edit_robust.evaluate.image_numbers import numbers
from edit_robust.evaluate.statistics import penalties as images

ALPHAS = (0.0, 0.5, 1.0, 1.5)


def rows(probe: str, accuracies: tuple[float, ...], shift: str = "none", severity: int = 0) -> list[dict[str, Any]]:
    """Records of the unedited model (alpha 0's accuracy) and of a point an alpha."""
    same = {"run": "r", "probe": probe, "shift": shift, "severity": severity, "layer": "", "metric": "accuracy"}
    same |= {"n": 100, "request": "" if probe.startswith("original") else "digits"}
    found = [{**same, "step": 0, "alpha": 1.0, "n_edits": 0, "scope": "unedited", "value": accuracies[0]}]
    for step, (alpha, value) in enumerate(zip(ALPHAS, accuracies, strict=True), start=1):
        point = {"step": step, "alpha": alpha, "n_edits": 1, "scope": "at-edit", "value": value, "request": "digits"}
        found.append({**same, **point})
    return found


def records(held_original: tuple[float, ...], held_corrupted: tuple[float, ...] | None = None) -> pd.DataFrame:
    found = rows("edit", (0.3, 0.6, 0.9, 0.95)) + rows("original", (0.95, 0.92, 0.90, 0.7))
    found += rows("edit-held-out", (0.32, 0.66, 0.88, 0.9)) + rows("original-held-out", held_original)
    found += rows("original", (0.7, 0.65, 0.5, 0.3), "fog", 3)
    if held_corrupted:
        found += rows("original-held-out", held_corrupted, "fog", 3)
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    ("held", "alpha"),
    [
        ((0.95, 0.95, 0.94, 0.93), 1.0),  # one point lost is within; two are not
        ((0.95, 0.945, 0.93, 0.95), 1.5),  # beyond 1 counts where it was measured
        ((0.95, 0.93, 0.92, 0.90), 0.0),  # nothing but no edit keeps to it
        ((0.95, 0.95, 0.939, 0.94), 1.5),
    ],
)
def test_alpha_is_chosen_by_the_held_out_original_task(held: tuple[float, ...], alpha: float) -> None:
    table = records(held)
    assert alpha_for(held_out_curve(table), 0.01) == alpha
    found = numbers(table)
    at = ALPHAS.index(alpha)
    assert found["chosen_alpha"] == alpha and found["chosen_n_requests"] == 1
    assert found["chosen_edit_accuracy"] == (0.3, 0.6, 0.9, 0.95)[at], (
        "of the images to judge by, not the held-out ones"
    )
    assert found["chosen_original_accuracy"] == (0.95, 0.92, 0.90, 0.7)[at]
    assert found["chosen_original_ood_penalty"] == pytest.approx((0.0, -0.05, -0.2, -0.4)[at])
    assert not any(k.startswith("chosen_robust") for k in found), "nothing held out was corrupted"


def test_the_constraint_may_be_about_corrupted_images() -> None:
    found = numbers(records((0.95, 0.95, 0.95, 0.9), (0.72, 0.715, 0.6, 0.4)))
    assert found["chosen_alpha"] == 1.0 and found["chosen_robust_alpha"] == 0.5
    assert found["chosen_robust_edit_accuracy"] == 0.6 and found["chosen_robust_original_accuracy"] == 0.92


def test_a_looser_constraint_never_chooses_less() -> None:
    along = held_out_curve(records((0.95, 0.93, 0.90, 0.85)))
    chosen = [alpha_for(along, drop) for drop in (0.0, 0.01, 0.02, 0.05, 0.1, 1.0)]
    assert chosen == [0.0, 0.0, 0.5, 1.0, 1.5, 1.5]


def test_held_out_images_are_told_of_in_nothing_else() -> None:
    table = records((0.95, 0.95, 0.94, 0.93), (0.7, 0.7, 0.7, 0.7))
    without = table[~table.probe.isin(list(HELD_OUT))]
    alone = numbers(without)
    assert {k: v for k, v in numbers(table).items() if not k.startswith("chosen_")} == pytest.approx(alone, nan_ok=True)
    assert chosen_alphas(without, images.curve(images.scores(without))) == {}


def test_the_whole_edit_is_at_alpha_one_even_where_the_walk_went_on() -> None:
    found = numbers(records((0.95, 0.95, 0.94, 0.93)))
    assert found["edit_accuracy"] == 0.9 and found["original_accuracy"] == 0.90
    beyond = images.last(pd.DataFrame({"request": "r", "alpha": [1.2, 2.0], "step": [1, 2]}))
    assert beyond.alpha.tolist() == [2.0]
