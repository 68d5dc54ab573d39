"""Tab completion as shells ask for it: words broken at = by bash, whole in zsh; quick, with nothing heavy imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edit_robust.completion import chosen, groups, options, overrides, values_of

PROGRAM = "import sys; sys.argv = ['edit-robust']; from edit_robust.cli import main; main()"


def asked(folder: Path, **env: str) -> list[str]:
    """What the program answers a shell."""
    given = {**os.environ, "_EDIT_ROBUST_COMPLETE": "complete_bash", **env}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=given, cwd=folder)
    assert done.stderr == ""
    return done.stdout.split("\n")


def bash(folder: Path, line: str) -> list[str]:
    """As bash asks when the cursor stands at the end of a line: broken at blanks and at =."""
    words = line.replace("=", " = ").split()
    at = len(words) if line.endswith(" ") else len(words) - 1
    return [text for text in asked(folder, COMP_WORDS=" ".join(words), COMP_CWORD=str(at)) if text]


def test_bash_gets_what_stands_behind_the_equals_sign(tmp_path: Path) -> None:
    assert {"run", "compare", "doctor", "estimate"} <= set(bash(tmp_path, "edit-robust "))
    assert bash(tmp_path, "edit-robust run editor=rom") == ["rome"]
    assert "memit" in bash(tmp_path, "edit-robust run editor=")
    assert bash(tmp_path, "edit-robust run editor=rome,memit-") == ["rome,memit-seq"]
    assert "editor=rome" in bash(tmp_path, "edit-robust run edi"), "one group alone is answered with its choices"


def test_zsh_gets_whole_words_with_their_headings(tmp_path: Path) -> None:
    env = {"_EDIT_ROBUST_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "edit-robust run seed=1 editor=rom"}
    (said, *_) = asked(tmp_path, **env)
    assert '"editor=rome":"ROME' in said


def test_runs_are_completed_where_a_verb_takes_them(tmp_path: Path) -> None:
    for folder in ("outputs/runs/rome-one", "elsewhere/runs/memit-two"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text("{}")
    assert bash(tmp_path, "edit-robust figure ro") == ["rome-one"]
    assert bash(tmp_path, "edit-robust compare --outputs elsewhere ") == ["memit-two"]
    assert bash(tmp_path, "edit-robust evaluate rome-one measure=ret") == ["retention"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_for_bash_answers_in_a_bash(tmp_path: Path) -> None:
    """What `--install-completion` writes, and what bash then gets at a tab."""
    from typer.completion import get_completion_script

    script = get_completion_script(prog_name="edit-robust", complete_var="_EDIT_ROBUST_COMPLETE", shell="bash")
    program = tmp_path / "edit-robust"
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -c "{PROGRAM}"\n')
    program.chmod(0o755)
    look = "COMP_WORDS=(edit-robust run layer = mid); COMP_CWORD=4; "
    look += f'_edit_robust_completion {program}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", f"{script}\n{look}"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "middle", done.stderr


def test_it_is_quick_because_nothing_heavy_is_imported(tmp_path: Path) -> None:
    look = "import sys, time; from edit_robust.completion import overrides; import edit_robust.cli; "
    look += "t = time.process_time(); assert overrides(['run'], 'editor.v'); print(time.process_time() - t); "
    look += "print(time.process_time(), {'torch', 'hydra', 'numpy', 'pandas'} & set(sys.modules) or 'nothing heavy')"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "nothing heavy" in done.stdout
    assert float(done.stdout.split()[1]) < 0.5, "processor seconds of the whole process; 0.26 measured"


def test_options_are_those_of_the_chosen_configs() -> None:
    assert "editor.v_lr" in options([]) and "editor.max_epochs" not in options([])
    words = ["model=scene-cnn", "editor=local-ft"]
    assert chosen(words)["task"] == "scene-world", "a model brings its task"
    assert {"editor.max_epochs", "task.n_edit", "model.layers"} <= set(options(words))
    assert chosen(["experiment=patching"])["editor"] == "one-layer"
    assert [text for text, _ in overrides(["editor=ft"], "editor.obj")] == [
        "editor.objective=prompt_last",
        "editor.objective=target_new",
    ]


@pytest.mark.parametrize(
    ("key", "some"),
    [
        ("layer", "middle"),
        ("experiment", "leaderboard-facts"),
        ("corruption", "imagenet-c"),
        ("editor.guard", "key-ratio"),
        ("figures", "false"),
        ("device", "cuda"),
        ("model.dtype", "bfloat16"),
        ("editor.mom2", "computed"),
    ],
)
def test_values(key: str, some: str) -> None:
    assert some in [text for text, _ in values_of(key, [])]


def test_lists_and_ones_own_configs(tmp_path: Path) -> None:
    assert [t for t, _ in overrides([], "measure=[facts,down")] == ["measure=[facts,downstream"]
    (tmp_path / "editor").mkdir()
    (tmp_path / "editor" / "noise.yaml").write_text("name: noise\n")
    assert [t for t, _ in overrides(["--config-dir", str(tmp_path)], "editor=noi")] == ["editor=noise"]
    assert "editor" in groups() and "preset" not in groups()


def test_help_shows_lists_in_brackets_and_joins_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would take `[image-answers]` for markup, and keep the docstring's line ends."""
    import typer

    from edit_robust.cli import app

    with pytest.raises(SystemExit):
        typer.main.get_command(app)(["evaluate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "measure=[image-answers]" in said and "--config-dir" in said
