"""Trained hypernetworks as named tensors: ours, and the public implementation's as an .npz file.

`edit_lrs` holds the rates. The networks' tensors stand under a prefix for each shape: `layers.L.u`, `.v`, `.bias`,
`.mode_scale.weight`, `.mode_shift.weight`. The statistics are `mean`, `squares` and `k` here, and there `u_mean`,
`v_mean`, `u_s`, `v_s` (sums of squares) and `k`. Ours tell in `about`, as bytes of JSON, what they were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edit_robust.core import UserError
from edit_robust.editors.helpers.cache import UNREADABLE
from edit_robust.editors.language.helpers.hypernetwork import (
    PARTS,
    Hypernetwork,
    Shape,
    ShapeNetwork,
    Statistics,
    Target,
    rows_by_shape,
)
from edit_robust.models.language.causal_lm import CausalLM

FORMAT = "mend-1"


def about_tensor(about: Mapping[str, Any]) -> Tensor:
    """What a hypernetwork was trained on, as bytes: its model's hash under `model`, its projections under `modules`."""
    story = json.dumps({"format": FORMAT, **about}, sort_keys=True).encode()
    return torch.frombuffer(bytearray(story), dtype=torch.uint8).clone()


def as_tensors(hypernetwork: Hypernetwork) -> dict[str, Tensor]:
    """Everything that an edit needs, by name."""
    found = {"edit_lrs": hypernetwork.rates}
    for shape, network in hypernetwork.networks.items():
        prefix = f"{shape[0]}x{shape[1]}"
        found |= {f"{prefix}/{name}": tensor for name, tensor in network.parameters.items()}
        found |= {f"{prefix}/{name}": tensor for name, tensor in statistics_as_tensors(network.statistics).items()}
    return found


def statistics_as_tensors(statistics: Statistics) -> dict[str, Tensor]:
    """mean, squares [D] and k [1], in float64."""
    count = torch.tensor([float(statistics.count)], dtype=torch.float64)
    return {"mean": statistics.mean, "squares": statistics.squares, "k": count}


def statistics_from(tensors: Mapping[str, Tensor], prefix: str) -> Statistics:
    """The statistics under a prefix, as they are written here or by the public implementation."""
    own = {n.removeprefix(f"{prefix}/"): t.double() for n, t in tensors.items() if n.startswith(f"{prefix}/")}
    mean = own["mean"] if "mean" in own else torch.cat([own["u_mean"], own["v_mean"]])
    squares = own["squares"] if "squares" in own else torch.cat([own["u_s"], own["v_s"]])
    return Statistics(round(float(own["k"].reshape(-1)[0])), mean, squares)


def hypernetwork_file(path: str, model: CausalLM, targets: tuple[Target, ...]) -> Hypernetwork:
    """The hypernetwork of a file, for the projections that are edited.

    UserError for a file that cannot be read, and for one that belongs to another model or to other projections.
    """
    tensors = read_tensors(Path(path).expanduser(), f"editor.hypernetwork={path}")
    return from_tensors(tensors, targets, f"editor.hypernetwork={path}", model)


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """All tensors of a .safetensors or .npz file. UserError, calling the file `what`, where it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{what} is no file: give a hypernetwork (.safetensors or .npz), or `trained` to train one")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                return {name: torch.from_numpy(held[name]) for name in held.files}
        return dict(load_file(path))
    except (SafetensorError, *UNREADABLE) as e:
        raise UserError(f"{what} is not a readable .safetensors or .npz file: {e}") from e


def from_tensors(
    tensors: Mapping[str, Tensor], targets: tuple[Target, ...], what: str, model: CausalLM
) -> Hypernetwork:
    """The hypernetwork of named tensors. UserError, calling them `what`, where they do not fit the model."""
    about = json.loads(bytes(tensors["about"].tolist())) if "about" in tensors else {}
    trained_on = about.get("model")
    if trained_on is not None and trained_on not in (model.base, *model.older_bases):
        raise UserError(f"{what} was trained on another model ({trained_on}), and this one is {model.base}")
    _check_targets(about.get("modules"), targets, what)
    prefixes = {name.partition("/")[0] for name in tensors if "/" in name}
    held = {_shape_of(tensors, prefix, what): prefix for prefix in sorted(prefixes)}
    networks: dict[Shape, ShapeNetwork] = {}
    for shape, rows in rows_by_shape(targets).items():
        if shape not in held:
            known = ", ".join(f"{a} -> {b}" for a, b in held) or "none"
            raise UserError(
                f"{what} has no network for projections {shape[0]} -> {shape[1]} (it has {known}): another model's"
            )
        networks[shape] = _network(tensors, held[shape], rows, what)
    rates = tensors.get("edit_lrs", torch.zeros(0)).float().reshape(-1)
    if len(rates) != len(targets):
        raise UserError(f"{what} has {len(rates)} rates (edit_lrs), and {len(targets)} projections are edited")
    found = Hypernetwork(targets, networks, rates)
    if any(not bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()):
        raise UserError(f"{what} holds values that are not finite")
    return found


def _check_targets(modules: list[str] | None, targets: tuple[Target, ...], what: str) -> None:
    edited = [t.name for t in targets]
    if modules is not None and modules != edited:
        raise UserError(
            f"{what} was trained for {', '.join(modules)}, and {', '.join(edited)} are edited: "
            "give the same layer.index and editor.order"
        )


def _shape_of(tensors: Mapping[str, Tensor], prefix: str, what: str) -> Shape:
    """[d_in, d_out] of the projections that the tensors under a prefix are for."""
    if f"{prefix}/u_mean" in tensors and f"{prefix}/v_mean" in tensors:
        return len(tensors[f"{prefix}/u_mean"]), len(tensors[f"{prefix}/v_mean"])
    numbers = prefix.split("x")
    if len(numbers) != 2 or not all(n.isdigit() for n in numbers):
        raise UserError(f"{what} is no hypernetwork: {prefix}/ tells no shape of projections")
    return int(numbers[0]), int(numbers[1])


def _network(tensors: Mapping[str, Tensor], prefix: str, rows: int, what: str) -> ShapeNetwork:
    own = {n.removeprefix(f"{prefix}/"): t.float() for n, t in tensors.items() if n.startswith(f"{prefix}/layers.")}
    depth = -(-len(own) // len(PARTS))
    missing = [n for i in range(max(depth, 1)) for part in PARTS if (n := f"layers.{i}.{part}") not in own]
    if missing:
        raise UserError(f"{what} is no hypernetwork: it lacks {prefix}/{missing[0]}")
    try:
        network = ShapeNetwork(own, statistics_from(tensors, prefix))
    except (KeyError, RuntimeError, ValueError) as e:
        raise UserError(f"{what} is no trained hypernetwork: it lacks statistics under {prefix}/ ({e})") from e
    if network.statistics.count < 2:
        raise UserError(f"{what} has seen {network.statistics.count} tokens under {prefix}/, too few to normalise with")
    if network.rows != rows:
        raise UserError(
            f"{what} knows {network.rows} projections under {prefix}/, and {rows} are edited: give the layer.index "
            "that it was trained for"
        )
    return network
