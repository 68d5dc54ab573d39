"""Configs of ours that have the name of one of a plugin of Hydra's."""

from __future__ import annotations

from pathlib import Path


def ours_first(conf: Path) -> None:
    """Let `hydra/launcher=joblib` and the like mean the configs in `conf`, whatever plugins are installed beside.

    Hydra takes a config that a plugin has registered under the same name for a schema that ours must fit.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # they register when they are found
    for path in (conf / "hydra").rglob("*.yaml"):
        node = ConfigStore.instance().repo
        for folder in path.relative_to(conf).parent.parts:
            node = node.get(folder, {})
        node.pop(path.name, None)
