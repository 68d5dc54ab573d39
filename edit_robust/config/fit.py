"""Do the parts of a run go together? Nobody asks what kind a model is: each part says what it needs of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edit_robust.config.compose import as_plain, choices, compose, own_nodes
from edit_robust.config.nodes import model_name, target_of
from edit_robust.core.errors import UserError, nearest

#: The built-in worlds: parts that go together, and need nothing.
WORLDS = (
    {"model": "fact-gpt", "task": "fact-world", "editor": "rome", "measure": "facts"},
    {"model": "scene-cnn", "task": "scene-world", "editor": "local-ft", "measure": "images"},
)


def check_fit(values: Mapping[str, Any]) -> None:
    """UserError where editor, model, task or measures lack what another part needs, with choices that would do."""
    model, task, editor = (target_of(values[part], part) for part in ("model", "task", "editor"))
    named = {"model": model_name(values), **{part: str(values[part].get("name")) for part in ("task", "editor")}}
    _check_editor(editor, model, task, named)
    before: list[str] = []
    for name, node in values["measure"].items():
        needs = target_of(node, f"measure.{name}").needs  # type: ignore[attr-defined]
        for part, target, wanted in (("model", model, needs.model), ("task", task, needs.task)):
            if lacking := [w for w in wanted if not hasattr(target, w)]:
                raise UserError(
                    f"measure={name} needs a {part} with {', '.join(lacking)}, and {part}={named[part]} has none; "
                    f"leave the measure out, or give another {part}"
                )
        if missing := [m for m in needs.measures if m not in before]:
            raise UserError(f"measure={name} needs measure {missing[0]} before it: measure=[{missing[0]},{name}]")
        before.append(name)
    if not before:
        raise UserError(f"measure is empty: choose at least one; {nearest('', choices('measure'), 'measures')}")
    _check_corruption(values)


def _check_editor(editor: Any, model: Any, task: Any, named: Mapping[str, str]) -> None:
    """The editor against the model's methods, and against the kind of request that the task makes."""
    if lacking := [n for n in editor.needs if not hasattr(model, n)]:
        fitting = [n for n in choices("editor") if not _lacking(_choice("editor", n), model)]
        raise UserError(
            f"editor={named['editor']} needs a model with {', '.join(lacking)}, and model={named['model']} has none; "
            f"{nearest(named['editor'], fitting, 'editors for it')}"
        )
    if not issubclass(task.gives, editor.takes):
        fitting = [n for n in choices("task") if issubclass(_choice("task", n).gives, editor.takes)]
        raise UserError(
            f"task={named['task']} makes {task.gives.about}, and editor={named['editor']} takes {editor.takes.about}; "
            f"{nearest(named['task'], fitting, 'tasks for it')}"
        )


def _lacking(editor: Any, model: Any) -> list[str]:
    return [n for n in editor.needs if not hasattr(model, n)]


def _check_corruption(values: Mapping[str, Any]) -> None:
    """A shift that nobody would look at is a mistake, and so is one of another kind of data."""
    wanted = [name for name, severities in (values.get("corruption") or {}).items() if severities is not None]
    looking = {name: node for name, node in values["measure"].items() if "corruption" in node}
    if wanted and not looking:
        measures = ", ".join(values["measure"])
        raise UserError(f"corruption={','.join(wanted)}: no measure looks at shifted data ({measures})")
    for name, node in looking.items():
        read = getattr(target_of(node, f"measure.{name}"), "read_shifts", None)
        if read is not None:
            read(node["corruption"])


def _choice(group: str, name: str) -> Any:
    """The constructor of a choice of a group."""
    return target_of(own_nodes(group, name)[0], group)


def partners(group: str, name: str) -> list[str]:
    """Overrides beside which a choice makes a whole: the other parts of the first built-in world that it fits into."""
    if group == "preset":
        group, name = "model", name.partition("/")[2]
    if group == "experiment":  # says all of its parts itself
        return []
    for number, world in enumerate(WORLDS):
        others = [f"{g}={choice}" for g, choice in world.items() if g != group]
        try:
            check_fit(as_plain(compose([*others, f"{group}={name}"])))
        except UserError:
            continue
        return others if number else []
    return []
