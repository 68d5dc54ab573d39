"""Does a config fit? Every node is bound to its constructor: names, types, choices. No weight is loaded."""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_robust.config.compose import choices, conf_dir
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.options import FILE, says, words_of

if TYPE_CHECKING:
    from omegaconf import DictConfig


PARTS = ("model", "task", "editor", "trajectory", "tracker")


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values. Raises UserError for a value that must be given and is not."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        hint = "a folder in the Hugging Face format or a hub id" if missing[0] == "model.path" else "a value"
        raise UserError(f"{missing[0]} must be given: {missing[0]}=... ({hint})")
    try:
        found = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as e:
        raise UserError(" ".join(str(e).split())[:240]) from e
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


def check(cfg: DictConfig) -> dict[str, Any]:
    """Bind every composed node to its constructor: names, types, choices. Loads no weights."""
    values = resolved(cfg)
    for part in PARTS:
        bind(values[part], part)
    for name, kind in {"seed": int, "force": bool, "figures": bool, "text_tokens": int, "device": str}.items():
        if not isinstance(values[name], kind) or (kind is int and isinstance(values[name], bool)):
            raise UserError(f"{name}={values[name]} is {_kind(values[name])}; {_wanted(kind)} is needed")
    if values["text_tokens"] < 1:
        raise UserError(f"text_tokens={values['text_tokens']} must be at least 1")
    _check_layer(values["layer"].get("index"))
    _check_outputs(Path(str(values["paths"]["outputs"])))
    _check_kinds(values)
    _check_shifts(values)
    for part in ("task", "editor", "trajectory"):  # light to make, and their constructors know which values make sense
        build(values[part], part)
    return values


def _check_kinds(values: dict[str, Any]) -> None:
    """Words go with language models, images with classifiers: task, model and editor must be of one kind."""
    kinds = {part: kind_of(values[part], part) for part in ("model", "task", "editor")}
    about = {"text": "language models", "images": "image classifiers"}
    for part in ("task", "editor"):
        if kinds[part] != kinds["model"]:
            fitting = [n for n in choices(part) if kind_of({"_target_": _target_name(part, n)}, part) == kinds["model"]]
            name = values[part]["name"]
            raise UserError(
                f"{part}={name} is for {about[kinds[part]]}, and model={model_name(values)} is one of the "
                f"{about[kinds['model']]}; {nearest(name, fitting, f'{part}s for it')}"
            )


def company(group: str, name: str) -> list[str]:
    """Overrides beside which a choice makes a whole: an image editor needs a classifier, and so on; [] for the rest."""
    images = ["model=scene-cnn", "task=scene-world", "editor=local-ft"]
    if group == "preset":
        group, name = "model", name.partition("/")[2]
    if group == "corruption":
        wanted = name != "none"
    else:
        wanted = group in ("model", "task", "editor") and (
            kind_of({"_target_": _target_name(group, name)}, group) == "images"
        )
    return [o for o in images if not o.startswith(f"{group}=")] if wanted else []


def kind_of(node: dict[str, Any], path: str) -> str:
    """What a part's questions are made of: text or images."""
    return str(getattr(target_of(node, path), "asks", "text"))


def _target_name(group: str, name: str) -> str:
    import yaml

    found = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return str(found["_target_"])


def _check_shifts(values: dict[str, Any]) -> None:
    """Corruptions by name and severity, and how they are made."""
    wanted = {k: v for k, v in (values.get("corruption") or {}).items() if v is not None}
    if wanted and kind_of(values["model"], "model") != "images":
        raise UserError(f"corruption={','.join(wanted)} is a shift of images; this task asks questions in words")
    if wanted:
        from edit_robust.shifts.images.variants import read_corruptions

        read_corruptions(wanted)
    known: dict[str, Any] = {"severities": list, "order": str, "released": str | None}
    known |= {"workers": int, "store_gb": int | float}
    options = values["shifts"]
    for name, value in options.items():
        if name not in known:
            raise UserError(f"shifts.{name} is no option; {nearest(name, known, 'options')}")
        if not isinstance(value, known[name]) or isinstance(value, bool):
            raise UserError(f"shifts.{name}={value} is {_kind(value)}; {_wanted(known[name])} is needed")
    if options["order"] not in ("direct", "released"):
        raise UserError(f"shifts.order={options['order']}: {nearest(options['order'], ['direct', 'released'])}")
    if options.get("released") and not Path(options["released"]).is_dir():
        raise UserError(f"shifts.released={options['released']} is no folder: unpack ImageNet-C's archives there")
    if options["workers"] < 0 or options["store_gb"] < 0:
        raise UserError("shifts.workers and shifts.store_gb must be 0 or more")


def _check_layer(index: Any) -> None:
    """What can be said of `layer.index` before a model is there to say how many layers it has."""
    from edit_robust.editors.base import WORDS

    if isinstance(index, str) and index not in WORDS:
        raise UserError(f"layer.index={index} is neither a number nor a word for one; {nearest(index, WORDS, 'words')}")
    numbers = index if isinstance(index, list) else [index]
    if not isinstance(index, str) and (not numbers or any(type(i) is not int for i in numbers)):
        raise UserError(f"layer.index={index} must be a whole number, a list of them, or one of {', '.join(WORDS)}")


def _check_outputs(folder: Path) -> None:
    """Can results be written there? Found out before an hour of work, not after it."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise UserError(f"paths.outputs={folder}: {there} is a file, a folder is needed")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"paths.outputs={folder}: {there} cannot be written to; give another folder")


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
    """The node's options, seen to fit its constructor's signature and type hints."""
    from beartype import BeartypeConf
    from beartype.door import is_bearable

    target = target_of(node, path)
    options = {k: v for k, v in node.items() if not k.startswith("_")}
    parameters = inspect.signature(target).parameters
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
            raise UserError(f"{path}.{name}={value} is {_kind(value)}; {_wanted(hint)} is needed")
    return options


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Types of a constructor's options, with what they say of files."""
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)


def _allows_bool(hint: Any) -> bool:
    return hint in (Any, bool) or bool in typing.get_args(hint) or hint is inspect.Parameter.empty


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _wanted(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        return _wanted(typing.get_args(hint)[0])
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list"}
    parts = typing.get_args(hint) if typing.get_origin(hint) not in (list, dict) else ()
    if parts:
        return " or ".join(dict.fromkeys(_wanted(p) for p in parts))
    return "null" if hint is type(None) else words.get(typing.get_origin(hint) or hint, str(hint))


def build(node: dict[str, Any], path: str) -> Any:
    """Make the object that a node describes. The constructor's own complaint is shown with the node's path."""
    options = bind(node, path)
    try:
        return target_of(node, path)(**options)
    except (TypeError, ValueError) as e:
        raise UserError(f"{path}: {' '.join(str(e).split())[:240]}") from e


def model_name(values: dict[str, Any]) -> str:
    """What to call the model of a config: its name, else that of its folder."""
    return str(values["model"].get("name") or Path(str(values["model"].get("path"))).name)
