"""How many requests a task makes: a default is a ceiling, a number that was given must be there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers.errors import fails

from edit_robust.config.compose import compose, conf_dir
from edit_robust.config.launch import experiment
from edit_robust.core.data import Request
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.selection import at_most, check_counts, select

REQUESTS = [Request(str(i), "{} is", "a", "b", f"s{i}") for i in range(7)]


def test_a_ceiling_takes_what_there_is() -> None:
    assert len(select(REQUESTS, 0, False, "up-to-100", "t")) == 7
    assert select(REQUESTS, 3, False, "up-to-4", "t") == select(REQUESTS, 3, False, 4, "t")
    assert select(REQUESTS, 0, False, None, "t") == REQUESTS
    fails(
        "task.n_requests=8 is more & t has 7 requests & task.n_requests=up-to-8",
        lambda: select(REQUESTS, 0, False, 8, "t"),
    )
    assert (at_most("up-to-12"), at_most(5), at_most(None)) == (12, 5, None)


@pytest.mark.parametrize("wrong", ["ten", "up-to-", "up-to-ten", "up to 10", "100", "up-to--1", "up-to-1.5"])
def test_other_words_are_no_number(wrong: str) -> None:
    fails(f"task.n_requests={wrong} is a text & up-to-N", lambda: Counterfact(n_requests=wrong))


def test_none_at_all_is_refused() -> None:
    for nothing in (0, -3, "up-to-0"):
        fails(f"task.n_requests={nothing} must be at least 1", lambda n=nothing: check_counts(0, n_requests=n))


def test_the_default_fits_every_file(cf_path: str, tmp_path: Path) -> None:
    """A file of twelve facts: the default makes all of them, 100 that the user asks for are refused."""
    given = ["task=counterfact", f"task.path={cf_path}", "tracker=none", f"paths.outputs={tmp_path}"]
    assert len(experiment(compose(given)).task.requests()) == 12
    asked = experiment(compose([*given, "task.n_requests=100"])).task
    fails("task.n_requests=100 is more than there are: counterfact has 12 requests", asked.requests)
    assert len(experiment(compose([*given, "task.n_requests=up-to-5"])).task.requests()) == 5


def test_every_default_is_a_ceiling() -> None:
    """In tasks and in experiments, whose own numbers are defaults for a task that the user may replace."""
    found = {}
    for path in [*(conf_dir() / "task").glob("*.yaml"), *(conf_dir() / "experiment").glob("*.yaml")]:
        node = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        node = node.get("task", {}) if path.parent.name == "experiment" else node
        if isinstance(node, dict) and "n_requests" in node:
            found[path.name] = node["n_requests"]
    assert len(found) >= 8 and {"counterfact.yaml", "zsre.yaml", "fact-world.yaml", "layers.yaml"} <= set(found)
    assert all(n is None or (isinstance(n, str) and at_most(n)) for n in found.values()), found
