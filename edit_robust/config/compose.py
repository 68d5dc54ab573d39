"""Compose the config of a job from conf/ and overrides; spread a sweep over its jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_robust.config.plugins import ours_first
from edit_robust.core.errors import UserError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig


GROUPS = (
    *("model", "task", "editor", "layer", "measure", "corruption", "trajectory", "tracker", "preset", "experiment"),
)


def conf_dir() -> Path:
    """The configs: inside the installed package, else the repository's."""
    here = Path(__file__).parents[1]
    return here / "conf" if (here / "conf" / "config.yaml").is_file() else here.parent / "conf"


def choices(group: str) -> dict[str, str]:
    """Choices of a group with the first line of each file's heading."""
    found = {}
    for path in sorted((conf_dir() / group).rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        about = [line for line in lines[:2] if line.startswith("#") and not line.startswith("# @")]
        name = path.relative_to(conf_dir() / group).with_suffix("").as_posix()
        found[name] = about[0].removeprefix("#").strip() if about else ""
    return found


def own_nodes(group: str, name: str) -> list[dict[str, Any]]:
    """The nodes with a constructor in a choice's own file: one as a rule, none for a bundle of other choices."""
    import yaml

    found = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    return [node for node in (found, *found.values()) if isinstance(node, dict) and "_target_" in node]


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
    ours_first(conf_dir())
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
    missing = re.search(r"Could not (?:find|load) '([^']+)'", text)
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
    keys = [str(k) for k in node if not str(k).startswith("_")] if isinstance(node, DictConfig) else []
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
            values.append([f"{key}={v}" for v in _swept(o)])
        else:
            values.append([text])
    first = [v[0] for v in values]
    jobs = [first]
    for i, options in enumerate(values):
        jobs += [[*first[:i], option, *first[i + 1 :]] for option in options[1:]]
    return jobs


def _swept(override: Any) -> list[Any]:
    """Values of a swept option; of an interval, its ends."""
    if override.is_interval_sweep():
        return [override.value().start, override.value().end]
    return list(override.sweep_string_iterator())


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


def as_plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values, with `???` where one must still be given. Raises UserError for a broken reference."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        found = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as e:
        raise UserError(" ".join(str(e).split())[:240]) from e
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}
