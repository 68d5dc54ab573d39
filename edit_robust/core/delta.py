"""A weight change as an object of its own: factors or a dense matrix for each parameter, portable and exact."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core.errors import UserError
from edit_robust.core.files import atomic_path


@dataclass(frozen=True)
class LowRank:
    """u v^T with u [d_out, r] and v [d_in, r]."""

    u: Float[Tensor, "d_out r"]
    v: Float[Tensor, "d_in r"]

    def dense(self) -> Float[Tensor, "d_out d_in"]:
        return self.u @ self.v.T

    def scale(self, alpha: float) -> LowRank:
        return LowRank(self.u * alpha, self.v)

    def norm(self) -> float:
        """Frobenius norm through the r x r Gram matrices, without building the product."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        u, v = self.u.double(), self.v.double()
        return float(((u.T @ u) * (v.T @ v)).sum().clamp_min(0).sqrt())

    def finite(self) -> bool:
        """Whether all numbers of both factors are. One that is not makes an element of a Gram matrix's diagonal so."""
        return math.isfinite(self.norm())

    @property
    def shape(self) -> tuple[int, int]:
        return self.u.shape[0], self.v.shape[0]

    @property
    def rank(self) -> int:
        """Of the factors; that of their product is at most as large."""
        return self.u.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        return {"u": self.u, "v": self.v}

    def on(self, device: torch.device) -> LowRank:
        """The same factors on a device, laid out as a file gives them: a product of them has the same bits then."""
        u, v = self.u.to(device).contiguous(), self.v.to(device).contiguous()
        return self if u is self.u and v is self.v else LowRank(u, v)

    def truncate(self, r: int) -> LowRank:
        """Best rank-r approximation, from QR of both factors and the SVD of a small core."""
        if r >= self.rank:
            return self
        qu, ru = torch.linalg.qr(self.u.double())
        qv, rv = torch.linalg.qr(self.v.double())
        a, s, b = torch.linalg.svd(ru @ rv.T)
        return LowRank((qu @ a[:, :r] * s[:r]).to(self.u.dtype), (qv @ b[:r].T).to(self.v.dtype))


@dataclass(frozen=True)
class Dense:
    """A full matrix [d_out, d_in]; a bias is [d_out, 1]."""

    m: Float[Tensor, "d_out d_in"]

    def dense(self) -> Float[Tensor, "d_out d_in"]:
        return self.m

    def scale(self, alpha: float) -> Dense:
        return Dense(self.m * alpha)

    def norm(self) -> float:
        return float(self.m.double().norm())

    def finite(self) -> bool:
        return bool(torch.isfinite(self.m).all())

    @property
    def shape(self) -> tuple[int, int]:
        return self.m.shape[0], self.m.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        return {"m": self.m}

    def on(self, device: torch.device) -> Dense:
        """The same matrix on a device, laid out as a file gives it."""
        m = self.m.to(device).contiguous()
        return self if m is self.m else Dense(m)

    def truncate(self, r: int) -> LowRank:
        a, s, b = torch.linalg.svd(self.m.double(), full_matrices=False)
        return LowRank((a[:, :r] * s[:r]).to(self.m.dtype), b[:r].T.contiguous().to(self.m.dtype))


def few(rank: int, shape: tuple[int, int]) -> bool:
    """Whether a change goes through so few directions that its factors cost less than their product."""
    return 4 * rank <= min(shape)


Term = LowRank | Dense
FORMAT = "edit-robust-delta-1"


def joined(parts: Sequence[LowRank]) -> LowRank:
    """The sum of changes of one matrix, with the factors of all of them. At least one."""
    return LowRank(torch.cat([p.u for p in parts], 1), torch.cat([p.v for p in parts], 1))


def added(a: Term, b: Term) -> Term:
    """The sum of two changes of one matrix, as factors where that is smaller. ValueError for different shapes."""
    if a.shape != b.shape:
        raise ValueError(f"cannot add changes of shapes {a.shape} and {b.shape}")
    # factors stay smaller than the matrix
    if isinstance(a, LowRank) and isinstance(b, LowRank) and a.rank + b.rank < min(a.shape):
        return joined([a, b])
    return Dense(a.dense() + b.dense())


@dataclass(frozen=True)
class Delta:
    """A change of some parameters, keyed by parameter name, in (d_out, d_in) orientation.

    `base` fingerprints the weights that the change was computed at. Changes of different bases are not added by
    accident: `+` refuses, `Delta.chain` says that a trajectory stacks them on purpose.
    """

    terms: Mapping[str, Term]
    base: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def scale(self, alpha: float) -> Delta:
        """alpha times the change; alpha 0 is the identity, alpha 1 the change itself."""
        return Delta({k: t.scale(alpha) for k, t in self.terms.items()}, self.base, self.info)

    def __add__(self, other: Delta) -> Delta:
        if self.base != other.base:
            raise ValueError(f"changes made at different weights ({self.base} and {other.base}) cannot be added")
        return Delta.chain([self, other])

    @staticmethod
    def chain(deltas: list[Delta]) -> Delta:
        """The sum of changes made one after the other; its base is the first one's."""
        terms: dict[str, Term] = {}
        for delta in deltas:
            for name, term in delta.terms.items():
                terms[name] = added(terms[name], term) if name in terms else term
        return Delta(terms, deltas[0].base if deltas else "")

    def on(self, device_of: Callable[[str], torch.device]) -> Delta:
        """The same change, each term on the device that its parameter's name gives; itself where it is there."""
        terms = {name: term.on(device_of(name)) for name, term in self.terms.items()}
        same = all(terms[name] is term for name, term in self.terms.items())
        return self if same else Delta(terms, self.base, self.info)

    def norm(self) -> float:
        """Frobenius norm over all changed parameters."""
        return sum(t.norm() ** 2 for t in self.terms.values()) ** 0.5

    def norms(self) -> dict[str, float]:
        """Frobenius norm of the change of each parameter."""
        return {name: term.norm() for name, term in self.terms.items()}

    def truncate(self, r: int) -> Delta:
        return Delta({k: t.truncate(r) for k, t in self.terms.items()}, self.base, self.info)

    def finite(self) -> bool:
        return all(t.finite() for t in self.terms.values())

    def digest(self) -> str:
        """Hash of the exact bits of the change."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        h = hashlib.sha256()
        for name in sorted(self.terms):
            for part, x in sorted(self.terms[name].tensors().items()):
                h.update(f"{name}:{part}:{tuple(x.shape)}:{x.dtype}".encode())
                h.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return h.hexdigest()[:16]

    def save(self, path: str | Path) -> Path:
        """Write as safetensors (`name|u`, `name|v` or `name|m`) with base, info and order in the header; atomic."""
        from safetensors.torch import save_file

        path = Path(path)
        tensors: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            for part, x in term.tensors().items():
                y = x.detach().cpu().contiguous()
                shared = any(y.untyped_storage().data_ptr() == z.untyped_storage().data_ptr() for z in tensors.values())
                tensors[f"{name}|{part}"] = y.clone() if shared else y  # the format has no shared memory
        order = json.dumps(list(self.terms))  # the format sorts its tensors by name
        header = {"base": self.base, "info": json.dumps(dict(self.info)), "order": order, "format": FORMAT}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=header)
        return path

    @staticmethod
    def read_info(path: str | Path) -> dict[str, Any]:
        """`info` of what `save` wrote, without reading the change itself. UserError as for `load`."""
        return dict(json.loads(_header(Path(path)).get("info", "{}")))

    @staticmethod
    def load(path: str | Path) -> Delta:
        """Read what `save` wrote, its terms in their order. UserError for a file that is missing, truncated or of
        another kind."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.exists():
            raise UserError(f"no delta file at {path}")
        try:
            with safe_open(str(path), framework="pt") as f:
                header = f.metadata() or {}
                parts: dict[str, dict[str, Tensor]] = {}
                for key in f.keys():  # noqa: SIM118 - not a dict
                    name, _, part = key.rpartition("|")
                    parts.setdefault(name, {})[part] = f.get_tensor(key)
        except (SafetensorError, OSError) as e:
            raise UserError(f"{path} is not a readable delta file: {e}") from e
        if header.get("format") != FORMAT:
            raise UserError(f"{path} is a safetensors file, but not a delta written by this program")
        ordered = {n: parts[n] for n in json.loads(header.get("order", "null")) or parts}
        terms: dict[str, Term] = {n: Dense(p["m"]) if "m" in p else LowRank(p["u"], p["v"]) for n, p in ordered.items()}
        return Delta(terms, header.get("base", ""), json.loads(header.get("info", "{}")))


def _header(path: Path) -> dict[str, str]:
    """The header of a delta file. UserError for a file that is truncated or of another kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as f:
            found = dict(f.metadata() or {})
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is not a readable delta file: {e}") from e
    if found.get("format") != FORMAT:
        raise UserError(f"{path} is a safetensors file, but not a delta written by this program")
    return found
