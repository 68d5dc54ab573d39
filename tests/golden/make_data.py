"""Make tests/golden/data from a folder of the reference implementation's outputs (see README.md beside this file).

python tests/golden/make_data.py FOLDER
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

DATA = Path(__file__).parent / "data"
STEP = 2.0**-16  # matrices are rounded to multiples of this; vectors (biases, norms) stay as they are
ROWS = 64  # every so many-th row of a second moment is carried
#: run -> how many of its first results are carried: those whose recorded values the rounding moves by less than half of
#: what the tests allow. The rest is tested where the whole folder lies beside the repository.
CARRIED = {
    "unedited": 30,
    "rome_layer0_bare": 20,
    "rome_layer0_contexts": 8,
    "rome_layer1_contexts": 8,
    "memit_layers012": 8,
    "ftc_layer0": 8,
    "rome_sequential_layer0_bare": 10,
}
BATCH = "memit_batch20_layers012"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file with LZMA inside instead of deflate; `np.load` reads it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as out:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # no time of day: the same input gives the same bytes
            # the lowest bytes of weights are noise, which LZMA would make longer
            entry.compress_type = zipfile.ZIP_STORED if name == "byte0" else zipfile.ZIP_LZMA
            out.writestr(entry, stream.getvalue())


def rounded(value: Any) -> Any:
    """Numbers with seven digits, which is what float32 holds."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def weights(path: Path) -> dict[str, np.ndarray]:
    """A checkpoint's matrices as multiples of STEP, one byte of all of them after the other, and its vectors."""
    tensors = load_file(path)
    matrices = {k: v for k, v in sorted(tensors.items()) if v.ndim > 1}
    steps = np.concatenate([np.rint(v / STEP).astype(np.int32).ravel() for v in matrices.values()]) + (1 << 23)
    found = {f"byte{i}": (steps >> 8 * i & 255).astype(np.uint8) for i in range(3)}
    about = {"step": STEP, "shapes": {k: v.shape for k, v in matrices.items()}}
    found["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    return found | {k: v for k, v in tensors.items() if v.ndim == 1}


def main() -> None:
    source = Path(sys.argv[1])
    DATA.mkdir(exist_ok=True)
    write_arrays(DATA / "weights.npz", weights(source / "model" / "model.safetensors"))

    texts = {f"model/{n}": (source / "model" / n).read_bytes() for n in ("config.json", "tokenizer_config.json")}
    tokenizer = json.loads((source / "model" / "tokenizer.json").read_text())
    texts["model/tokenizer.json"] = json.dumps(tokenizer, separators=(",", ":"), ensure_ascii=False).encode()
    expected = json.loads((source / "expected.json").read_text())
    carried = {run: expected[run][:n] for run, n in CARRIED.items()} | {BATCH: expected[BATCH]}
    records = {"expected": rounded(carried)}
    records |= {name: json.loads((source / f"{name}.json").read_text()) for name in ("requests", "contexts")}
    for name, value in records.items():
        texts[f"{name}.json"] = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    with zipfile.ZipFile(DATA / "records.zip", "w", zipfile.ZIP_LZMA) as out:
        for name, content in texts.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_LZMA
            out.writestr(entry, content)

    arrays = {"corpus_tokens": np.load(source / "corpus_tokens.npy").astype(np.int16)}
    with np.load(source / "second_moment.npz") as moments:
        arrays |= {f"second_moment/{k}": moments[k][::ROWS] for k in moments.files}
    for run in ("rome_layer0_bare", "rome_layer0_contexts", "rome_layer1_contexts", "memit_layers012"):
        cases = {str(r["case_id"]) for r in carried[run]}
        with np.load(source / f"{run}_rank1.npz") as factors:
            some = [k for k in factors.files if k.partition(":")[0] in cases]
            arrays |= {f"{run}_rank1/{k}": factors[k].astype(np.float16) for k in some}
    write_arrays(DATA / "arrays.npz", arrays)
    for path in sorted(DATA.iterdir()):
        print(f"{path.name:14} {path.stat().st_size:9}")


if __name__ == "__main__":
    main()
