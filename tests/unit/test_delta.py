"""A change of weights as an object: arithmetic, norms, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.small import relative

from edit_robust.core import Delta, Dense, LowRank, UserError


def low(d_out: int = 7, d_in: int = 5, r: int = 2, seed: int = 0) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(d_out, r, generator=g), torch.randn(d_in, r, generator=g))


def dense(d_out: int = 7, d_in: int = 5, seed: int = 0) -> Dense:
    return Dense(torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(seed)))


def test_factors_are_the_matrix_they_stand_for() -> None:
    term = low()
    by_hand = sum(torch.outer(term.u[:, i], term.v[:, i]) for i in range(2))
    assert torch.allclose(term.dense(), by_hand, atol=1e-6)
    assert term.shape == (7, 5) == tuple(term.dense().shape)
    assert torch.allclose(term.scale(-0.5).dense(), -0.5 * term.dense())


def test_norm_through_gram_matrices() -> None:
    assert low(40, 30, 6).norm() == pytest.approx(float(low(40, 30, 6).dense().double().norm()), rel=1e-6)
    a = Delta({"a": LowRank(torch.tensor([[3.0], [4.0]]), torch.tensor([[2.0]])), "b": Dense(torch.full((2, 2), 5.0))})
    assert a.norm() == pytest.approx((100 + 100) ** 0.5)
    cancelled = LowRank(torch.ones(3, 2) * torch.tensor([1.0, -1.0]), torch.ones(4, 2))
    assert cancelled.norm() == 0.0


def test_truncation_is_the_best_of_its_rank() -> None:
    for term in (low(20, 15, 6), dense(9, 13)):
        u, s, v = torch.linalg.svd(term.dense().double(), full_matrices=False)
        for r in (1, 3):
            best = (u[:, :r] * s[:r]) @ v[:r]
            cut = term.truncate(r)
            assert isinstance(cut, LowRank) and cut.u.shape[1] == r and cut.u.dtype == torch.float32
            assert relative(cut.dense(), best) < 1e-5
            assert float((term.dense() - cut.dense()).norm()) == pytest.approx(float(s[r:].norm()), rel=1e-4)
    assert low(r=2).truncate(2).dense().equal(low(r=2).dense())
    cut = Delta({"a": low(20, 15, 6), "b": dense()}, "base", {"x": 1}).truncate(2)
    assert cut.base == "base" and cut.info == {"x": 1} and {t.shape for t in cut.terms.values()} == {(20, 15), (7, 5)}


def test_sums() -> None:
    a, b = Delta({"w": low(seed=1), "only": dense()}, "base"), Delta({"w": low(seed=2)}, "base")
    both = a + b
    assert isinstance(both.terms["w"], LowRank) and both.terms["w"].u.shape[1] == 4 and both.base == "base"
    assert torch.allclose(both.terms["w"].dense(), a.terms["w"].dense() + b.terms["w"].dense(), atol=1e-6)
    assert both.terms["only"] is a.terms["only"]
    third = Delta.chain([a, b, Delta({"w": low(seed=3)}, "other")])
    assert isinstance(third.terms["w"], Dense), "six factors of a 7 x 5 matrix are no saving"
    want = sum(low(seed=s).dense() for s in (1, 2, 3))
    assert torch.allclose(third.terms["w"].dense(), want, atol=1e-5) and third.base == "base"
    mixed = Delta.chain([a, Delta({"w": dense(seed=4)})])
    assert torch.allclose(mixed.terms["w"].dense(), low(seed=1).dense() + dense(seed=4).dense(), atol=1e-6)
    assert Delta.chain([]).terms == {} and Delta({}).norm() == 0.0


def test_changes_of_other_weights_or_shapes_are_not_added() -> None:
    with pytest.raises(ValueError, match="different weights"):
        Delta({"w": low()}, "one") + Delta({"w": low()}, "two")
    with pytest.raises(ValueError, match="shapes"):
        Delta({"w": low(7, 5)}) + Delta({"w": low(5, 7)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_files_are_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    u, v = (x.to(dtype) for x in low().tensors().values())
    info = {"editor": "rome", "norms": {"h.0|odd.weight": 1.25}, "nan": 1e-30}
    delta = Delta({"h.0|odd.weight": LowRank(u, v), "h.0.bias": Dense(dense(7, 1).m.to(dtype))}, "abc", info)
    back = Delta.load(delta.save(tmp_path / "deep" / "d.safetensors"))
    assert back.base == "abc" and back.info == info and list(back.terms) == list(delta.terms)
    for name, term in delta.terms.items():
        for part, x in term.tensors().items():
            y = back.terms[name].tensors()[part]
            assert y.dtype == dtype and torch.equal(x, y)
    assert back.digest() == delta.digest()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["d.safetensors"], "temporary files are left"


def test_files_of_empty_shared_and_transposed_tensors(tmp_path: Path) -> None:
    m = dense(5, 5).m
    empty = Delta.load(Delta({}, "b", {"refused": "not-finite"}).save(tmp_path / "empty.safetensors"))
    assert empty.terms == {} and empty.info["refused"] == "not-finite" and empty.base == "b"
    delta = Delta({"a": Dense(m), "b": Dense(m), "c": Dense(m.T), "d": LowRank(m[:, :2], m[:, :2])})
    back = Delta.load(delta.save(tmp_path / "shared.safetensors"))
    assert all(torch.equal(back.terms[n].dense(), delta.terms[n].dense()) for n in "abcd")


def test_digest_sees_every_bit() -> None:
    d = Delta({"w": dense()})
    nudged = dense().m.clone()
    nudged[3, 2] = torch.nextafter(nudged[3, 2], torch.tensor(9e9))
    other = [Delta({"w": Dense(nudged)}), Delta({"x": dense()}), Delta({"w": Dense(dense().m.reshape(5, 7))})]
    digests = [d.digest(), *(o.digest() for o in other)]
    assert len(set(digests)) == 4 and Delta({"w": dense()}).digest() == d.digest()
    assert Delta({"a": dense(), "b": low()}).digest() == Delta({"b": low(), "a": dense()}).digest()
    assert Delta({"w": Dense(dense(4, 6).m.T.contiguous().T)}).digest() == Delta({"w": dense(4, 6)}).digest()


def test_finite() -> None:
    assert Delta({"a": low(), "b": dense()}).finite() and Delta({}).finite()
    for bad in (float("nan"), float("inf")):
        u = low().u.clone()
        u[2, 1] = bad
        assert not Delta({"a": LowRank(u, low().v), "b": dense()}).finite()


def test_broken_files_end_in_one_line(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(UserError, match="no delta file"):
        Delta.load(tmp_path / "none")
    path = Delta({"w": dense()}).save(tmp_path / "d.safetensors")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a readable delta file"):
        Delta.load(path)
    save_file({"w": dense().m}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not a delta"):
        Delta.load(tmp_path / "other.safetensors")


def test_files_of_earlier_versions_name_no_order(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    header = {"base": "abc", "info": "{}", "format": "edit-robust-delta-1"}
    save_file({"w|m": dense().m, "a|u": low().u, "a|v": low().v}, tmp_path / "old.safetensors", metadata=header)
    back = Delta.load(tmp_path / "old.safetensors")
    assert set(back.terms) == {"w", "a"} and back.digest() == Delta({"w": dense(), "a": low()}).digest()
