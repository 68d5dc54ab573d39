"""C = E[k k^T]: the uncentred second moment of a projection's inputs over a corpus, for the unedited model."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import UserError, nearest
from edit_robust.core.work import Workspace
from edit_robust.editors.helpers.cache import UNREADABLE, key_digest, make_missing, read_arrays, write_arrays
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task

log = logging.getLogger(__name__)
#: Smallest pivot, relative to the mean diagonal, of a second moment that is used as it is; and the ridge for others.
SINGULAR, RIDGE = 1e-12, 1e-3


@dataclass(frozen=True)
class Inverse:
    """Solves with C through its Cholesky factor, computed once. `ridge` is what had to be added to the diagonal."""

    factor: Float[Tensor, "d_in d_in"]
    ridge: float

    @staticmethod
    def of(moment: Float[Tensor, "d_in d_in"]) -> Inverse:
        """The factor of C. A singular C (fewer tokens than inputs) gets a ridge of RIDGE times its mean diagonal.

        A direction that no token has shown then counts as rare; taken as impossible, it would let an edit of
        enormous size hide there.
        """
        c = moment.double()
        scale = float(c.diagonal().mean())
        if not np.isfinite(scale) or scale <= 0:
            raise UserError("the second moment is zero or not finite: the statistics cannot be used")
        factor, failed = torch.linalg.cholesky_ex(c)
        if not int(failed) and float(factor.diagonal().min()) ** 2 > SINGULAR * scale:
            return Inverse(factor, 0.0)
        log.warning(
            "A second moment of %d inputs is singular: its text has too few tokens. A ridge is used; edits are better "
            "with more text (task.corpus_path=FILE).",
            len(c),
        )
        ridge = RIDGE * scale
        shifted = c + ridge * torch.eye(len(c), dtype=c.dtype, device=c.device)
        return Inverse(torch.linalg.cholesky(shifted), ridge)

    def solve(self, k: Float[Tensor, "d_in n"]) -> Float[Tensor, "d_in n"]:
        """C^-1 k in float64."""
        return torch.cholesky_solve(k.to(self.factor), self.factor)


def second_moments(
    model: CausalLM, layers: Sequence[str], task: Task, source: str, dataset: str, n_samples: int, work: Workspace
) -> dict[str, Float[Tensor, "d_in d_in"]]:
    """C of each layer, in float64.

    source: `computed`, or an .npz file with an array `layerL` for each layer index L. dataset: `task` (the task's
    corpus), a text file, or `hf:NAME[:config[:split]]`. n_samples: documents, each cut to the model's length.
    Computed ones are kept under `work.cache` with their provenance and are never used for another model, layer,
    corpus or size; an interrupted computation goes on where it stopped, with the same sums.
    """
    if source != "computed":
        return _given(model, layers, source)
    documents = _documents(task, dataset, n_samples)[:n_samples]
    if not documents:
        raise UserError("the corpus for second moments is empty: give editor.mom2_dataset=FILE or editor.mom2=FILE.npz")
    text = hashlib.sha256("\x00".join(documents).encode()).hexdigest()[:16]
    folder = work.cache / "moments"
    paths: dict[str, tuple[Path, dict[str, object]]] = {}
    for name in layers:
        key = {"model": model.base, "layer": name, "documents": len(documents), "text": text, "dtype": str(model.dtype)}
        paths[name] = (folder / f"{key_digest(key)}.npz", {**key, "model_name": model.name, "corpus": dataset})
    missing = [paths[n][0] for n in layers if not paths[n][0].exists()]
    group = hashlib.sha256("".join(map(str, missing)).encode()).hexdigest()[:16]

    def make(absent: list[Path]) -> None:
        names = [n for n in layers if paths[n][0] in absent]
        _compute(model, names, documents, paths, folder / f"{group}.partial.npz", work)

    make_missing(missing, folder / f"{group}.lock", make)
    found = {n: read_arrays(paths[n][0], ["moment"], "second moment")[0] for n in layers}
    return {n: moment.to(model.layers[n].weight.device) for n, moment in found.items()}


def _documents(task: Task, dataset: str, n_samples: int) -> list[str]:
    if dataset == "task":
        corpus = getattr(task, "corpus", None)
        if corpus is None:
            raise UserError(
                "this task has no text for second moments: give editor.mom2_dataset=FILE or editor.mom2=FILE.npz"
            )
        return list(corpus())
    from edit_robust.tasks.language.documents import documents

    return documents(dataset, n_samples, "editor.mom2_dataset")


@dataclass
class _Sums:
    """Sums of k k^T over the documents read so far, by layer, which a killed process leaves in a file."""

    matrices: dict[str, Float[Tensor, "d_in d_in"]]
    documents: int = 0
    tokens: int = 0

    @staticmethod
    def of(model: CausalLM, layers: Sequence[str], kept: Path) -> _Sums:
        """Zeros, or what the file `kept` holds."""
        sums = _Sums({})
        for n in layers:
            zeros = torch.zeros(2 * (model.layers[n].shape[1],), dtype=torch.float64)
            sums.matrices[n] = zeros.to(model.layers[n].weight.device)
        if kept.exists():
            with np.load(kept) as f:
                sums.documents, sums.tokens = int(f["done"]), int(f["tokens"])
                for i, n in enumerate(layers):
                    sums.matrices[n] += torch.from_numpy(f[f"sum{i}"]).to(sums.matrices[n].device)
        return sums

    def keep(self, path: Path) -> None:
        arrays = {f"sum{i}": m.cpu().numpy() for i, m in enumerate(self.matrices.values())}
        write_arrays(path, {"done": np.array(self.documents), "tokens": np.array(self.tokens), **arrays})


@torch.no_grad()
def _compute(
    model: CausalLM,
    layers: list[str],
    documents: list[str],
    paths: dict[str, tuple[Path, dict[str, object]]],
    partial: Path,
    work: Workspace,
    chunk: int = 64,
    keep_every: float = 30.0,
) -> None:
    """Run the model over the documents, `chunk` at a time, and write each layer's file; `partial` is kept on the way,
    every `keep_every` seconds."""
    rows = [ids[: model.max_tokens] for ids, _ in model.text.spans(documents)]
    sums = _Sums.of(model, layers, partial)
    saved = time.monotonic()
    with work.progress("Second moments", len(rows)) as advance:
        advance(sums.documents)
        while sums.documents < len(rows):
            _add_rows(model, [r for r in rows[sums.documents : sums.documents + chunk] if r], sums)
            sums.documents += chunk
            advance(chunk)
            if time.monotonic() - saved > keep_every and sums.documents < len(rows):
                sums.keep(partial)
                saved = time.monotonic()
    for n in layers:
        path, provenance = paths[n]
        moment = (sums.matrices[n] / sums.tokens).cpu().numpy()
        write_arrays(path, {"moment": moment}, {**provenance, "tokens": sums.tokens})
    partial.unlink(missing_ok=True)


def _add_rows(model: CausalLM, rows: Sequence[Sequence[int]], sums: _Sums) -> None:
    """Add what the tokens of some documents give."""
    layers = list(sums.matrices)
    last = max(model.layers[n].index for n in layers)
    for batch in model.batches([len(r) for r in rows]):
        ids = model.tokens([rows[i] for i in batch])
        seen = model.run_to(last, ids, layers)
        real = torch.arange(ids.shape[1]) < torch.tensor([len(rows[i]) for i in batch])[:, None]
        for n in layers:
            k = seen[n][real.to(seen[n].device)].double()
            sums.matrices[n] += k.T @ k
        sums.tokens += int(real.sum())


def _given(model: CausalLM, layers: Sequence[str], source: str) -> dict[str, Tensor]:
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"editor.mom2={source} is neither `computed` nor an .npz file")
    found = {}
    try:
        with np.load(path, allow_pickle=False) as f:
            for name in layers:
                layer = model.layers[name]
                key = f"layer{layer.index}"
                if key not in f.files:
                    raise UserError(f"{path} has no array {key}; {nearest(key, f.files, 'it has')}")
                moment, d_in = torch.from_numpy(f[key]).double(), layer.shape[1]
                if moment.shape != (d_in, d_in):
                    raise UserError(f"{path}: {key} is {tuple(moment.shape)}, layer {layer.index} needs {(d_in, d_in)}")
                if not bool(torch.isfinite(moment).all()):
                    raise UserError(f"{path}: {key} holds values that are not finite")
                found[name] = moment.to(layer.weight.device)
    except UNREADABLE as e:
        raise UserError(f"{path} is not a readable .npz file: {e}") from e
    return found
