"""Solves with keys that edits have left: (M + K_p K_p^T + K K^T)^-1 K, at a cost that does not grow with the edits.

M is positive definite and has been factored once. Of keys K_s [d, m] that came since, K_s, M^-1 K_s and the Cholesky
factor of I + K_s^T M^-1 K_s are kept, each of which grows by a few columns an edit (Woodbury). When m would pass a
quarter of d they go into M, which is factored anew: d^3 / 3 operations once in d / 4 keys, instead of at every edit.

Everything is made from the pieces that edits carry, one after the other: made at once when a run goes on, it has the
same bits as made edit by edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.editors.base import Piece
from edit_robust.editors.language.helpers.moments import Inverse, factored_solve

#: Of d: so many keys are kept as factors, and more go into M.
FACTORED_SHARE = 0.25


class Regular(Protocol):
    """A positive definite matrix M [d, d] that can be solved with."""

    def solve(self, k: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """M^-1 k in float64."""
        ...

    def matrix(self) -> Float[Tensor, "d d"]:
        """M itself."""
        ...


@dataclass(frozen=True)
class Identity:
    """`scale` times the identity of d rows."""

    scale: float
    d: int
    device: torch.device

    def solve(self, k: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        return k.to(torch.float64) / self.scale

    def matrix(self) -> Float[Tensor, "d d"]:
        return self.scale * torch.eye(self.d, dtype=torch.float64, device=self.device)


@dataclass(frozen=True)
class Scaled:
    """`scale` times a matrix that has been factored."""

    inverse: Inverse
    scale: float

    def solve(self, k: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        return self.inverse.solve(k) / self.scale

    def matrix(self) -> Float[Tensor, "d d"]:
        return self.scale * self.inverse.matrix()


@dataclass(frozen=True)
class Grown:
    """N = M + K_s K_s^T.

    base: M.   keys: K_s.   solved: M^-1 K_s.   factor: the Cholesky factor of I + K_s^T M^-1 K_s.
    """

    base: Regular
    keys: Float[Tensor, "d m"]
    solved: Float[Tensor, "d m"]
    factor: Float[Tensor, "m m"]

    @staticmethod
    def of(base: Regular, like: Float[Tensor, "d n"]) -> Grown:
        """M alone. like: a tensor with d rows, on M's device."""
        empty = like.new_zeros(len(like), 0)
        return Grown(base, empty, empty, like.new_zeros(0, 0))

    def solve(self, k: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """N^-1 k."""
        plain = self.base.solve(k)
        if not self.keys.shape[1]:
            return plain
        return plain - self.solved @ factored_solve(self.factor, self.keys.T @ plain)

    def after(self, k: Float[Tensor, "d n"]) -> Grown:
        """N + k k^T."""
        d, n = k.shape
        m = self.keys.shape[1]
        if m + n > FACTORED_SHARE * d:
            both = torch.cat([self.keys, k], 1)
            return Grown.of(Inverse.of(self.base.matrix() + both @ both.T), k)
        solved = self.base.solve(k)
        across = torch.linalg.solve_triangular(self.factor, self.keys.T @ solved, upper=False)  # [m, n]
        corner = torch.eye(n, dtype=k.dtype, device=k.device) + k.T @ solved - across.T @ across
        corner = torch.linalg.cholesky((corner + corner.T) / 2)
        above = torch.cat([self.factor, self.factor.new_zeros(m, n)], 1)
        factor = torch.cat([above, torch.cat([across.T, corner], 1)], 0)
        return Grown(self.base, torch.cat([self.keys, k], 1), torch.cat([self.solved, solved], 1), factor)


class Past:
    """N of one layer for whatever pieces a state carries; remembers the latest, from which the next one is made.

    base: M.   layer: under which name pieces hold its keys, [n, d_in].   basis: U, float64, where M is a matrix on the
    span of its orthonormal columns; None: M is one on all inputs.
    """

    def __init__(
        self,
        base: Regular,
        layer: str,
        device: torch.device,
        basis: Float[Tensor, "d_in d"] | None = None,
    ) -> None:
        self.base, self.layer, self.basis, self._device = base, layer, basis, device
        self._seen: list[Piece] = []
        self._grown: Grown | None = None

    def coordinates(self, k: Float[Tensor, "d_in n"]) -> Float[Tensor, "d n"]:
        """Keys as M knows them, float64 on M's device: U^T k."""
        k = k.to(self._device, torch.float64)
        return k if self.basis is None else self.basis.T @ k

    def inputs(self, v: Float[Tensor, "d n"]) -> Float[Tensor, "d_in n"]:
        """What a solution in M's coordinates is as inputs of the layer: U v."""
        return v if self.basis is None else self.basis @ v

    def grown(self, carried: Sequence[Piece], like: Float[Tensor, "d n"]) -> Grown:
        """N after the pieces of `carried`, in their order. like: a tensor with d rows."""
        pieces = carried[: len(carried)]
        n = len(self._seen)
        if self._grown is None or len(pieces) < n or any(a is not b for a, b in zip(self._seen, pieces, strict=False)):
            self._seen, self._grown, n = [], Grown.of(self.base, like), 0
        for piece in pieces[n:]:
            self._grown = self._grown.after(self.coordinates(piece[self.layer].T))
            self._seen.append(piece)
        return self._grown

    def solve(self, carried: Sequence[Piece], k: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """(M + K_p K_p^T + k k^T)^-1 k with the keys K_p of the pieces; k in M's coordinates."""
        solved = self.grown(carried, k).solve(k)
        n = torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
        return torch.linalg.solve(n + k.T @ solved, solved.T).T
