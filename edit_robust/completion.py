"""What a shell may complete: groups, choices, options, values, runs. Reads files; imports nothing heavy."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import typer

from edit_robust.config.compose import choices, conf_dir

Item = tuple[str, str]
#: Parts whose options are completed once they are chosen.
PARTS = ("editor", "model", "task", "trajectory", "tracker", "layer")
#: Values of options that stand in no group.
VALUES: dict[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "model.device": ("auto", "cpu", "cuda"),
    "model.dtype": ("float32", "bfloat16", "float16"),
    "threads": ("auto",),
    "layer.index": ("first", "middle", "last", "all", "auto"),
    "hydra/launcher": ("basic", "joblib", "submitit_local", "submitit_slurm", "ray"),
}


def complete_override(ctx: typer.Context, incomplete: str) -> list[Item]:
    """Completions of a word among a command line's overrides, for typer's `autocompletion`."""
    return overrides(typed(), incomplete)


def complete_run(ctx: typer.Context, incomplete: str) -> list[Item]:
    """Runs of the outputs folder, newest first, with their state."""
    folder = Path(str(ctx.params.get("outputs") or "outputs"))
    found = [p.parent for p in (folder / "runs").glob(f"{incomplete}*/config.yaml") if "~" not in p.parent.name]
    found.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    return [(p.name, "") for p in found]


def complete_question(ctx: typer.Context, incomplete: str) -> list[Item]:
    """A run first, then what it is asked."""
    before = typed()
    asked = [word for word in before[1:] if not word.startswith("-")]
    return complete_run(ctx, incomplete) if not asked else overrides(before, incomplete)


def complete_listed(ctx: typer.Context, incomplete: str) -> list[Item]:
    """What `edit-robust ls` lists."""
    named = [f"{group}s" for group in groups() if "/" not in group and group not in ("trajectory", "preset")]
    return [(name, "") for name in sorted([*named, "trajectories", "runs"]) if name.startswith(incomplete)]


def typed() -> list[str]:
    """The words before the one that is being completed, as the shell says them: without the program's name.

    bash breaks words at `=`, so that `editor=rome` comes as three; they are joined again by `overrides`.
    """
    import shlex

    if "COMP_WORDS" in os.environ:
        words = os.environ["COMP_WORDS"].split()
        at = int(os.environ.get("COMP_CWORD") or len(words))
        return words[1 : at + (words[at : at + 1] == ["="])]  # the value behind = is not begun yet
    line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        words = line.split()
    return words[1:] if line.endswith(" ") or not words else words[1:-1]


def overrides(before: Sequence[str], incomplete: str) -> list[Item]:
    """(completion, help) of an override. before: the words before it; incomplete: as much as is there of it."""
    words, key, value, prefix = _parted(list(before), incomplete)
    if key is not None:
        done, _, last = _list_head(value)
        return [(f"{prefix}{done}{text}", about) for text, about in values_of(key, words) if text.startswith(last)]
    names = {f"{group}=": "" for group in groups()}
    if "." in incomplete or not any(name.startswith(incomplete) for name in names):
        names |= {f"{option}=": about for option, about in options(words).items()}
    else:
        names |= {f"{option}=": about for option, about in options(words).items() if "." not in option}
    fitting = [(name, about) for name, about in names.items() if name.startswith(incomplete)]
    if len(fitting) != 1:
        return fitting
    only, about = fitting[0]  # more than one answer, so that the shell adds no space behind the =
    return [(f"{only}{text}", more) for text, more in values_of(only[:-1], words)] or [(only, about)]


def _parted(before: list[str], incomplete: str) -> tuple[list[str], str | None, str, str]:
    """(the words before, whole again; key of the word, None without =; what is there of its value; what an answer
    repeats of the word: bash wants what stands behind = alone)."""
    whole: list[str] = []
    tail: list[str] = [*before, incomplete]
    while tail:
        word = tail.pop(0)
        if word == "=" and whole:
            whole[-1] += "=" + (tail.pop(0) if tail else "")
        else:
            whole.append(word)
    last = whole[-1] if whole else ""
    key, equals, value = last.partition("=")
    broken = incomplete == "=" or (bool(before) and before[-1] == "=")
    return whole[:-1], key if equals else None, value, "" if broken else f"{key}="


def _list_head(value: str) -> tuple[str, str, str]:
    """What is done of a value with commas, or of a list: `[facts,do` -> `[facts,`, the comma, `do`."""
    at = max(value.rfind(","), value.rfind("["))
    return value[: at + 1], value[at : at + 1], value[at + 1 :]


@cache
def groups() -> tuple[str, ...]:
    """The groups of configs, the nested ones (hydra/launcher) too."""
    found = [p.name for p in sorted(conf_dir().iterdir()) if p.is_dir() and p.name not in ("preset", "hydra", "guard")]
    return (*found, "hydra/launcher")


def values_of(key: str, words: Sequence[str]) -> list[Item]:
    """Values that an option may have: choices of its group, words of its type, yes and no, what it is by default."""
    key = key.lstrip("+~")
    if key in groups() and key not in VALUES:
        return [*choices(key).items(), *_own(key, words)]
    if key == "editor.guard":
        return list(choices("guard").items())
    if key in VALUES:
        return [(text, "") for text in VALUES[key]]
    default = _default(key, words)
    if isinstance(default, bool):
        return [("true", ""), ("false", "")]
    literal = [(text, "") for text in _literals(key, words)]
    shown = "null" if default is None else str(default).replace(" ", "")
    return literal or ([(shown, "as it is"), ("", "")] if default != "" else [])


def _own(group: str, words: Sequence[str]) -> list[Item]:
    """Choices of the folder that --config-dir names."""
    places = [words[i + 1] for i, w in enumerate(words[:-1]) if w == "--config-dir"]
    places += [w.partition("=")[2] for w in words if w.startswith("--config-dir=")]
    return [(p.stem, "your own") for place in places for p in sorted((Path(place) / group).glob("*.yaml"))]


def chosen(words: Sequence[str]) -> dict[str, str]:
    """group -> choice: the words', else those of the experiment, the task or the model, else the default ones."""
    found: dict[str, str] = {}
    for entry in _yaml("config.yaml").get("defaults", []):
        if isinstance(entry, dict):
            found |= {str(k): str(v) for k, v in entry.items() if "@" not in str(k) and "/" not in str(k)}
    said = dict(w.partition("=")[::2] for w in words if w.partition("=")[0] in groups())
    for group in ("model", "task", "experiment"):
        choice = said.get(group, found.get(group, ""))
        for entry in _yaml(f"{group}/{choice}.yaml").get("defaults", []):
            if isinstance(entry, dict):
                for key, value in entry.items():
                    name = str(key).removeprefix("override ").lstrip("/").partition("@")[0]
                    found[name] = str(value)
    return found | said


def options(words: Sequence[str]) -> dict[str, str]:
    """Dotted options of the chosen configs, and those that stand at the top."""
    top = {k: v for k, v in _yaml("config.yaml").items() if k not in ("defaults", "hydra", "editor")}
    found = _flat(top)
    now = chosen(words)
    for part in PARTS:
        node = _yaml(f"{part}/{now.get(part, '')}.yaml")
        found |= _flat({part: {k: v for k, v in node.items() if k != "defaults"}})
    return {**dict.fromkeys(found, ""), "editor.guard": "stops edits by a warning sign"}


def _default(key: str, words: Sequence[str]) -> Any:
    part, _, rest = key.partition(".")
    node = _yaml(f"{part}/{chosen(words).get(part, '')}.yaml") if part in PARTS and rest else _yaml("config.yaml")
    for name in (rest if part in PARTS and rest else key).split("."):
        if not isinstance(node, dict) or name not in node:
            return ""
        node = node[name]
    return node


def _literals(key: str, words: Sequence[str]) -> list[str]:
    """Words of an option's type, read from the source of its constructor without importing it."""
    part, _, name = key.partition(".")
    target = str(_yaml(f"{part}/{chosen(words).get(part, '')}.yaml").get("_target_", ""))
    module, _, kind = target.rpartition(".")
    path = Path(__file__).parents[1] / (module.replace(".", "/") + ".py")
    if not name or not path.is_file():
        return []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == kind:
            return [text for hint in _hints(node, name) for text in _words(hint)]
    return []


def _hints(node: ast.ClassDef, name: str) -> Iterator[ast.expr]:
    """The annotations of a field, or of an argument of `__init__`."""
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.target.id == name:
            yield part.annotation
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            every = [*part.args.args, *part.args.kwonlyargs]
            yield from (a.annotation for a in every if a.arg == name and a.annotation is not None)


def _words(hint: ast.expr) -> Iterator[str]:
    for node in ast.walk(hint):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            yield from (
                c.value for c in ast.walk(node.slice) if isinstance(c, ast.Constant) and isinstance(c.value, str)
            )


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if str(key).startswith("_"):
            continue
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@cache
def _yaml(name: str) -> dict[str, Any]:
    """A file of conf/; {} where there is none."""
    import yaml

    path = conf_dir() / name
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        found = yaml.load(path.read_text(encoding="utf-8"), loader) if path.is_file() else {}
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
