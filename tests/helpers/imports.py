"""Who imports whom, read from the source: at the top of a file, inside functions, and for type checking alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's syntax tree; each file is parsed once."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; of `from a import b` both a and a.b."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of a package and all below it. A package's name stands for its __init__.py."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports; `from a import b` imports a.b where that is a module."""
    known = modules(root)
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        every = {i for i in imported(path) if i in known and i != name}
        named = {i.rpartition(".")[0] for i in every if i.rpartition(".")[0] in every}
        whole = {i for i in named if _takes_names(path, i, known)}
        found[name] = {i for i in every if i not in named or i in whole}
    return found


def _takes_names(path: Path, package: str, known: Mapping[str, Path]) -> bool:
    """Whether a file takes anything of a package but its modules."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            if any(f"{package}.{alias.name}" not in known for alias in node.names):
                return True
        elif isinstance(node, ast.Import) and any(alias.name == package for alias in node.names):
            return True
    return False


def rooms(root: Path) -> dict[str, str]:
    """Module -> its room: the first folder below the root, or the file itself on the ground floor."""
    return {name: ".".join(name.split(".")[:2]) for name in modules(root)}


def between(edges: Mapping[str, set[str]], room: Mapping[str, str]) -> dict[str, set[str]]:
    """The same graph of rooms."""
    found: dict[str, set[str]] = {r: set() for r in room.values()}
    for name, others in edges.items():
        found[room[name]] |= {room[o] for o in others} - {room[name]}
    return found


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected parts with more than one member (Tarjan), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(v: str) -> None:
        index[v] = low[v] = len(index)
        stack.append(v)
        for w in sorted(edges.get(v, ())):
            if w not in index:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in stack:
                low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            part = []
            while not part or part[-1] != v:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for v in sorted(edges):
        if v not in index:
            visit(v)
    return found
