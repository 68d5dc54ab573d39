"""C = E[k k^T]: the uncentred second moment of a projection's inputs over a corpus, for the unedited model."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import UserError, nearest
from edit_robust.core.files import atomic_path, write_text
from edit_robust.core.work import Workspace
from edit_robust.tasks.base import Task

if TYPE_CHECKING:
    from edit_robust.models.language.causal_lm import CausalLM


log = logging.getLogger(__name__)
#: Smallest pivot, relative to the mean diagonal, of a second moment that is used as it is; and the ridge for others.
SINGULAR, RIDGE = 1e-12, 1e-3
UNREADABLE = (TypeError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


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
    documents = _documents(task, dataset, n_samples)
    if len(documents) < n_samples:
        n_samples = len(documents)
    documents = documents[:n_samples]
    if not documents:
        raise UserError("the corpus for second moments is empty: give editor.mom2_dataset=FILE or editor.mom2=FILE.npz")
    text = hashlib.sha256("\x00".join(documents).encode()).hexdigest()[:16]
    paths = {}
    for name in layers:
        key = {"model": model.base, "layer": name, "documents": n_samples, "text": text, "dtype": str(model.dtype)}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        paths[name] = (work.cache / "moments" / f"{digest}.npz", {**key, "model_name": model.name, "corpus": dataset})
    found: dict[str, Tensor] = {}
    work.cache.joinpath("moments").mkdir(parents=True, exist_ok=True)
    missing = [n for n in layers if not paths[n][0].exists()]
    if missing:
        group = hashlib.sha256("".join(str(paths[n][0]) for n in missing).encode()).hexdigest()[:16]
        with FileLock(work.cache / "moments" / f"{group}.lock"):
            missing = [n for n in layers if not paths[n][0].exists()]  # another process may have made them
            if missing:
                _compute(model, missing, documents, paths, work.cache / "moments" / f"{group}.partial.npz", work)
    for name in layers:
        found[name] = _load(paths[name][0]).to(model.layers[name].weight.device)
    return found


def _documents(task: Task, dataset: str, n_samples: int) -> list[str]:
    if dataset == "task":
        return task.corpus()
    from edit_robust.tasks.language.documents import documents

    return documents(dataset, n_samples, "editor.mom2_dataset")


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
    rows = [ids[: model.max_tokens] for ids, _ in model.text.spans(documents)]
    last = max(model.layers[n].index for n in layers)
    sums = {n: torch.zeros(2 * (model.layers[n].shape[1],), dtype=torch.float64) for n in layers}
    sums = {n: s.to(model.layers[n].weight.device) for n, s in sums.items()}
    done, tokens = 0, 0
    if partial.exists():
        with np.load(partial) as kept:
            done, tokens = int(kept["done"]), int(kept["tokens"])
            for i, n in enumerate(layers):
                sums[n] += torch.from_numpy(kept[f"sum{i}"]).to(sums[n].device)
    saved = time.monotonic()
    with work.progress("Second moments", len(rows)) as advance:
        advance(done)
        while done < len(rows):
            part = [r for r in rows[done : done + chunk] if r]
            for batch in model.batches([len(r) for r in part]):
                ids = model.tokens([part[i] for i in batch])
                seen = model.run_to(last, ids, layers)
                real = torch.arange(ids.shape[1]) < torch.tensor([len(part[i]) for i in batch])[:, None]
                for n in layers:
                    k = seen[n][real.to(seen[n].device)].double()
                    sums[n] += k.T @ k
                tokens += int(real.sum())
            done += chunk
            advance(chunk)
            if time.monotonic() - saved > keep_every and done < len(rows):
                with atomic_path(partial) as temporary, temporary.open("wb") as f:
                    kept = {f"sum{i}": sums[n].cpu().numpy() for i, n in enumerate(layers)}
                    np.savez(f, done=done, tokens=tokens, **kept)
                saved = time.monotonic()
    for n in layers:
        path, provenance = paths[n]
        moment = (sums[n] / tokens).cpu().numpy()
        with atomic_path(path) as temporary, temporary.open("wb") as f:
            np.savez(f, moment=moment)
        write_text(path.with_suffix(".json"), json.dumps({**provenance, "tokens": tokens}, indent=1))
    partial.unlink(missing_ok=True)


def _load(path: Path) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as f:
            return torch.from_numpy(f["moment"])
    except UNREADABLE as e:
        raise UserError(f"the stored second moment {path} cannot be read ({e}); delete it to compute it again") from e


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
