"""What all tests share: one thread, no network, shapes and types checked, tiny checkpoints made once."""

# ruff: noqa: E402

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

# Shapes and types in signatures are checked from here on; it has to come before anything of the project is imported.
install_import_hook(["edit_robust.core", "edit_robust.evaluate.statistics"], "beartype.beartype")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

from helpers.golden import unpack
from helpers.small import SmallTask
from helpers.tiny import tiny_checkpoint

from edit_robust.core.work import Workspace
from edit_robust.models.language.causal_lm import CausalLM


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="also run every further case of what a test covers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the cases marked `thorough` out unless they were asked for."""
    if config.getoption("--thorough"):
        return
    left = [item for item in items if item.get_closest_marker("thorough")]
    items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind -> folder of a tiny random checkpoint, made once a session."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_checkpoint(kind, tmp_path_factory.mktemp(kind))  # type: ignore[arg-type]
        return made[kind]

    return get


@pytest.fixture(scope="session")
def tiny_model(checkpoint: Callable[[str], Path]) -> Callable[[str], CausalLM]:
    """kind -> a loaded tiny model, shared by the session: leave it as you found it."""
    loaded: dict[str, CausalLM] = {}

    def get(kind: str) -> CausalLM:
        if kind not in loaded:
            loaded[kind] = CausalLM(str(checkpoint(kind)), name=kind, device="cpu")
        return loaded[kind]

    return get


@pytest.fixture(scope="session")
def task() -> SmallTask:
    return SmallTask(n_requests=8)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose cache the session shares."""
    return Workspace(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of the reference implementation that travel with the tests (see tests/golden/README.md), unpacked."""
    return unpack(tmp_path_factory.mktemp("golden"))
