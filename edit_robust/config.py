"""Everything that touches Hydra: find conf/, compose, check, name a run, build its parts. `build` ends it."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_robust.core.errors import UserError, nearest
from edit_robust.core.options import ASIDE as NO_RESULT
from edit_robust.core.options import FILE, says, words_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from edit_robust.runner import Experiment
    from edit_robust.runs import Run
    from edit_robust.ui import Ui

PARTS = ("model", "task", "editor", "trajectory", "tracker")
GROUPS = ("model", "task", "editor", "layer", "corruption", "trajectory", "tracker", "preset", "experiment")
#: Options that say how or where a run is done, not what it is.
ASIDE = ("paths", "tracker", "hydra", "force", "figures", "experiment")
#: Of these parts, options that change no result (the parts have no constructor whose signature could say so).
ASIDE_OF = {"shifts": ("workers", "store_gb")}
#: Raised when results of the same config change, so that older runs are not taken for today's.
RESULTS_VERSION = 2


def conf_dir() -> Path:
    """The configs: inside the installed package, else the repository's."""
    here = Path(__file__).parent
    return here / "conf" if (here / "conf" / "config.yaml").is_file() else here.parent / "conf"


def choices(group: str) -> dict[str, str]:
    """Choices of a group with the first line of each file's heading."""
    found = {}
    for path in sorted((conf_dir() / group).glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        about = [line for line in lines[:2] if line.startswith("#") and not line.startswith("# @")]
        found[path.stem] = about[0].removeprefix("#").strip() if about else ""
    return found


# -- composing -----------------------------------------------------------------------------------------------------


def compose(overrides: Sequence[str] = (), config_dir: str | None = None, with_hydra: bool = False) -> DictConfig:
    """The config of one job, with Hydra's own part on request. Raises UserError with the nearest valid choice."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with _hydra(config_dir):
            return hydra_compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException) as e:
        raise UserError(_explain(e, overrides)) from e


@contextmanager
def _hydra(config_dir: str | None = None) -> Iterator[None]:
    """Inside the block Hydra composes our configs, and those in `config_dir`; afterwards it is as it was before."""
    import warnings

    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    outer, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    places = create_config_search_path(str(conf_dir()))
    if config_dir:  # before ours, as Hydra's own --config-dir has it
        places.prepend("command-line", f"file://{Path(config_dir).resolve()}")
    version.setbase("1.3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            Hydra.create_main_hydra2(task_name="edit-robust", config_search_path=places)
            yield
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = outer, config


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's exception as one line with the nearest valid choice."""
    text = str(error)
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing and "/" in missing[1]:
        group, _, name = missing[1].partition("/")
        return f"there is no {group} {name!r}; {nearest(name, choices(group), f'{group}s')}"
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: ([\w.\-@]+)", text)
    if key:
        path = key[1].split("@")[0]
        parent, _, last = path.rpartition(".")
        wrong = [o for o in overrides if o.lstrip("+~").split("=")[0].split("@")[0] == path]
        value = wrong[0] if wrong else path
        known = _known_keys(parent, [o for o in overrides if o not in wrong])
        if last in known:
            return f"{value}: {' '.join(text.split())[:200]}"
        where = f"in {parent}" if parent else "to set"
        return f"{value}: there is no option {last!r} {where}; {nearest(last, known, 'options')}"
    if "missing EQUAL" in text:
        wrong = [o for o in overrides if "=" not in o]
        return f"{' '.join(wrong)}: a value is missing; write GROUP=CHOICE or GROUP.OPTION=VALUE"
    line = " ".join(line.strip() for line in text.partition("See https")[0].splitlines()[:3] if line.strip())
    unread = getattr(error, "override", None)
    return f"{unread} cannot be read as an option: {line}" if unread else line


def _known_keys(parent: str, overrides: Sequence[str]) -> list[str]:
    """Options at a place of the config that `overrides` make, or of the default one where they cannot be composed."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with _hydra():
        try:
            node: Any = hydra_compose("config", overrides=list(overrides))
        except (HydraException, OmegaConfBaseException):
            node = hydra_compose("config")
    if parent:
        node = OmegaConf.select(node, parent)
    keys = [str(k) for k in node] if isinstance(node, DictConfig) else []
    return [*keys, *(() if parent else GROUPS)]


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """For a sweep: override lists that together contain every value of every swept option at least once."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as e:
        raise UserError(_explain(e, overrides)) from e
    values = []
    for text, o in zip(overrides, parsed, strict=True):
        if o.is_sweep_override():
            key = o.get_key_element()
            values.append([f"{key}={v}" for v in o.sweep_string_iterator()])
        else:
            values.append([text])
    first = [v[0] for v in values]
    jobs = [first]
    for i, options in enumerate(values):
        jobs += [[*first[:i], option, *first[i + 1 :]] for option in options[1:]]
    return jobs


# -- checking ------------------------------------------------------------------------------------------------------


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
                f"{part}={name} is for {about[kinds[part]]}, and model={_model_name(values)} is one of the "
                f"{about[kinds['model']]}; {nearest(name, fitting, f'{part}s for it')}"
            )


def company(group: str, name: str) -> list[str]:
    """Overrides beside which a choice makes a whole: an image editor needs a classifier, and so on; [] for the rest."""
    images = ["model=scene-cnn", "task=scene-world", "editor=local-ft"]
    if group == "preset":
        name = next((m for m in sorted(choices("model"), key=len, reverse=True) if name.endswith(f"-{m}")), name)
        group = "model"
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
        from edit_robust.inquiry.shifting import read_corruptions

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


# -- naming and building -------------------------------------------------------------------------------------------


def run_id(values: dict[str, Any]) -> str:
    """A run is named by what it does: its parts, and a hash of everything that can change a result.

    Choices count by their names and their options' values, never by where their code lies. Options that name files
    (`DataFile` in the constructor's signature) count by the files' content: moved files make the same run, changed
    files another one. Options marked `Aside` do not count.
    """
    about = {k: _by_content(v, part=k) for k, v in values.items() if k not in ASIDE}
    text = json.dumps({"version": RESULTS_VERSION, **about}, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = [
        values["editor"]["name"],
        _model_name(values),
        values["task"]["name"],
        values["trajectory"]["name"],
        digest,
    ]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(str(p) for p in parts))


def _model_name(values: dict[str, Any]) -> str:
    return str(values["model"].get("name") or Path(str(values["model"].get("path"))).name)


def _by_content(node: Any, hint: Any = None, part: str = "") -> Any:
    """An option's value as it counts for a run's id. hint: its type, as the constructor's signature has it."""
    if isinstance(node, dict) and "_target_" in node:
        target = target_of(node, part)
        hints = hints_of(target)
        found = {
            k: _by_content(v, hints.get(k))
            for k, v in node.items()
            if k[:1] != "_" and not says(hints.get(k), NO_RESULT)
        }
        return found if "name" in found else {"name": target.__name__, **found}
    if isinstance(node, dict):
        return {k: _by_content(v, hint) for k, v in node.items() if k not in ASIDE_OF.get(part, ())}
    if isinstance(node, list):
        return [_by_content(v, hint) for v in node]
    if isinstance(node, str) and says(hint, FILE) and node not in words_of(hint):
        return _content(node)
    return node


def _content(name: str) -> str:
    """Hash of what a file, a folder or a shipped model holds; the name itself where there is no such file."""
    from edit_robust.core.files import content_digest

    if name.startswith("builtin:"):
        from edit_robust.assets import asset_dir

        return content_digest(asset_dir(name.removeprefix("builtin:")))
    path = Path(name).expanduser()
    return content_digest(path) if name and path.exists() else name


def build(node: dict[str, Any], path: str) -> Any:
    """Make the object that a node describes. The constructor's own complaint is shown with the node's path."""
    options = bind(node, path)
    try:
        return target_of(node, path)(**options)
    except (TypeError, ValueError) as e:
        raise UserError(f"{path}: {' '.join(str(e).split())[:240]}") from e


def experiment(cfg: DictConfig) -> Experiment:
    """Everything of a run but the weights."""
    from edit_robust.runner import Experiment

    values = check(cfg)
    outputs = Path(values["paths"]["outputs"])
    stored = {k: v for k, v in values.items() if k not in ("hydra", "force")}
    return Experiment(
        run_id=run_id(values),
        config=stored,
        model=lambda: build(values["model"], "model"),
        task=build(values["task"], "task"),
        editor=build(values["editor"], "editor"),
        layer=values["layer"]["index"],
        trajectory=build(values["trajectory"], "trajectory"),
        tracker=lambda: build(values["tracker"], "tracker"),
        seed=values["seed"],
        outputs=outputs,
        force=values["force"],
        figures=values["figures"],
        text_tokens=values["text_tokens"],
        shifts={**values["shifts"], "corruption": values["corruption"]},
    )


def run_config(cfg: DictConfig, ui: Ui | None = None) -> Run:
    """Run what a composed config asks for."""
    from edit_robust.runner import execute

    return execute(experiment(cfg), ui)


# -- the command line's entry --------------------------------------------------------------------------------------


#: What went wrong in jobs of this process (a failed job does not stop the others of its sweep).
_failures: list[BaseException] = []


def _job(cfg: DictConfig) -> None:
    """One job, at module level because launchers pickle it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from edit_robust.cli import explain, present

    try:
        present(run_config(cfg))
    except Exception as e:
        explain(e)
        _failures.append(e)
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN and "BasicLauncher" not in str(hydra.launcher._target_):
            raise  # in another process: its launcher must know


def jobs(overrides: Sequence[str], config_dir: str | None = None, multirun: bool = False) -> list[list[str]]:
    """The jobs of a command line, to be checked: one, or those that together hold every value of a sweep.

    A sweep is what `-m` asks for, or an experiment with `hydra.mode: MULTIRUN`, whose swept values count, too.
    """
    own = [o for o in overrides if o.startswith(("experiment=", "hydra.mode=")) and "," not in o]
    params: dict[str, Any] = {}
    if own:
        hydra = compose(own, config_dir, with_hydra=True).hydra
        multirun = multirun or str(hydra.mode).rpartition(".")[2] == "MULTIRUN"
        params = hydra.sweeper.get("params") or {}
    return expand([*(f"{k}={v}" for k, v in params.items()), *overrides]) if multirun else [list(overrides)]


def _parse(argv: Sequence[str]) -> Any:
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> typing.NoReturn:
        raise UserError(f"{message}; options are written GROUP=CHOICE or GROUP.OPTION=VALUE, -m makes a sweep")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(argv))


def main(argv: Sequence[str]) -> list[BaseException]:
    """Hand a command line to Hydra. Returns what went wrong in its jobs.

    Overrides are checked first, all values of a sweep too, so that a typing error costs a line and not a sweep.
    """
    import hydra

    args = _parse(argv)
    if not (args.help or args.hydra_help or args.shell_completion):
        if args.config_dir and not Path(args.config_dir).is_dir():
            raise UserError(f"--config-dir {args.config_dir} is not a folder")
        if args.cfg or args.info:
            compose(args.overrides, args.config_dir)
        else:
            for overrides in jobs(args.overrides, args.config_dir, args.multirun):
                check(compose(overrides, args.config_dir))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come here whole; how to show them is decided here
    _failures.clear()
    before = sys.argv
    # Hydra wants all overrides side by side; `run editor=rome -m layer.index=0,1` is just as clear
    sys.argv = ["edit-robust run", *args.overrides, *(a for a in argv if a not in args.overrides)]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)()
    finally:
        sys.argv = before
    return list(_failures)
