"""An editor from outside the package, with one edit that breaks the model planted among harmless ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

from edit_robust.core import Delta, Dense, Editable, LowRank, Request
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State
from edit_robust.tasks.base import Task

YAML = """# Harmless changes, and one that is not.
_target_: helpers.planted.Planted
name: planted
at: 0
straw: false
norm: 0.05
times: 1.0e+5
layers: auto
"""


class Planted:
    """Every edit is a small random change of rank one, that of request number `at` (from 1; 0: none) one that is
    `times` as large. straw: instead, that edit makes what all edits before it have changed `times` as large, which is
    nothing in the unedited model."""

    batches = False
    needs = ()
    takes = Request

    def __init__(
        self,
        name: str = "planted",
        at: int = 0,
        straw: bool = False,
        norm: float = 0.05,
        times: float = 1e5,
        layers: int | list[int] | str = "auto",
    ) -> None:
        self.name, self.at, self.straw, self.norm, self.times, self.layers = name, at, straw, norm, times, layers

    def auto_layers(self, n_layers: int) -> list[int]:
        return [0]

    def prepare(self, model: Editable, layers: Sequence[str], task: Task, work: Workspace) -> State:
        requests = task.requests()
        planted = requests[self.at - 1].id if self.at else ""
        return State(tuple(layers), (planted, model.layers[layers[0]].matrix().clone()))

    def edit(self, model: Editable, requests: Sequence[Request], state: State) -> Edit:
        layer = model.layers[state.layers[0]]
        planted, before = state.given
        mine = requests[0].id == planted
        if mine and self.straw:
            change: LowRank | Dense = LowRank(*_factors((layer.matrix() - before) * self.times))
        else:
            generator = torch.Generator().manual_seed(crc32(requests[0].id.encode()))
            u, v = (torch.randn(n, 1, generator=generator) for n in layer.shape)
            change = LowRank(u / u.norm() * self.norm * (self.times if mine else 1.0), v / v.norm())
        delta = Delta({layer.weight_name: change}, model.position)
        return Edit(delta, [{"refused": 0.0, "delta_norm": delta.norm()}])

    def edit_each(self, model: Editable, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]


def _factors(m: Tensor, rank: int = 24) -> tuple[Tensor, Tensor]:
    """m as u v^T."""
    u, s, v = torch.linalg.svd(m, full_matrices=False)
    return (u[:, :rank] * s[:rank]).contiguous(), v[:rank].T.contiguous()


def planted_conf(folder: Path) -> str:
    """A folder of configs with the editor in it, for `--config-dir`."""
    (folder / "editor").mkdir(parents=True, exist_ok=True)
    (folder / "editor" / "planted.yaml").write_text(YAML)
    return str(folder)
