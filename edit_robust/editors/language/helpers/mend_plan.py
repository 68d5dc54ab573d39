"""Which requests and texts each iteration of MEND's training sees: a function of the seed and the iteration alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch

from edit_robust.editors.language.helpers.mend_training import Iteration, Recipe

_VALIDATION_SHARE = 10


@dataclass(frozen=True)
class Plan:
    """Which iteration sees what.

    n_training: requests to train on; those behind them validate.   rephrasings: how many each request has, of both
    kinds.   n_texts: locality texts, the last tenth of which validates.
    """

    n_training: int
    rephrasings: tuple[int, ...]
    n_texts: int
    recipe: Recipe
    seed: int = 0

    @property
    def _kept_out(self) -> int:
        return max(1, self.n_texts // _VALIDATION_SHARE)

    def iteration(self, i: int) -> Iteration:
        """Iteration number i, from 0."""
        first = i * self.recipe.n_edits
        places = range(first, first + self.recipe.n_edits)
        edits = tuple(_order(self.n_training, self.seed, p // self.n_training)[p % self.n_training] for p in places)
        generator = _generator(self.seed, "iteration", i)
        rephrasings = tuple(_below(self.rephrasings[e], generator) for e in edits)
        texts = tuple(_below(self.n_texts - self._kept_out, generator) for _ in range(self.recipe.n_loc))
        return Iteration(edits, rephrasings, texts)

    def validation(self) -> list[Iteration]:
        """All of its requests, each with one of its rephrasings and texts that training does not see."""
        found = []
        first = self.n_texts - self._kept_out
        for k in range((len(self.rephrasings) - self.n_training) // self.recipe.n_edits):
            edits = tuple(self.n_training + k * self.recipe.n_edits + j for j in range(self.recipe.n_edits))
            texts = tuple(
                first + (k * self.recipe.n_val_loc + j) % self._kept_out for j in range(self.recipe.n_val_loc)
            )
            found.append(Iteration(edits, tuple(k % self.rephrasings[e] for e in edits), texts))
        return found


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> list[int]:
    """The training requests in the order in which an epoch uses them."""
    found: list[int] = torch.randperm(n, generator=_generator(seed, "epoch", epoch)).tolist()
    return found


def _generator(seed: int, what: str, i: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{what}/{i}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "little"))


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))
