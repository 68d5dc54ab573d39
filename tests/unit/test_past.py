"""Solves: the factored forms are the dense ones, past keys count as they should, and a null space is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small import relative
from torch import Tensor

from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Carried
from edit_robust.editors.language.helpers import past as module
from edit_robust.editors.language.helpers.moments import Inverse
from edit_robust.editors.language.helpers.nullspace import null_spaces
from edit_robust.editors.language.helpers.past import Grown, Identity, Past
from edit_robust.editors.language.helpers.solves import (
    alphaedit_dense,
    emmet_dense,
    emmet_factored,
    memit_dense,
    memit_factored,
)

D, LAMBDA = 48, 20.0


def moment(d: int = D, seed: int = 0) -> Tensor:
    """A second moment with eigenvalues over three orders of magnitude."""
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
    return q @ torch.diag(torch.logspace(-2, 1, d, dtype=torch.float64)) @ q.T


def keys(n: int, seed: int = 1, d: int = D) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def pieces(*sizes: int) -> list[dict[str, Tensor]]:
    return [{"layer": keys(n, 10 + i)} for i, n in enumerate(sizes)]


def gram(some: list[dict[str, Tensor]]) -> Tensor:
    return sum((p["layer"].double().T @ p["layer"].double() for p in some), torch.zeros(D, D, dtype=torch.float64))


def fresh(base: Any = None, basis: Tensor | None = None) -> Past:
    return Past(base or Inverse.of(LAMBDA * moment()), "layer", torch.device("cpu"), basis)


# -- factored and dense --------------------------------------------------------------------------------------------


def test_factored_solves_are_the_dense_ones() -> None:
    c, k = moment(), keys(4).double().T
    inverse = Inverse.of(c)
    assert relative(memit_factored(inverse, k, LAMBDA), memit_dense(c, k, LAMBDA)) < 1e-11
    assert relative(emmet_factored(inverse, k, LAMBDA, 0.1), emmet_dense(c, k, LAMBDA, 0.1)) < 1e-11
    assert relative(inverse.matrix(), c) < 1e-13


def test_emmet_has_its_limits() -> None:
    c, k = moment(), keys(4).double().T
    inverse = Inverse.of(c)
    bare = [emmet_factored(inverse, k, weight, 0.0) for weight in (1.0, 1000.0)]
    assert relative(k.T @ bare[0], torch.eye(4)) < 1e-11, "without ridge every key gets all of its residual"
    assert relative(bare[0], bare[1]) < 1e-11, "and lambda has no effect"
    assert relative(emmet_factored(inverse, k, LAMBDA, 1.0), memit_factored(inverse, k, LAMBDA)) < 1e-11
    one = k[:, :1]
    d = float(one.T @ torch.linalg.solve(LAMBDA * c, one))
    shrunk = emmet_factored(inverse, one, LAMBDA, 0.1)
    assert relative(shrunk, emmet_factored(inverse, one, LAMBDA, 0.0) * d / (d + 0.1)) < 1e-11


def test_emmet_refuses_keys_that_coincide() -> None:
    k = keys(1).double().T.repeat(1, 2)
    with pytest.raises(torch.linalg.LinAlgError, match="ridge is too small"):
        emmet_factored(Inverse.of(moment()), k, LAMBDA, 0.0)
    assert bool(emmet_factored(Inverse.of(moment()), k, LAMBDA, 0.1).isfinite().all())


# -- past keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(), (1,), (2, 1, 3), (5, 5, 5, 5, 5), (1,) * 30, (20, 1, 60)])
def test_past_keys_are_in_the_solve(sizes: tuple[int, ...]) -> None:
    """Also where they pass a quarter of the inputs, and the factor is made anew."""
    some, k = pieces(*sizes), keys(3).double().T
    want = memit_dense(moment(), k, LAMBDA, gram(some))
    assert relative(fresh().solve(some, k), want) < 1e-10


def test_without_past_keys_it_is_memit() -> None:
    k = keys(3).double().T
    assert relative(fresh().solve((), k), memit_factored(Inverse.of(moment()), k, LAMBDA)) < 1e-11


@pytest.mark.parametrize("c", [0, 1, 7, 40])
def test_the_same_key_again_gains_less(c: int) -> None:
    """After c times the same key the gain k^T V is q / (1 + (1 + c) q), with q = k^T (lambda C)^-1 k."""
    k = keys(1)
    q = float(k.double() @ torch.linalg.solve(LAMBDA * moment(), k.double().T))
    v = fresh().solve([{"layer": k}] * c, k.double().T)
    assert float(k.double() @ v) == pytest.approx(q / (1 + (1 + c) * q), rel=1e-9)


def test_made_at_once_it_has_the_bits_of_made_edit_by_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    some, k = pieces(*[1, 2, 5, 1] * 6), keys(2).double().T
    steps, by_step, carried = fresh(), [], Carried()
    made = [0]
    after = Grown.after

    def counted(self: Grown, k: Tensor) -> Grown:
        made[0] += 1
        return after(self, k)

    monkeypatch.setattr(module.Grown, "after", counted)
    for i in range(len(some) + 1):
        by_step.append(steps.solve(carried, k))
        carried = carried.after(some[i]) if i < len(some) else carried
    assert made[0] == len(some), "each edit was added once"
    for n in (0, 3, 11, len(some)):
        assert torch.equal(fresh().solve(some[:n], k), by_step[n])
    assert torch.equal(steps.solve(some[:5], k), by_step[5]), "going back makes it anew"
    other = [some[1], some[0]]
    assert torch.equal(steps.solve(other, k), fresh().solve(other, k)), "and so does another order"


def test_the_null_space_has_its_own_coordinates(tmp_path: Path) -> None:
    """U (L2 I + U^T (K K^T + K_p K_p^T) U)^-1 U^T K is (P (K K^T + K_p K_p^T) + L2 I)^-1 P K."""
    some, k = pieces(1, 2, 1, 7, 9), keys(3).double().T
    basis = null_spaces({"layer": moment()}, 0.5, Workspace(tmp_path))["layer"]
    p = basis @ basis.T
    past = fresh(Identity(2.0, basis.shape[1], basis.device), basis)
    v = past.inputs(past.solve(some, past.coordinates(k)))
    assert relative(v, alphaedit_dense(p, k, 2.0, gram(some))) < 1e-10
    assert relative(p @ v, v) < 1e-12
    off = k - p @ k
    assert float((v.T @ off).abs().max()) < 1e-11, "what is outside of the null space is left alone"
    whole = fresh(Identity(2.0, D, basis.device))
    eye = torch.eye(D, dtype=torch.float64)
    assert relative(whole.solve(some, k), alphaedit_dense(eye, k, 2.0, gram(some))) < 1e-10
    assert relative(whole.solve(some, k), memit_dense(2.0 / LAMBDA * eye, k, LAMBDA, gram(some))) < 1e-10


# -- the null space ------------------------------------------------------------------------------------------------


def test_a_null_space_holds_the_rare_directions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    c, work = moment(), Workspace(tmp_path)
    found = null_spaces({"layer": c}, 0.5, work)["layer"]
    values = torch.linalg.eigvalsh(c)
    assert found.shape == (D, int((values < 0.5).sum())) and 0 < found.shape[1] < D
    assert relative(found.T @ found, torch.eye(found.shape[1])) < 1e-12
    assert float(torch.linalg.eigvalsh(found.T @ c @ found)[-1]) < 0.5
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", None)  # kept: another threshold needs no new eigenvectors
        assert torch.equal(null_spaces({"layer": c}, 0.5, work)["layer"], found)
        assert null_spaces({"layer": c}, 2.0, work)["layer"].shape[1] > found.shape[1]
    assert len(list((tmp_path / "eigenvectors").glob("*.safetensors"))) == 1
    null_spaces({"layer": c * 2}, 0.5, work)
    assert len(list((tmp_path / "eigenvectors").glob("*.safetensors"))) == 2, "another C, other eigenvectors"


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        (1e-3, r"=0.001 leaves nothing in the null space of a; .* is 0.0201, which leaves 5 of 48"),
        (99.0, r"=99.0 leaves all 48 directions in the null space of a; .* is 1?[09.]+, which leaves 4[78] of 48"),
        (0.015, r"=0.015 leaves nothing in the null space of b; .* is 0.0201, which leaves 1 of 48"),
    ],
)
def test_a_null_space_of_nothing_or_of_everything_is_refused(threshold: float, said: str, tmp_path: Path) -> None:
    """With the nearest threshold that gives every layer one."""
    found = {"a": moment(), "b": 2 * moment(seed=3)}
    with pytest.raises(UserError, match=said) as told:
        null_spaces(dict(found), threshold, Workspace(tmp_path))
    assert "\n" not in str(told.value)
    nearest = float(str(told.value).partition("it is ")[2].partition(",")[0])
    assert all(0 < u.shape[1] < D for u in null_spaces(dict(found), nearest, Workspace(tmp_path)).values())
