"""Independent single edits made together, against the same edits made one at a time.

Every request is edited in the unedited model. What is compared are the changes; where values are optimised they agree
as far as 20 steps of Adam in another batch do. FT-C and LoRA train each request's weights by themselves, and gain
nothing: they have no row here (see docs/scale.md).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bench_rows import Row, World, shown

from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, edit_each_or_refuse, edit_or_refuse
from edit_robust.editors.language.emmet import Emmet
from edit_robust.editors.language.helpers.hypernetwork import Hypernetwork, Statistics
from edit_robust.editors.language.helpers.hypernetwork_files import as_tensors
from edit_robust.editors.language.memit import Memit
from edit_robust.editors.language.mend import Mend
from edit_robust.editors.language.nse import Nse
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.language.counterfact import Counterfact

TESTS = Path(__file__).resolve().parent.parent / "tests"


@dataclass(frozen=True)
class Case:
    """An editor, the blocks it edits, how many requests, how far its changes may be apart, and the least ratio."""

    editor: Any
    blocks: tuple[int, ...]
    n: int
    close: float
    floor: float


def cases(world: World) -> Iterator[Case]:
    """The editors that make independent edits together."""
    given: dict[str, Any] = {
        "mom2": str(world.folder / "second_moment.npz"),
        "context_templates": "bare",
        "value_batch": 16,
    }
    last = world.model.n_layers
    yield Case(mend(world), (last - 3, last - 2, last - 1), 40, 1e-5, 3.0)
    yield Case(Rome(**given), (0,), 16, 1e-3, 3.0)
    yield Case(Emmet(**given), (0,), 16, 1e-3, 3.0)
    yield Case(Memit(**given), (0, 1, 2), 16, 1e-3, 3.0)
    yield Case(Nse(**given), (0, 1, 2), 16, 1e-3, 3.0)


def mend(world: World, rank: int = 128) -> Mend:
    """MEND with a random hypernetwork that transforms: how long it takes does not depend on its training."""
    from safetensors.torch import save_file

    model: CausalLM = world.model
    editor = Mend(rank=rank)
    targets = editor.targets(model, [model.layer_at(i).name for i in editor.auto_layers(model.n_layers)])
    start = Hypernetwork.start(targets, rank, 1, 1e-3, seed=0)
    generator = torch.Generator().manual_seed(0)
    networks = {}
    for shape, network in start.networks.items():
        wide = torch.ones(sum(shape), dtype=torch.float64)
        drawn = {
            name: value + 0.1 * torch.randn(value.shape, generator=generator) / (rank if name.endswith(".u") else 1)
            for name, value in network.parameters.items()
        }
        networks[shape] = replace(network, parameters=drawn, statistics=Statistics(10, 0 * wide, 9 * wide))
    file = world.folder / "hypernetwork.safetensors"
    tensors = as_tensors(replace(start, networks=networks))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return Mend(hypernetwork=str(file), rank=rank)


def single_rows(world: World, times: int = 3) -> Iterator[Row]:
    """A row an editor: the best of `times`, both ways by turns; the first requests warm up."""
    task = Counterfact(path=str(world.folder / "requests.json"))
    for case in cases(world):
        model, requests = world.model, world.requests[: case.n]
        layers = [model.layer_at(i).name for i in case.blocks]
        state: State[Any] = case.editor.prepare(model, layers, task, Workspace(world.folder))
        alone: list[Edit] = [edit_or_refuse(case.editor, model, [r], state) for r in requests[:2]]
        each: list[Edit] = edit_each_or_refuse(case.editor, model, requests[:2], state)
        before, here = [], []
        for _ in range(times):
            start = time.process_time()
            alone = [edit_or_refuse(case.editor, model, [r], state) for r in requests]
            middle = time.process_time()
            each = edit_each_or_refuse(case.editor, model, requests, state)
            before.append(middle - start)
            here.append(time.process_time() - middle)
        off = max(apart(a, b) for a, b in zip(each, alone, strict=True))
        equal = f"changes to {off:.0e} ({case.close:.0e} allowed)"
        what, ratio = f"{case.n} independent edits by {case.editor.name}", min(before) / min(here)
        yield Row(what, case.n, min(before), min(here), ratio, case.floor, equal, not off <= case.close)


def apart(a: Edit, b: Edit) -> float:
    """The largest relative difference of a projection's change; infinite where one is refused and the other is not."""
    if set(a.delta.terms) != set(b.delta.terms) or not b.delta.terms:
        return float("inf")
    off = 0.0
    for name, term in b.delta.terms.items():
        dense = term.dense().double()
        off = max(off, float((a.delta.terms[name].dense().double() - dense).norm() / dense.norm()))
    return off


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from helpers.golden import unpack  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(single_rows(World.of(unpack(Path(folder)), 40), args.times))
    return shown(rows, 1, "otherwise: one at a time")


if __name__ == "__main__":
    raise SystemExit(main())
