"""Outputs of the reference implementation that travel with the tests, laid out as the folder they were taken from."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

DATA = Path(__file__).parents[1] / "golden" / "data"
#: The whole of what was recorded, where it lies beside the repository.
WHOLE = Path(__file__).parents[3] / "shared" / "golden"


def unpack(folder: Path) -> Path:
    """The carried outputs in `folder` (see tests/golden/README.md): model/, requests.json, expected.json, ...

    Second moments are computed from the carried tokens with transformers and torch alone; `second_moment_rows.npz`
    holds the rows that the reference implementation gave.
    """
    with zipfile.ZipFile(DATA / "records.zip") as held:
        held.extractall(folder)
    save_file(_weights(), folder / "model" / "model.safetensors", metadata={"format": "pt"})
    groups: dict[str, dict[str, np.ndarray]] = {}
    with np.load(DATA / "arrays.npz") as arrays:
        tokens = arrays["corpus_tokens"].astype(np.int64)
        for name in arrays.files:
            group, slash, key = name.partition("/")
            if slash:
                groups.setdefault(group, {})[key] = arrays[name].astype(np.float32)
    np.save(folder / "corpus_tokens.npy", tokens)
    np.savez(folder / "second_moment_rows.npz", **groups.pop("second_moment"))
    for group, held_arrays in groups.items():
        np.savez(folder / f"{group}.npz", **held_arrays)
    np.savez(folder / "second_moment.npz", **_second_moments(folder / "model", tokens))
    return folder


def _weights() -> dict[str, torch.Tensor]:
    with np.load(DATA / "weights.npz") as held:
        about = json.loads(held["about"].tobytes())
        steps = sum(held[f"byte{i}"].astype(np.int32) << 8 * i for i in range(3)) - (1 << 23)
        found = {k: torch.from_numpy(held[k]) for k in held.files if k not in ("about", "byte0", "byte1", "byte2")}
    start = 0
    for name, shape in about["shapes"].items():
        size = int(np.prod(shape))
        values = steps[start : start + size].reshape(shape) * np.float64(about["step"])
        found[name] = torch.from_numpy(values.astype(np.float32))
        start += size
    return found


@torch.no_grad()
def _second_moments(model: Path, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """layer0..2: the mean of k k^T over all tokens, k the input of the MLP's down-projection; float32."""
    net = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    sums: dict[int, torch.Tensor] = {}

    def add(i: int, given: tuple[torch.Tensor, ...]) -> None:
        keys = given[0].flatten(0, 1).double()
        sums[i] = sums.get(i, 0) + keys.T @ keys

    for i in range(3):
        net.transformer.h[i].mlp.c_proj.register_forward_pre_hook(lambda module, given, i=i: add(i, given))
    for rows in torch.from_numpy(tokens).split(39):
        net(rows)
    return {f"layer{i}": (s / tokens.size).float().numpy() for i, s in sums.items()}
