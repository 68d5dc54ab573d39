"""C = E[k k^T]: the uncentred second moment of a projection's inputs over a corpus, for the unedited model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import UserError, nearest
from edit_robust.core.work import Workspace
from edit_robust.editors.helpers.cache import UNREADABLE, key_digest, make_missing, read_arrays, write_arrays
from edit_robust.editors.language.helpers.sums import partial_path, remove_orphans, sums_over
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task

log = logging.getLogger(__name__)
#: Smallest pivot, relative to the mean diagonal, of a second moment that is used as it is; and the ridge for others.
SINGULAR, RIDGE = 1e-12, 1e-3
HINT = "give editor.mom2_dataset=FILE or editor.mom2=FILE.npz"


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
        factor, regular = _factored(c)
        if regular:
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
        return factored_solve(self.factor, k.to(self.factor))

    def matrix(self) -> Float[Tensor, "d_in d_in"]:
        """C, with its ridge, from the factor."""
        return self.factor @ self.factor.T


def factored_solve(factor: Float[Tensor, "d d"], k: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
    """(L L^T)^-1 k. The bits of `torch.cholesky_solve`, which copies the factor at every call: a hundred times the work
    where there is one key."""
    return torch.linalg.solve_triangular(factor.T, torch.linalg.solve_triangular(factor, k, upper=False), upper=True)


def _factored(c: Float[Tensor, "n n"]) -> tuple[Float[Tensor, "n n"], bool]:
    """The Cholesky factor of a symmetric matrix, and whether all its pivots are above SINGULAR times its mean."""
    factor, failed = torch.linalg.cholesky_ex(c)
    scale = float(c.diagonal().mean())
    return factor, not int(failed) and float(factor.diagonal().min()) ** 2 > SINGULAR * scale


def check_regular(c: Float[Tensor, "n n"], reason: str) -> None:
    """LinAlgError for a symmetric matrix that is singular up to rounding; not for one that is not finite."""
    if bool(torch.isfinite(c).all()) and not _factored(c)[1]:
        raise torch.linalg.LinAlgError(f"{reason}: the matrix is singular")


def second_moments(
    model: CausalLM,
    layers: Sequence[str],
    task: Task,
    source: str,
    dataset: str,
    n_samples: int,
    work: Workspace,
    max_tokens: int | None = None,
) -> dict[str, Float[Tensor, "d_in d_in"]]:
    """C of each layer, in float64, for the unedited model.

    source: `computed`, or an .npz file with an array `layerL` for each layer index L. dataset: `task` (the task's
    corpus), a text file, or `hf:NAME[:config[:split]][@REVISION]`. n_samples: documents, drawn from it at random with
    seed 0; all where it has no more. max_tokens: each document is cut to so many tokens; None: to the model's length.
    Computed ones are kept under `work.cache` with their provenance and are never used for another model, layer, text,
    sample or length; where one is kept, no text is read. An interrupted computation goes on where it stopped, with the
    same sums. UserError for a corpus that cannot be read or is empty.
    """
    if source != "computed":
        return _given(model, layers, source)
    text, read = _corpus(task, dataset, n_samples)
    length = min(model.max_tokens, max_tokens or model.max_tokens)
    keys = {
        n: {"model": model.base, "layer": n, "text": text, "max_tokens": length, "dtype": str(model.dtype)}
        for n in layers
    }
    folder = work.cache / "moments"
    paths = {n: folder / f"{key_digest(keys[n])}.npz" for n in layers}
    missing = [p for p in paths.values() if not p.exists()]

    def make(absent: list[Path]) -> None:
        if model.position != model.base:
            raise ValueError("second moments are the unedited model's; this one has been edited")
        remove_orphans(folder, absent)
        documents = read()
        wanted = {n: p for n, p in paths.items() if p in absent}
        sums = sums_over(model, wanted, documents, length, work)
        if not all(found.tokens for found in sums.values()):
            raise UserError(f"the corpus for second moments is empty: {HINT}")
        for n, found in sums.items():
            story = {"model_name": model.name, "corpus": dataset, "documents": len(documents), "tokens": found.tokens}
            write_arrays(paths[n], {"moment": (found.whole() / found.tokens).cpu().numpy()}, {**keys[n], **story})
            partial_path(paths[n]).unlink(missing_ok=True)

    make_missing(missing, [p.with_suffix(".lock") for p in missing], make)
    found = {n: read_arrays(paths[n], ["moment"], "second moment")[0] for n in layers}
    return {n: moment.to(model.layers[n].weight.device) for n, moment in found.items()}


def _corpus(task: Task, dataset: str, n_samples: int) -> tuple[dict[str, Any], Callable[[], list[str]]]:
    """What tells the sample of documents from others, and a function that reads it.

    A task that cannot tell its text apart without reading it (it has no `corpus_key`) is read now.
    """
    from edit_robust.tasks.language.documents import SEED, sample, sampled_documents, source_key

    drawn = {"n": n_samples, "seed": SEED}
    if dataset != "task":
        option = "editor.mom2_dataset"
        return {**source_key(dataset, option), **drawn}, lambda: sampled_documents(dataset, n_samples, option)
    corpus = getattr(task, "corpus", None)
    if corpus is None:
        raise UserError(f"this task has no text for second moments: {HINT}")
    own = getattr(task, "corpus_key", None)
    if own is not None:
        return {"corpus": own(), **drawn}, lambda: sample(corpus(), n_samples)
    documents = sample(corpus(), n_samples)
    digest = hashlib.sha256("\x00".join(documents).encode()).hexdigest()[:16]
    return {"documents": digest, "n": len(documents)}, lambda: documents


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
