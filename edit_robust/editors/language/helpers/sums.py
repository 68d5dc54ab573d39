"""Sums of k k^T over documents, layer by layer: kept on disk while they grow, and gone on with after a kill."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core.pace import Pace
from edit_robust.core.work import Workspace
from edit_robust.editors.helpers.cache import UNREADABLE, write_arrays
from edit_robust.models.language.causal_lm import CausalLM

#: Documents that are tokenised and run at a time.
CHUNK = 64
#: Seconds between two times of keeping unfinished sums, at least.
KEEP_EVERY = 30.0
#: Unfinished sums that nobody has gone on with for so many seconds are removed; so are half-written files.
STALE = 14 * 86400.0
PARTIAL = ".partial.npz"
#: A sum is symmetric: of so many strips of it, what lies left of the diagonal is not computed.
STRIPS = 8


@dataclass
class LayerSum:
    """The sum of k k^T over the first `documents` documents, which have `tokens` tokens; k is a projection's input.

    matrix: the sum on and above the diagonal; what stands below it means nothing (`whole` is the sum).
    """

    matrix: Float[Tensor, "d_in d_in"]
    documents: int = 0
    tokens: int = 0

    @staticmethod
    def of(model: CausalLM, layer: str, kept: Path, chunk: int) -> LayerSum:
        """What the file `kept` holds of a layer; zeros where there is none, or none that can be gone on with."""
        d_in, device = model.layers[layer].shape[1], model.layers[layer].weight.device
        try:
            with np.load(kept, allow_pickle=False) as f:
                matrix, documents, tokens = torch.from_numpy(f["matrix"]), int(f["documents"]), int(f["tokens"])
            if matrix.shape == (d_in, d_in) and documents % chunk == 0:
                return LayerSum(matrix.to(device), documents, tokens)
        except UNREADABLE:
            pass
        return LayerSum(torch.zeros(d_in, d_in, dtype=torch.float64, device=device))

    def add(self, k: Float[Tensor, "n d_in"]) -> None:
        """Add the tokens' k k^T, in float64."""
        k, size = k.double(), k.shape[1]
        width = -(-size // STRIPS)
        for i in range(0, size, width):
            self.matrix[i : i + width, i:] += k[:, i : i + width].T @ k[:, i:]
        self.tokens += len(k)

    def whole(self) -> Float[Tensor, "d_in d_in"]:
        """The sum, both halves."""
        return self.matrix.triu() + self.matrix.triu(1).T

    def keep(self, path: Path) -> None:
        """Write what has been summed so far."""
        arrays = {"documents": np.array(self.documents), "tokens": np.array(self.tokens)}
        write_arrays(path, {"matrix": self.matrix.cpu().numpy(), **arrays})


def partial_path(path: Path) -> Path:
    """Where the unfinished sum of a file is kept."""
    return path.with_suffix(PARTIAL)


@torch.no_grad()
def sums_over(
    model: CausalLM,
    paths: Mapping[str, Path],
    documents: Sequence[str],
    max_tokens: int,
    work: Workspace,
    chunk: int = CHUNK,
    pace: Pace | None = None,
) -> dict[str, LayerSum]:
    """The sums of some layers, by layer name, over all documents, each cut to `max_tokens` tokens.

    paths: the file that will hold each layer's result; what was kept of it beside that file is gone on with. Layers may
    have been kept at different places of the text: each document is read once, for the layers that still miss it. The
    sums are the same to the bit, whichever layers are summed together and wherever they were interrupted.
    """
    sums = {n: LayerSum.of(model, n, partial_path(path), chunk) for n, path in paths.items()}
    pace = pace or Pace.for_bytes(sum(8 * s.matrix.numel() for s in sums.values()), KEEP_EVERY)
    at = min(s.documents for s in sums.values())
    kept = time.monotonic()
    with work.progress("Second moments", len(documents)) as advance:
        advance(at)
        while at < len(documents):
            behind = {n: s for n, s in sums.items() if s.documents == at}
            _add(model, documents[at : at + chunk], max_tokens, behind)
            at += chunk
            advance(chunk)
            if at < len(documents) and pace.due(time.monotonic() - kept):
                with pace.writing():
                    for n, path in paths.items():
                        sums[n].keep(partial_path(path))
                kept = time.monotonic()
    return sums


def _add(model: CausalLM, documents: Sequence[str], max_tokens: int, sums: Mapping[str, LayerSum]) -> None:
    """Add what the tokens of some documents give to the sums of some layers."""
    rows = [ids[:max_tokens] for ids, _ in model.text.spans(documents) if ids]
    last = max(model.layers[n].index for n in sums)
    for batch in model.batches([len(r) for r in rows]):
        ids = model.tokens([rows[i] for i in batch])
        seen = model.run_to(last, ids, list(sums))
        real = torch.arange(ids.shape[1]) < torch.tensor([len(rows[i]) for i in batch])[:, None]
        for n, found in sums.items():
            found.add(seen[n][real.to(seen[n].device)])
    for found in sums.values():
        found.documents += len(documents)


def remove_orphans(folder: Path, ours: Sequence[Path], now: float | None = None) -> None:
    """Remove unfinished files that nobody will go on with; the locks of `ours`, the files to be made, must be held.

    Those are partial sums whose result is there or whose form is an older version's, what a killed process was writing
    of `ours`, and whatever else has been left alone for `STALE` seconds.
    """
    now = time.time() if now is None else now
    held = {p.stem for p in ours}
    for path in (*folder.glob(f"*{PARTIAL}"), *folder.glob(".*.part")):
        try:
            stale = now - path.stat().st_mtime > STALE
        except FileNotFoundError:  # another process was faster
            continue
        key = path.name.lstrip(".").partition(".")[0]
        if path.suffix == ".part":
            gone = stale or key in held
        else:
            gone = stale or (folder / f"{key}.npz").exists() or not _goes_on(path)
        if gone:
            path.unlink(missing_ok=True)


def _goes_on(path: Path) -> bool:
    """Whether a partial sum is one that `LayerSum.of` reads."""
    try:
        with np.load(path, allow_pickle=False) as f:
            return "matrix" in f.files
    except FileNotFoundError:
        return True
    except UNREADABLE:
        return False
