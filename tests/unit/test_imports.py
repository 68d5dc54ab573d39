"""Imports run one way, and what is quick to start stays quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edit_robust

ROOT = Path(edit_robust.__file__).parent
HEAVY = {"transformers", "timm", "open_clip", "hydra", "omegaconf", "datasets", "wandb", "matplotlib"}


def modules(package: str) -> list[Path]:
    path = ROOT / package
    found = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert found and all(p.is_file() for p in found), package
    return found


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, also for type checking alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(package: str, *forbidden: str) -> list[str]:
    return [
        f"{p.relative_to(ROOT)} imports {name}"
        for p in modules(package)
        for name in imported(p)
        for f in forbidden
        if name == f or name.startswith(f"{f}.")
    ]


def ours(*names: str) -> list[str]:
    return [f"edit_robust.{n}" for n in names]


ABOVE = ours(
    "trajectories",
    "runner",
    "evaluate",
    "config",
    "cli",
    "runs",
    "figures",
    "report",
    "trackers",
)


def test_the_core_knows_no_model_library() -> None:
    assert not offenders("core", *HEAVY, *ABOVE, *ours("models", "editors", "tasks", "shifts"))


@pytest.mark.parametrize(
    ("package", "siblings"),
    [
        ("models", ["editors", "tasks", "shifts"]),
        ("tasks", ["editors", "models", "shifts"]),
        ("editors", ["shifts"]),
        ("shifts", ["editors", "models", "tasks"]),
    ],
)
def test_siblings_keep_to_themselves(package: str, siblings: list[str]) -> None:
    """Editors may know models, and what a task is."""
    assert not offenders(package, *ABOVE, *ours(*siblings))


def test_walks_know_no_runner() -> None:
    assert not offenders("trajectories.py", *HEAVY, *ours("runner", "config", "cli", "runs", "models", "tasks"))


@pytest.mark.parametrize("package", ["figures", "report"])
def test_figures_and_reports_know_no_torch(package: str) -> None:
    assert not offenders(package, "torch", "transformers", *ours("models", "editors", "runner", "config"))


def test_one_module_knows_hydra() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if not name.startswith("config/"):
            assert not offenders(name, "hydra", "omegaconf")


def test_weights_and_biases_is_known_in_one_place() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name != "trackers/wandb.py":
            assert not offenders(name, "wandb")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("edit_robust", ["torch", "transformers", "hydra", "omegaconf", "matplotlib", "pandas"]),
        ("edit_robust.cli", ["torch", "transformers", "hydra", "omegaconf", "matplotlib"]),
        ("edit_robust.core", ["transformers", "timm", "open_clip", "hydra", "omegaconf"]),
        ("edit_robust.tasks.language.facts", ["transformers", "timm", "hydra"]),
    ],
)
def test_what_is_really_loaded(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print(*[n for n in {absent!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "", f"importing {module} loads {done.stdout}"


def test_public_names_are_there() -> None:
    for name in edit_robust.__all__:
        assert getattr(edit_robust, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edit_robust.nothing
