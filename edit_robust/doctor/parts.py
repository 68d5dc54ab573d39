"""Which models and data can be had here without the network, and whether W&B is logged in."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edit_robust.config.compose import choices, own_nodes
from edit_robust.config.nodes import target_of
from edit_robust.doctor.caches import hub_folder, torch_folder
from edit_robust.doctor.finding import Finding


def tracking() -> Iterator[Finding]:
    """Whether runs are mirrored online. The network is not asked: a key that is there may be an old one."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("disabled", "offline", "dryrun"):
        yield Finding("tracking", "W&B", "ok", f"WANDB_MODE={mode}")
    elif _wandb_key():
        yield Finding("tracking", "W&B", "ok", "logged in: runs are mirrored online (tracker=none turns it off)")
    else:
        text = "not logged in: runs are mirrored to files (tracker=none turns it off)"
        yield Finding("tracking", "W&B", "ok", text, "`wandb login`, then `wandb sync FOLDER` sends them")


def _wandb_key() -> bool:
    """Whether there is a key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if name and netrc.netrc(Path(name).expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def models() -> Iterator[Finding]:
    """Every model of conf/model: built in, in a cache, or how to get it."""
    for name in choices("model"):
        for node in own_nodes("model", name):
            yield model(name, node)


def model(name: str, node: dict[str, Any]) -> Finding:
    """Whether one choice's weights are here."""
    path = node.get("path")
    if "???" in (str(path), str(node.get("factory")), str(node.get("name"))) or not (path or node.get("name")):
        missing = next((k for k in ("path", "factory", "name") if node.get(k) == "???"), "path")
        return Finding("models", name, "ok", f"your own: model.{missing}=...")
    if str(path).startswith("builtin:"):
        from edit_robust.assets import asset_dir
        from edit_robust.core.errors import UserError

        try:
            folder = asset_dir(str(path).removeprefix("builtin:"))
        except UserError as e:
            return Finding("models", name, "fault", str(e), "install the package again: its files are damaged")
        whole = any(folder.glob("*.safetensors"))
        text, mend = ("built in", "") if whole else (f"{folder} holds no weights", "install the package again")
        return Finding("models", name, "ok" if whole else "fault", text, mend)
    where = _kept(node)
    if where:
        return Finding("models", name, "ok", f"in {where}")
    asked = f"the first run downloads {path or node.get('name')}" + (
        "" if not _offline() else " (HF_HUB_OFFLINE is set)"
    )
    return Finding("models", name, "note", "not here", f"{asked}; or model.path=FILE or FOLDER")


def _kept(node: dict[str, Any]) -> str:
    """The folder of a cache that holds the weights of a node; "" for none."""
    path = node.get("path")
    if path:
        folder = hub_folder() / f"models--{str(path).replace('/', '--')}"
        weights = [p for kind in ("*.safetensors", "*.bin") for p in folder.glob(f"snapshots/*/{kind}")]
        return str(folder) if weights else ""
    name = str(node.get("name"))
    if "pretrained" in node:  # a CLIP of open_clip, by architecture and tag
        import open_clip

        about = open_clip.get_pretrained_cfg(name, str(node["pretrained"]))
        hub = str(about.get("hf_hub", "")).rstrip("/")
    else:
        import timm

        found = timm.models.get_pretrained_cfg(name)
        about = {"url": getattr(found, "url", "")}
        hub = str(getattr(found, "hf_hub_id", "") or "")
    folder = hub_folder() / f"models--{hub.replace('/', '--')}"
    if hub and any(folder.glob("snapshots/*/*")):
        return str(folder)
    file = str(about.get("url") or "").rpartition("/")[2]
    return str(torch_folder() / file) if file and (torch_folder() / file).is_file() else ""


def data() -> Iterator[Finding]:
    """Every task of conf/task: what it needs."""
    for name in choices("task"):
        for node in own_nodes("task", name):
            needs = str(getattr(target_of(node, "task"), "needs", ""))
            if needs.startswith("nothing"):
                yield Finding("data", name, "ok", f"built in{needs.removeprefix('nothing')}")
            else:
                yield Finding("data", name, "note", f"needs {needs}")


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
