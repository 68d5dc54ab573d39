"""Second moments: summed right, stored safely, inverted honestly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small import SmallTask, left_as_found, relative

from edit_robust.core import Delta, Dense, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.language.helpers import moments
from edit_robust.editors.language.helpers.moments import Inverse, second_moments
from edit_robust.models.language.causal_lm import CausalLM

TEXTS = SmallTask().corpus()


@pytest.fixture
def model(tiny_model: Callable[[str], CausalLM]) -> CausalLM:
    return tiny_model("gpt2")


def compute(model: CausalLM, work: Workspace, texts: list[str] = TEXTS, n: int = 1000, layers: Any = (0, 2)) -> Any:
    names = [model.layer_at(i).name for i in layers]
    task: Any = SimpleNamespace(corpus=lambda: texts)
    return second_moments(model, names, task, "computed", "task", n, work)


def by_hand(model: CausalLM, index: int, texts: list[str]) -> torch.Tensor:
    found = []
    hook = model.layer_at(index).module.register_forward_pre_hook(lambda m, a: found.append(a[0][0].double()))
    with torch.no_grad():
        for t in texts:
            model.net(input_ids=torch.tensor([model.text.encode(t)[: model.max_tokens]]))
    hook.remove()
    k = torch.cat(found)
    return k.T @ k / len(k)


def test_every_token_counts_once(model: CausalLM, tmp_path: Path) -> None:
    """Documents of different lengths, one longer than the model's window, padding between them."""
    texts = [*TEXTS[:20], "Ada", " ".join(TEXTS[:40])]
    with left_as_found(model):
        found = compute(model, Workspace(tmp_path), texts)
    for i in (0, 2):
        c = found[model.layer_at(i).name]
        assert c.dtype == torch.float64 and relative(c, by_hand(model, i, texts)) < 1e-5


def test_kept_and_told_apart(model: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Workspace(tmp_path)
    first = compute(model, work, TEXTS[:30])
    made: list[int] = []
    inner = moments._compute
    monkeypatch.setattr(moments, "_compute", lambda *a, **k: made.append(1) or inner(*a, **k))
    again = compute(model, work, TEXTS[:30])
    assert not made and all(torch.equal(first[n], again[n]) for n in first)
    compute(model, work, TEXTS[:30], layers=(2,))
    assert not made, "layers are kept one by one"
    compute(model, work, TEXTS[1:31])
    compute(model, work, TEXTS[:30], n=29)
    assert len(made) == 2, "another corpus or size is another statistic"
    compute(model, work, TEXTS[:30], n=5000)
    assert len(made) == 2, "asking for more than there is, is asking for all"
    files = sorted(p.suffix for p in (tmp_path / "moments").iterdir() if p.suffix != ".lock")
    assert files == [".json"] * 6 + [".npz"] * 6


def test_of_the_unedited_model(model: CausalLM, tmp_path: Path) -> None:
    """The key names the unedited weights: statistics are never mixed up between models."""
    other = Delta({model.layer_at(0).weight_name: Dense(torch.ones(48, 192))})
    first = compute(model, Workspace(tmp_path), TEXTS[:10], layers=(0,))
    with model.patched(other):
        again = compute(model, Workspace(tmp_path), TEXTS[:10], layers=(0,))
    assert all(torch.equal(first[n], again[n]) for n in first)


def test_going_on_after_an_interruption(model: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle, the sums go on where they stopped, and end with the same bits."""
    whole = compute(model, Workspace(tmp_path / "whole"))
    inner = moments._compute
    monkeypatch.setattr(moments, "_compute", lambda *a: inner(*a, chunk=64, keep_every=-1.0))
    advanced: list[int] = []

    @contextmanager
    def interrupted(title: str, total: int) -> Iterator[Any]:
        def advance(n: int) -> None:
            advanced.append(n)
            if sum(advanced) >= 192 and len(advanced) < 10:
                raise KeyboardInterrupt

        yield advance

    work = Workspace(tmp_path / "cut", progress=interrupted)
    with pytest.raises(KeyboardInterrupt):
        compute(model, work)
    assert len(list((tmp_path / "cut" / "moments").glob("*.partial.npz"))) == 1
    assert not [p for p in (tmp_path / "cut" / "moments").glob("*.npz") if "partial" not in p.name]
    advanced[:] = [0] * 20
    found = compute(model, work)
    assert advanced[20] == 128, "the third chunk had not been kept when it was cut off"
    assert all(torch.equal(found[n], whole[n]) for n in whole)
    assert not list((tmp_path / "cut" / "moments").glob("*.partial.npz"))


def test_given_statistics(model: CausalLM, tmp_path: Path) -> None:
    def given(path: Path | str) -> Any:
        return second_moments(model, [model.layer_at(1).name], None, str(path), "task", 1, Workspace(tmp_path))  # type: ignore[arg-type]

    good = np.eye(192) * 2
    np.savez(tmp_path / "good.npz", layer1=good)
    assert torch.equal(given(tmp_path / "good.npz")[model.layer_at(1).name], torch.from_numpy(good))
    with pytest.raises(UserError, match=r"neither `computed` nor an \.npz file"):
        given(tmp_path / "absent.npz")
    np.savez(tmp_path / "other.npz", layer0=good)
    with pytest.raises(UserError, match="no array layer1"):
        given(tmp_path / "other.npz")
    np.savez(tmp_path / "small.npz", layer1=np.eye(48))
    with pytest.raises(UserError, match=r"needs \(192, 192\)"):
        given(tmp_path / "small.npz")
    np.savez(tmp_path / "nan.npz", layer1=good * np.nan)
    with pytest.raises(UserError, match="not finite"):
        given(tmp_path / "nan.npz")
    cut = (tmp_path / "good.npz").read_bytes()[:2000]
    for content in (b"hello", b"", cut):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(UserError, match="not a readable"):
            given(tmp_path / "broken.npz")


def test_an_empty_corpus_and_a_damaged_file(model: CausalLM, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        compute(model, Workspace(tmp_path), [])
    compute(model, Workspace(tmp_path), TEXTS[:3], layers=(0,))
    (path,) = (tmp_path / "moments").glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        compute(model, Workspace(tmp_path), TEXTS[:3], layers=(0,))


def test_inverse() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(12, 40, generator=g, dtype=torch.float64)
    c, k = a @ a.T / 40, torch.randn(12, 3, generator=g)
    inverse = Inverse.of(c.float())
    assert inverse.ridge == 0.0
    assert relative(inverse.solve(k), torch.linalg.inv(c.float().double()) @ k.double()) < 1e-10


def test_a_singular_moment_gets_a_ridge_that_keeps_edits_small() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(12, 4, generator=g, dtype=torch.float64)
    c = a @ a.T
    inverse = Inverse.of(c)
    assert inverse.ridge == pytest.approx(1e-3 * float(c.diagonal().mean()))
    k = torch.randn(12, 2, generator=g, dtype=torch.float64)
    shifted = c + inverse.ridge * torch.eye(12, dtype=torch.float64)
    assert relative(shifted @ inverse.solve(k), k) < 1e-8
    for bad in (torch.zeros(3, 3), torch.full((3, 3), float("nan"))):
        with pytest.raises(UserError, match="zero or not finite"):
            Inverse.of(bad)
