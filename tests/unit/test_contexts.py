"""Context templates: sampled, read, checked, kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.language.helpers.contexts import MEMIT_RECIPE, ROME_RECIPE, context_templates, flatten
from edit_robust.models.language.causal_lm import CausalLM

NAMES = ("r-rome", "rome")


@pytest.fixture
def model(tiny_model: Callable[[str], CausalLM]) -> CausalLM:
    return tiny_model("gpt2")


def test_sampled(model: CausalLM, tmp_path: Path) -> None:
    groups = context_templates(model, "sampled", NAMES, ROME_RECIPE, Workspace(tmp_path, seed=1))
    assert [len(g) for g in groups] == [1, 20] and groups[0] == ["{}"] and len(flatten(groups)) == 21
    assert all(t.endswith(". {}") and t.count("{") == t.count("}") == 1 and "\n" not in t for t in groups[1])
    same = context_templates(model, "sampled", NAMES, ROME_RECIPE, Workspace(tmp_path, seed=1))
    other = context_templates(model, "sampled", NAMES, ROME_RECIPE, Workspace(tmp_path, seed=2))
    assert same == groups != other
    memit = context_templates(model, "sampled", ("memit",), MEMIT_RECIPE, Workspace(tmp_path))
    assert [len(g) for g in memit] == [1, 5]
    assert [t.split()[0].startswith(s) for t, s in zip(memit[1], MEMIT_RECIPE[0][0], strict=True)] == [True] * 5


def test_bare(model: CausalLM, tmp_path: Path) -> None:
    assert context_templates(model, "bare", NAMES, ROME_RECIPE, Workspace(tmp_path)) == [["{}"]]


def test_braces_and_line_breaks_of_the_model_do_no_harm(
    model: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model), "sample", lambda self, s, n, length, g: ["a {} b\n\nc } {"] * n)
    groups = context_templates(model, "sampled", NAMES, ROME_RECIPE, Workspace(tmp_path))
    assert set(groups[1]) == {"a b c. {}"}


def test_kept_in_the_run(model: CausalLM, tmp_path: Path) -> None:
    """What a run began with it goes on with, whatever the settings have become."""
    work = Workspace(tmp_path / "cache", tmp_path / "run", seed=1)
    first = context_templates(model, "sampled", NAMES, ROME_RECIPE, work)
    assert json.loads((tmp_path / "run" / "contexts.json").read_text()) == first
    assert context_templates(model, "sampled", NAMES, ROME_RECIPE, Workspace(work.cache, work.run, seed=9)) == first


def test_files(model: CausalLM, tmp_path: Path) -> None:
    path = tmp_path / "t.json"

    def read(content: object) -> list[list[str]]:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return context_templates(model, str(path), NAMES, ROME_RECIPE, Workspace(tmp_path))

    assert read(["{}", "So. {}", "Then. {}"]) == [["{}"], ["So. {}", "Then. {}"]]
    assert read(["So. {}"]) == [["So. {}"]] and read(["{}"]) == [["{}"]]
    assert read([["{}"], ["So. {}"]]) == [["{}"], ["So. {}"]]
    assert read({"memit": [["{}"]], "rome": ["{}", "So. {}"]}) == [["{}"], ["So. {}"]]
    assert read({"rome": ["{}"], "r-rome": ["So. {}"]}) == [["So. {}"]], "its own templates before its family's"
    for wrong, says in (
        ("[", "not JSON"),
        ({"memit": ["{}"]}, "none for r-rome"),
        ([], "list of templates"),
        ("7", "list of templates"),
        ([["{}"], []], "not empty"),
        ([["{}"], "x {}"], "not empty"),
        (["no place"], "exactly one"),
        (["{} {}"], "exactly one"),
        ([["{}", 7]], "exactly one"),
    ):
        with pytest.raises(UserError, match=says):
            read(wrong)
    with pytest.raises(UserError, match="neither `sampled`, `bare` nor a file"):
        context_templates(model, "sample", NAMES, ROME_RECIPE, Workspace(tmp_path))
