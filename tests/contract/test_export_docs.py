"""Every command of docs/export.md, in its order; lm-evaluation-harness says the same of a model and of its adapter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import CommandLine

from edit_robust.assets import asset_dir
from edit_robust.runs.reader import find_run

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
TASK = {
    "task": "my-task",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "{{right}}",
    "test_split": "test",
    "metric_list": [{"metric": "acc"}],
}


def commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def own_task(folder: Path, outputs: Path) -> None:
    """The facts that the run has edited, as questions with two options."""
    run = find_run("rome", outputs)
    asked = run.examples[run.examples.probe == "edit"]
    rows = [{"question": r.x, "options": [c.strip() for c in r.choices[:2]], "right": 0} for r in asked.itertuples()]
    folder.mkdir()
    (folder / "facts.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    data = {"dataset_kwargs": {"data_files": {"test": str(folder / "facts.jsonl")}}}
    (folder / "my-task.yaml").write_text(json.dumps({**TASK, **data}))


def harness(command: str, here: Path) -> float:
    """What lm-evaluation-harness finds, run as it is run anywhere."""
    script = Path(sys.executable).with_name("lm_eval")
    _, *args = command.split()
    env = {**os.environ, "HF_DATASETS_CACHE": str(here / "datasets"), "HF_HUB_OFFLINE": "1"}
    out = here / f"results-{len(list(here.glob('results-*')))}"
    done = subprocess.run(
        [str(script), *args, "--output_path", str(out)], cwd=here, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(out.rglob("results*.json")).read_text())
    return float(found["results"]["my-task"]["acc,none"])


@pytest.mark.thorough
def test_every_command_of_the_page(say: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    asked = []
    for command in commands():
        program, *args = command.split()
        if program == "lm_eval":
            own_task(tmp_path / "tasks", tmp_path / "outputs")
            asked.append(command)
            continue
        assert program == "edit-robust"
        more = ["tracker=none", "figures=false", "device=cpu"] if args[0] == "run" else []
        said = say(*args, *more)
        assert said.code == 0, (command, said.err)
    assert len(asked) == 1 and len(commands()) > 10
    outputs = tmp_path / "outputs"
    edited, again = find_run("rome", outputs), find_run("checkpoint-fact-gpt-fact-world-batch", outputs)
    for key in ("final_ES", "final_PS", "final_NS"):
        assert again.summary[key.removeprefix("final_")] == pytest.approx(edited.summary[key])
    right = harness(asked[0], tmp_path)
    assert right == pytest.approx(edited.summary["final_ES"] / 100)
    base = asset_dir("fact-gpt")
    assert harness(asked[0].replace("edited-model", f"{base},peft=adapter"), tmp_path) == right
    assert harness(asked[0].replace("edited-model", str(base)), tmp_path) == edited.summary["unedited_ES"] / 100
