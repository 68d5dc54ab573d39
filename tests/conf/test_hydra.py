"""What `edit-robust run` passes on to Hydra works as Hydra's users know it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.runs import CommandLine

from edit_robust.config import check, launch

pytestmark = pytest.mark.slow

Jobs = list[dict[str, object]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """The configs of the jobs that were started, none of which is run."""
    found: Jobs = []

    def keep(cfg: object) -> None:
        found.append(check.resolved(cfg))  # type: ignore[arg-type]

    monkeypatch.setattr(launch, "_job", keep)
    return found


def test_one_run_and_another_in_the_same_process(say: CommandLine, seen: Jobs) -> None:
    for editor in ("rome", "memit", "rome"):
        said = say("run", f"editor={editor}", "seed=3")
        assert (said.code, said.err) == (0, "")
    assert [j["editor"]["name"] for j in seen] == ["rome", "memit", "rome"]  # type: ignore[index]
    assert [j["seed"] for j in seen] == [3, 3, 3]


def test_a_sweep_is_the_product_of_its_values(say: CommandLine, seen: Jobs) -> None:
    assert say("run", "-m", "editor=rome,ft", "layer.index=range(0,2)", "task.n_requests=3").code == 0
    jobs = [(j["editor"]["name"], j["layer"]["index"], j["task"]["n_requests"]) for j in seen]  # type: ignore[index]
    assert jobs == [("rome", 0, 3), ("rome", 1, 3), ("ft", 0, 3), ("ft", 1, 3)]


def test_flags_may_stand_between_options(say: CommandLine, seen: Jobs) -> None:
    assert say("run", "editor=rome", "-m", "layer.index=0,1").code == 0
    assert [j["layer"]["index"] for j in seen] == [0, 1]  # type: ignore[index]


def test_an_experiment_can_be_a_sweep(say: CommandLine, seen: Jobs, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      editor: rome,memit\n"
    (folder / "both.yaml").write_text(text)
    assert say("run", "--config-dir", str(folder.parent), "experiment=both", "seed=5").code == 0
    assert [(j["editor"]["name"], j["seed"]) for j in seen] == [("rome", 5), ("memit", 5)]  # type: ignore[index]


def test_own_configs_in_a_folder(say: CommandLine, seen: Jobs, tmp_path: Path) -> None:
    (tmp_path / "mine" / "layer").mkdir(parents=True)
    (tmp_path / "mine" / "layer" / "second.yaml").write_text("# The second block.\nindex: 1\n")
    assert say("run", "--config-dir", str(tmp_path / "mine"), "layer=second").code == 0
    assert seen[0]["layer"] == {"index": 1}
    said = say("run", "--config-dir", str(tmp_path / "none"), "layer=second")
    assert said.code == 2 and "is not a folder" in said.line


@pytest.mark.parametrize("args, shown", [(["--cfg", "job"], "v_num_grad_steps"), (["--info"], "Config search path")])
def test_hydra_shows_what_it_composed(say: CommandLine, seen: Jobs, args: list[str], shown: str) -> None:
    said = say("run", "editor=memit", *args)
    assert said.code == 0 and shown in said.out and "memit" in said.out
    assert not seen
    assert not list(Path.cwd().iterdir())


def test_help_lists_the_choices(say: CommandLine, seen: Jobs) -> None:
    said = say("run", "--help")
    assert said.code == 0 and "GROUP=CHOICE" in said.out
    for word in ("fact-gpt", "memit", "counterfact", "interpolate"):
        assert word in said.out


def test_showing_a_config_that_is_wrong_is_an_error_too(say: CommandLine) -> None:
    said = say("run", "--cfg", "job", "editor=romee")
    assert said.code == 2 and 'did you mean "rome"?' in said.line


def test_an_unknown_flag_and_a_missing_value(say: CommandLine) -> None:
    assert "--foo" in (said := say("run", "--foo")).line and said.code == 2
    assert "a value is missing" in (said := say("run", "editor")).line and said.code == 2


def test_a_mistake_anywhere_in_a_sweep_is_found_before_its_first_job(say: CommandLine, seen: Jobs) -> None:
    for bad in ("editor=rome,romee", "trajectory.every=1,0", "editor.v_lr=1,fast", "layer.index=0,foo", "seed=0,x"):
        said = say("run", "-m", bad)
        assert said.code == 2 and said.line.startswith("edit-robust: "), bad
    assert not seen


def test_check_says_what_would_run_and_loads_nothing(say: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    import edit_robust.models.language.causal_lm as lm

    monkeypatch.setattr(lm, "load_pretrained", None)
    said = say("check", "editor=rome,memit", "layer.index=0,1")
    assert said.code == 0 and said.out.count("ok: ") == 3  # every value once, not every pair
    assert "editor memit" in said.out and "layer 1" in said.out
    assert say("check", "editor=ft", "editor.v_lr=1").code == 2
