"""Editors side by side: paired intervals against hand calculations, shared ranks, refusals, files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.board_runs import asked, walk, walks
from helpers.claim_runs import PAIRS, shaped_run

from edit_robust.core.data import Column
from edit_robust.core.errors import UserError
from edit_robust.evaluate.statistics.ranking import paired, pseudo_values, ranks
from edit_robust.evaluate.statistics.success import harmonic_mean
from edit_robust.figures import leaderboard
from edit_robust.figures.board import board
from edit_robust.report.compare import boards, markdown, write_comparison
from edit_robust.runs.reader import Run


def test_a_paired_interval_is_the_one_of_the_textbook() -> None:
    """Differences 1, 2, 3, 4: mean 2.5, standard error 1.29099 / 2, t(3) = 3.18245."""
    first, second = (
        dict(enumerate([11.0, 7.0, 33.0, 5.0])),
        dict(enumerate([10.0, 5.0, 30.0, 1.0])),
    )
    mean, low, high = paired(first, second)
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - 2.05426, 2.5 + 2.05426), abs=1e-4)
    assert paired(first, {0: 10.0, 9: 1.0})[0] == 1.0, "only shared clusters count"
    assert math.isnan(paired(first, {0: 10.0})[1]), "one cluster has no interval"


def test_editors_that_do_not_differ_are_told_apart_in_one_of_twenty_cases() -> None:
    """Under the null, with large differences between clusters that pairing must take out."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(800):
        level = 20 * rng.standard_normal(6)
        a, b = (dict(enumerate(level + rng.standard_normal(6))) for _ in range(2))
        _, low, high = paired(a, b)
        found += low > 0 or high < 0
    assert 0.03 < found / 800 < 0.07


def test_pseudo_values_are_the_numbers_themselves_where_the_statistic_is_a_mean() -> None:
    parts = {"a": [1.0, 5.0], "b": [3.0, 1.0], "c": [8.0, 0.0]}
    assert pseudo_values(parts, lambda x: x[0]) == pytest.approx({"a": 1.0, "b": 3.0, "c": 8.0})
    without_a = harmonic_mean([5.5, 0.5])
    whole = harmonic_mean([4.0, 2.0])
    assert pseudo_values(parts, harmonic_mean)["a"] == pytest.approx(3 * whole - 2 * without_a)


def test_ranks_are_shared_where_differences_may_be_noise() -> None:
    values = {
        "best": dict(enumerate([9.0, 8.0, 9.5, 9.0])),
        "like it": dict(enumerate([8.5, 8.5, 9.4, 9.2])),
        "worst": dict(enumerate([1.0, 0.5, 1.5, 1.0])),
        "nothing": {},
    }
    assert ranks(values, 1) == {"best": (1, 2), "like it": (1, 2), "worst": (3, 3)}
    assert ranks(values, -1) == {"worst": (1, 1), "best": (2, 3), "like it": (2, 3)}


def test_walks_are_compared_order_by_order() -> None:
    found = board(walks({"ft": [50.0, 60.0, 70.0], "rome": [90.0, 99.0, 110.0]}))
    assert [e.label for e in found.entries] == ["rome", "ft"] and found.reference == "rome" and found.n == 3
    mark = found.entries[1].marks["ES"]
    assert mark.against == pytest.approx((-119 / 3, -119 / 3 - 1.4342, -119 / 3 + 1.4342), abs=1e-3) and mark.differs
    assert found.entries[0].marks["ES"].rank == (1, 1) and mark.rank == (2, 2)
    assert mark.value[0] == pytest.approx(60.0)
    less = found.entries[1].marks["forgotten_pct"]
    assert less.rank == (2, 2) and found.metrics[1].better == -1, "less forgetting is better"
    assert set(found.entries[0].marks) == {"ES", "forgotten_pct", "perplexity"}, "time has no short heading"


def test_the_reference_and_the_order_can_be_chosen() -> None:
    runs = walks({"ft": [50.0, 60.0, 70.0], "rome": [90.0, 99.0, 110.0]})
    assert board(runs, against="ft").reference == board(runs, against="ft-1").reference == "ft"
    assert board(runs, by="forgotten").by == "forgotten_pct"
    with pytest.raises(UserError, match="--against=romme"):
        board(runs, against="romme")
    with pytest.raises(UserError, match="--by=XS"):
        board(runs, by="XS")


def test_perplexities_are_compared_as_ratios() -> None:
    pairs = [(5.0, 10.0), (4.0, 8.0), (6.0, 12.0)]
    runs = [walk(e, k, 90.0 - i, pair[i]) for i, e in enumerate(("rome", "ft")) for k, pair in enumerate(pairs)]
    mark = board(runs).entries[1].marks["perplexity"]
    assert math.exp(mark.against[0]) == pytest.approx(2.0) and mark.value[0] == pytest.approx(960 ** (1 / 3))
    assert "×2 [2, 2]" in markdown(board(runs))


def test_orders_that_only_some_editors_have_are_left_out_and_said() -> None:
    runs = [*walks({"ft": [50.0, 60.0, 70.0], "rome": [90.0, 99.0]})]
    found = board(runs)
    assert found.n == 2 and "1 orders of the edits that only some" in found.notes[0]
    assert found.entries[1].marks["ES"].value[0] == 55.0


def test_requests_are_the_units_of_one_walk(tmp_path: Path) -> None:
    """ES differs by 100 points on one of four requests; a neighbour's share is its request's mean."""
    near = [[True, True], [True, False], [True, True], [True, True]]
    rome = asked(tmp_path, "rome", [True] * 4, near)
    ft = asked(tmp_path, "ft", [True, True, True, False], near)
    found = board([rome, ft])
    assert found.units == "requests" and found.n == 4 and "One order" in found.notes[0]
    es, ns = found.entries[1].marks["ES"], found.entries[1].marks["NS"]
    assert es.against == pytest.approx((-25.0, -25 - 25 * 3.18245, -25 + 25 * 3.18245), abs=1e-2)
    assert ns.value[0] == pytest.approx(87.5) and ns.against == pytest.approx((0, 0, 0)) and not ns.differs
    assert set(found.entries[0].marks) == {"ES", "PS", "NS", "S", "perplexity"}
    alone = found.entries[0].marks["perplexity"]
    assert alone.value[0] == pytest.approx(5.0) and math.isnan(alone.value[1]) and alone.rank is None, "of whole runs"
    cost = found.entries[0].cost
    assert (cost.seconds, cost.processor, cost.prepare, cost.memory) == (0.75, 0.3, 1.5, 900.0)


def test_pairs_are_the_units_of_images() -> None:
    keys = ("edit_accuracy", "original_accuracy", "original_ood_penalty", "editing_ood_penalty")
    columns = [Column(k, 0.5, k, unit="share", short=k, score=True) for k in keys]
    runs = []
    for method, rise in (("rewriting", 0.2), ("local-ft", 0.3)):
        for seed in (0, 1):
            run = shaped_run(lambda a, rise=rise: rise * a, lambda a: -0.1 * a, seed=seed, method=method, noise=0.01)
            runs.append(replace(run, columns=columns))
    found = board(runs)
    assert found.units == "pairs" and found.n == len(PAIRS) and found.reference == "local-ft"
    mark = found.entries[1].marks["edit_accuracy"]
    assert mark.against[0] == pytest.approx(-0.1, abs=0.02) and mark.differs


def test_runs_that_were_asked_other_things_are_refused_in_one_line(tmp_path: Path) -> None:
    mixed = [*walks({"ft": [1.0, 2.0], "rome": [2.0, 3.0]}), *walks({"ft": [1.0, 2.0]}, model={"name": "gptj"})]
    with pytest.raises(UserError, match=r"model.name is fact-gpt, gptj; .* --grouped"):
        board(mixed)
    with pytest.raises(UserError, match="one editor"):
        board(walks({"ft": [1.0, 2.0]}))
    kept = [asked(tmp_path, name, [True, False], [[True], [True]]).path for name in ("rome", "ft")]
    runs = [Run(path) for path in kept if path is not None]
    assert len(boards(runs, grouped=True)) == 1 and boards(runs)[0].n == 2
    with pytest.raises(UserError, match="none of these runs is complete"):
        boards([])


def test_files(tmp_path: Path) -> None:
    found = [board(walks({"ft|x": [50.0, 60.0, 70.0], "rome": [90.0, 99.0, 110.0], "memit": [91.0, 97.0, 111.0]}))]
    page, text, table = (write_comparison(found, tmp_path / f"c{kind}") for kind in (".html", ".md", ".csv"))
    html = page[0].read_text()
    assert "<script" not in html and "http" not in html.replace("http-equiv", "") and "1-2" in html
    assert [p.name for p in text] == ["c.md", "c.png"] and "| ft/x |" in text[0].read_text()
    rows = table[0].read_text().splitlines()
    assert len(rows) == 1 + 3 * 3 and "difference_low" in rows[0]
    with pytest.raises(UserError, match=r"must end in \.html"):
        write_comparison(found, tmp_path / "c.txt")


def test_the_figure_wants_three_editors_of_one_task() -> None:
    three = walks({"ft": [50.0, 60.0], "rome": [90.0, 99.0], "memit": [91.0, 97.0]})
    assert leaderboard.enough(three) and not leaderboard.enough(three[:4])
    axes = leaderboard.draw(three).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["ES ↑", "forgotten ↓", "perplexity ↓"]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["rome", "memit", "ft"]
    assert leaderboard.draw([]).axes
