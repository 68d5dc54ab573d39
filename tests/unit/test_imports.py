"""Imports run one way, there are no circles, files and functions stay short, and what is quick to start stays quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from helpers.imports import between, circles, graph, imported, modules, nodes, rooms

import edit_robust

ROOT = Path(edit_robust.__file__).parent
ROOM = rooms(ROOT)
HEAVY = ("transformers", "timm", "open_clip", "hydra", "omegaconf", "datasets", "wandb", "matplotlib")


@cache
def edges() -> dict[str, set[str]]:
    """Who imports whom in the package; parsing it takes a second."""
    return graph(ROOT)


def offenders(room: str, *forbidden: str) -> list[str]:
    """Imports of forbidden libraries or rooms by the files of a room."""
    return [
        f"{name} imports {other}"
        for name, path in modules(ROOT).items()
        if ROOM[name] == f"edit_robust.{room}"
        for other in imported(path)
        if any(other == f or other.startswith(f"{f}.") for f in forbidden)
    ]


def test_there_are_no_circles_among_files() -> None:
    assert circles(edges()) == []


def test_there_are_no_circles_among_rooms() -> None:
    """The rooms are the folders: none can be left out."""
    assert circles(between({k: v for k, v in edges().items() if k != "edit_robust"}, ROOM)) == []


@pytest.mark.parametrize(
    "how", ["import planted.b", "def f():\n    import planted.b", "if False:\n    from planted import b"]
)
def test_a_planted_circle_is_found(tmp_path: Path, how: str) -> None:
    (tmp_path / "planted").mkdir()
    for name, text in {"__init__": "", "a": how, "b": "from planted import c", "c": "from planted.a import x"}.items():
        (tmp_path / "planted" / f"{name}.py").write_text(text)
    assert circles(graph(tmp_path / "planted")) == [["planted.a", "planted.b", "planted.c"]]


def test_a_planted_circle_of_rooms_is_found(tmp_path: Path) -> None:
    root = tmp_path / "planted"
    for name, text in {
        "one/a": "from planted.two import b",
        "two/b": "",
        "two/c": "import planted.one.d",
        "one/d": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(text)
    assert circles(graph(root)) == []
    assert circles(between(graph(root), rooms(root))) == [["planted.one", "planted.two"]]


#: From the ground up: a room imports only from rooms that stand before it here.
ORDER = [
    *("core", "assets", "shifts", "tasks", "models", "editors", "trajectories", "checkpoint_walk", "runs"),
    *("evaluate", "trackers"),
    *("figures", "report", "messages", "runner", "revisit", "sweeps", "config", "exports", "autopsy", "estimate"),
    *("doctor", "completion", "reproduce", "verbs", "cli"),
]


def test_every_room_has_its_place() -> None:
    assert {r.partition(".")[2] for r in ROOM.values()} - {""} == set(ORDER)


def test_imports_run_one_way() -> None:
    place = {f"edit_robust.{name}": i for i, name in enumerate(ORDER)}
    wrong = [
        f"{name} imports {other}"
        for name, others in edges().items()
        for other in others
        if name != "edit_robust" and other != "edit_robust" and place[ROOM[other]] > place[ROOM[name]]
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "a, b", [("models", "tasks"), ("tasks", "shifts"), ("models", "shifts"), ("figures", "models")]
)
def test_neighbours_do_not_know_each_other(a: str, b: str) -> None:
    assert not offenders(a, f"edit_robust.{b}") and not offenders(b, f"edit_robust.{a}")


@pytest.mark.parametrize("room", ["models", "tasks", "editors"])
def test_language_and_vision_do_not_know_each_other(room: str) -> None:
    """Nor do their helpers; what both need stands below them."""
    wrong = [
        f"{name} imports {other}"
        for name, others in edges().items()
        for other in others
        for a, b in (("language", "vision"), ("vision", "language"))
        if name.startswith(f"edit_robust.{room}.{a}.") and other.startswith(f"edit_robust.{room}.{b}")
    ]
    assert wrong == []


def test_the_core_knows_no_model_library() -> None:
    assert not offenders("core", *HEAVY)


@pytest.mark.parametrize(
    "library, room, files",
    [
        ("hydra", "config", None),
        ("omegaconf", "config", None),
        ("wandb", "trackers", ["edit_robust.trackers.wandb"]),
        ("matplotlib", "figures", None),
    ],
)
def test_a_library_is_known_in_one_room(library: str, room: str, files: list[str] | None) -> None:
    for name, path in modules(ROOT).items():
        if any(i == library or i.startswith(f"{library}.") for i in imported(path)):
            assert ROOM[name] == f"edit_robust.{room}" and (files is None or name in files), name


def test_files_fit_a_sitting_and_functions_a_screen() -> None:
    long = [
        f"{p.relative_to(ROOT)}: {n}" for p in modules(ROOT).values() if (n := len(p.read_text().splitlines())) > 450
    ]
    assert long == []
    wide = []
    for name, path in modules(ROOT).items():
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                wide += [f"{name}.{node.name}: {lines} lines"] if lines > 60 else []
    assert wide == []


def test_test_files_are_short_too() -> None:
    tests = Path(__file__).parents[1]
    assert [p.name for p in tests.rglob("*.py") if len(p.read_text().splitlines()) > 400] == []


def test_nobody_branches_on_what_a_model_is_asked() -> None:
    found = [f"{p.name}: {w}" for p in modules(ROOT).values() for w in _code(p) & {"is_image", "asks"}]
    assert found == []


def _code(path: Path) -> set[str]:
    """Names and attributes of a file, without its prose."""
    return {n.id if isinstance(n, ast.Name) else n.attr for n in nodes(path) if isinstance(n, ast.Name | ast.Attribute)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("edit_robust", ["torch", "transformers", "hydra", "omegaconf", "matplotlib", "pandas"]),
        ("edit_robust.cli", ["torch", "transformers", "hydra", "omegaconf", "matplotlib"]),
        ("edit_robust.core.delta", ["transformers", "timm", "open_clip", "hydra", "omegaconf"]),
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
