"""A node of a config and the constructor that it names with `_target_`: options are bound to it, objects built."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edit_robust.config.compose import choices
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.options import FILE, says, words_of

#: A node's part that is no option: what it describes has a method `around`, which is given the object made.
AROUND = "guard"


def target_of(node: dict[str, Any], path: str) -> Callable[..., Any]:
    """The constructor that a node names with `_target_`."""
    from hydra.utils import get_object

    name = node.get("_target_")
    if not name:
        raise UserError(f"{path} names no _target_: choose one, for example {path}={next(iter(choices(path)), '...')}")
    try:
        found = get_object(name)
    except Exception as e:
        raise UserError(f"{path}._target_={name} cannot be imported: {' '.join(str(e).split())[:160]}") from e
    return typing.cast(Callable[..., Any], found)


def bind(node: dict[str, Any], path: str) -> dict[str, Any]:
    """The node's options, seen to fit its constructor's signature and type hints.

    An option that is a node itself (with a `_target_`) is made first; its own complaints name it by the option's name.
    """
    from beartype import BeartypeConf
    from beartype.door import is_bearable

    target = target_of(node, path)
    parameters = inspect.signature(target).parameters
    around = _around(node, parameters)
    if around is not None:
        build(around, f"{path}.{AROUND}")
    options = {
        k: build(v, k) if _is_node(v) else v
        for k, v in node.items()
        if not k.startswith("_") and (around is None or k != AROUND)
    }
    for name in options:
        if name not in parameters:
            raise UserError(f"{path}.{name} is no option of {target.__name__}; {nearest(name, parameters, 'options')}")
    for name, p in parameters.items():
        if p.default is inspect.Parameter.empty and name not in options:
            raise UserError(f"{path}.{name} must be given")
    hints = hints_of(target)
    for name, value in options.items():
        hint = hints.get(name, Any)
        if not is_bearable(value, hint, conf=BeartypeConf(is_pep484_tower=True)) or (
            isinstance(value, bool) and not _allows_bool(hint)
        ):
            if (literal := words_of(hint)) and not says(hint, FILE):
                raise UserError(f"{path}.{name}={value}: {nearest(str(value), literal)}")
            raise UserError(f"{path}.{name}={value} is {kind_of(value)}; {wanted(hint)} is needed")
    return options


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _around(node: dict[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The node of what is put around the object, unless the constructor takes it itself."""
    around = node.get(AROUND)
    return around if _is_node(around) and AROUND not in parameters else None


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Types of a constructor's options, with what they say of files."""
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)


def _allows_bool(hint: Any) -> bool:
    return hint in (Any, bool) or bool in typing.get_args(hint) or hint is inspect.Parameter.empty


def kind_of(value: Any) -> str:
    """A value's type in words: `a whole number`."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def wanted(hint: Any) -> str:
    """A type hint in words: `a number or null`."""
    if typing.get_origin(hint) is typing.Annotated:
        return wanted(typing.get_args(hint)[0])
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list"}
    parts = typing.get_args(hint) if typing.get_origin(hint) not in (list, dict) else ()
    if parts:
        return " or ".join(dict.fromkeys(wanted(p) for p in parts))
    return "null" if hint is type(None) else words.get(typing.get_origin(hint) or hint, str(hint))


def build(node: dict[str, Any], path: str) -> Any:
    """Make the object that a node describes, with its guard around it where it has one.

    The constructor's own complaint is shown with the node's path.
    """
    options = bind(node, path)
    target = target_of(node, path)
    try:
        made = target(**options)
    except (TypeError, ValueError) as e:
        raise UserError(f"{path}: {' '.join(str(e).split())[:240]}") from e
    around = _around(node, inspect.signature(target).parameters)
    return made if around is None else build(around, f"{path}.{AROUND}").around(made)


def model_name(values: Mapping[str, Any]) -> str:
    """What to call the model of a config: its name, else that of its folder."""
    model = values["model"]
    return str(model.get("name") or Path(str(model.get("factory") or model.get("path"))).name)
