"""Second moments: summed right, stored safely, inverted honestly."""

from __future__ import annotations

import os
import time
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
from edit_robust.core.pace import Pace
from edit_robust.core.work import Workspace
from edit_robust.editors.helpers import cache
from edit_robust.editors.language.helpers import moments
from edit_robust.editors.language.helpers.moments import Inverse, second_moments
from edit_robust.editors.language.helpers.sums import sums_over
from edit_robust.editors.language.memit import Memit
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.language import documents

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
    monkeypatch.setattr(moments, "sums_over", lambda *a: made.append(1) or sums_over(*a))
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


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished sums are kept after every chunk of 64 documents."""
    monkeypatch.setattr(moments, "sums_over", lambda *a: sums_over(*a, chunk=64, pace=Pace(0.0, share=1e9)))


class Interrupts:
    """Progress that interrupts the work when so many documents have been read; `seen` is what it was told."""

    def __init__(self, at: float) -> None:
        self.at, self.seen = at, list[int]()

    @contextmanager
    def __call__(self, title: str, total: int) -> Iterator[Any]:
        def advance(n: int) -> None:
            self.seen.append(n)
            if sum(self.seen) >= self.at:
                raise KeyboardInterrupt

        yield advance


def cut_off(model: CausalLM, folder: Path, at: int, layers: Any = (0, 2)) -> list[int]:
    """Begin to compute statistics and be interrupted. -> the documents it was told of, chunk by chunk"""
    watch = Interrupts(at)
    with pytest.raises(KeyboardInterrupt):
        compute(model, Workspace(folder, progress=watch), layers=layers)
    return watch.seen


@pytest.mark.usefixtures("hasty")
def test_going_on_after_an_interruption(model: CausalLM, tmp_path: Path) -> None:
    """Killed in the middle, the sums go on where they stopped, and end with the same bits."""
    whole = compute(model, Workspace(tmp_path / "whole"))
    cut_off(model, tmp_path / "cut", 192)
    assert len(list((tmp_path / "cut" / "moments").glob("*.partial.npz"))) == 2, "one a layer"
    assert not [p for p in (tmp_path / "cut" / "moments").glob("*.npz") if "partial" not in p.name]
    watch = Interrupts(np.inf)
    found = compute(model, Workspace(tmp_path / "cut", progress=watch))
    assert watch.seen[0] == 128, "the third chunk had not been kept when it was cut off"
    assert all(torch.equal(found[n], whole[n]) for n in whole)
    assert not list((tmp_path / "cut" / "moments").glob("*.partial.npz"))


@pytest.mark.usefixtures("hasty")
def test_a_layer_never_gets_the_sums_of_another(
    model: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one process waits, another is killed when it has written one of two layers and the sums of both."""
    whole = compute(model, Workspace(tmp_path / "whole"))
    held, write, waited = cache.held, moments.write_arrays, list[int]()

    def killed(path: Path, *args: Any) -> None:
        write(path, *args)
        raise KeyboardInterrupt  # before its unfinished sums are removed, and before the second layer is written

    def wait(path: Path) -> Any:
        if not waited:
            waited.append(1)
            cut_off(model, tmp_path / "cut", 192)
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(moments, "write_arrays", killed)
                compute(model, Workspace(tmp_path / "cut"))
            assert len(list((tmp_path / "cut" / "moments").glob("*.partial.npz"))) == 2
        return held(path)

    monkeypatch.setattr(cache, "held", wait)
    found = compute(model, Workspace(tmp_path / "cut"))
    assert waited and all(torch.equal(found[n], whole[n]) for n in whole)
    assert not list((tmp_path / "cut" / "moments").glob("*.partial.npz"))


@pytest.mark.usefixtures("hasty")
def test_layers_that_were_interrupted_at_different_places(model: CausalLM, tmp_path: Path) -> None:
    whole = compute(model, Workspace(tmp_path / "whole"), layers=(0, 1, 2))
    for layers, at in (((1,), 256), ((0, 2), 128), ((1, 2), 192)):
        cut_off(model, tmp_path / "cut", at, layers)
    watch = Interrupts(np.inf)
    found = compute(model, Workspace(tmp_path / "cut", progress=watch), layers=(0, 1, 2))
    assert watch.seen[0] == 64, "the layer that was farthest behind"
    assert all(torch.equal(found[n], whole[n]) for n in whole)


def test_orphans_are_removed(model: CausalLM, tmp_path: Path) -> None:
    compute(model, Workspace(tmp_path), layers=(0,))
    folder = tmp_path / "moments"
    (done,) = folder.glob("*.npz")
    np.savez(folder / "aaaa.partial.npz", done=np.array(64), sum0=np.eye(3))  # as version 2 kept them
    np.savez(folder / "bbbb.partial.npz", documents=np.array(64), tokens=np.array(9), matrix=np.eye(3))
    np.savez(done.with_suffix(".partial.npz"), documents=np.array(64), tokens=np.array(9), matrix=np.eye(3))
    np.savez(folder / "cccc.partial.npz", documents=np.array(64), tokens=np.array(9), matrix=np.eye(3))
    os.utime(folder / "cccc.partial.npz", (0, 0))
    (folder / ".dddd.npz.x1.part").write_bytes(b"half")
    os.utime(folder / ".dddd.npz.x1.part", (0, 0))
    (folder / ".eeee.npz.x1.part").write_bytes(b"half")  # another process may be writing it just now
    (folder / "ffff.partial.npz").write_bytes(b"half")
    compute(model, Workspace(tmp_path), layers=(1,))
    left = {p.name for p in folder.iterdir() if "part" in p.name}
    assert left == {"bbbb.partial.npz", ".eeee.npz.x1.part"}


def test_unfinished_sums_are_kept_in_proportion_to_the_work() -> None:
    """However long keeping takes, it takes at most a twentieth of the time."""
    pace = Pace.for_bytes(10 << 30, at_least=30.0)  # five layers of GPT-J
    assert not pace.due(900.0) and pace.due(1100.0)
    with pace.writing():
        time.sleep(0.05)
    assert not pace.due(29.0) and pace.due(31.0), "the disk is faster than was thought"
    quick = Pace(0.0)
    with quick.writing():
        time.sleep(0.05)
    assert not quick.due(0.9 * 20 * quick.cost) and quick.due(1.1 * 20 * quick.cost)


class Keyed(SmallTask):
    """A task that can tell its text apart without reading it."""

    def __init__(self, version: int = 1) -> None:
        super().__init__(5)
        self.version, self.read = version, 0

    def corpus(self) -> list[str]:
        self.read += 1
        return TEXTS

    def corpus_key(self) -> dict[str, int]:
        return {"version": self.version}


def test_no_text_is_read_where_the_statistics_are_kept(model: CausalLM, tmp_path: Path) -> None:
    def ask(task: Keyed, n: int = 50, length: int | None = None) -> Any:
        work = Workspace(tmp_path)
        return second_moments(model, [model.layer_at(0).name], task, "computed", "task", n, work, length)  # type: ignore[arg-type]

    first, again, other = Keyed(), Keyed(), Keyed(2)
    a, b = ask(first), ask(again)
    assert (first.read, again.read) == (1, 0) and all(torch.equal(a[n], b[n]) for n in a)
    ask(other)
    ask(again, n=51)
    ask(again, length=7)
    assert (again.read, other.read) == (2, 1), "another text, sample or length is another statistic"
    ask(again, length=model.max_tokens)
    assert again.read == 2, "no document is longer than the model can read"


def test_a_file_of_text_is_known_by_its_content(
    model: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(path: Path) -> Any:
        work = Workspace(tmp_path / "cache")
        return second_moments(model, [model.layer_at(0).name], SmallTask(), "computed", str(path), 20, work)  # type: ignore[arg-type]

    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(TEXTS))
    first = ask(text)
    moved = text.rename(tmp_path / "b.txt")
    with monkeypatch.context() as patch:
        patch.setattr(documents, "_paragraphs", lambda path: pytest.fail("the text was read"))
        assert all(torch.equal(ask(moved)[n], first[n]) for n in first)
    moved.write_text("\n\n".join(TEXTS[1:]))
    assert not any(torch.equal(ask(moved)[n], first[n]) for n in first)


def test_documents_are_a_random_sample(model: CausalLM, tmp_path: Path) -> None:
    """Not the first ones, always the same ones, and read in chunks: the tokenizer never has all of them at once."""
    drawn = documents.sample(TEXTS, 30)
    assert len(drawn) == 30 and drawn != TEXTS[:30] and drawn == sorted(drawn, key=TEXTS.index)
    assert drawn == documents.sample(iter(TEXTS), 30) != documents.sample(TEXTS, 30, seed=1)
    assert documents.sample(TEXTS, len(TEXTS)) == documents.sample(TEXTS, 10_000) == TEXTS
    found = compute(model, Workspace(tmp_path), n=30, layers=(0,))[model.layer_at(0).name]
    assert relative(found, by_hand(model, 0, drawn)) < 1e-5
    places = [i for seed in range(400) for i in map(int, documents.sample(map(str, range(10)), 3, seed))]
    counts = np.bincount(places, minlength=10)
    assert counts.sum() == 1200 and counts.min() > 80 and counts.max() < 160, "every document is as likely"


def test_text_is_tokenised_in_chunks(model: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    spans = model.text.spans
    monkeypatch.setattr(model.text, "spans", lambda texts: sizes.append(len(texts)) or spans(texts))
    compute(model, Workspace(tmp_path), layers=(0,))
    assert sizes == [64] * 6 + [16]


def test_documents_are_cut(model: CausalLM, tmp_path: Path) -> None:
    texts = [*TEXTS[:10], "Ada"]
    task: Any = SimpleNamespace(corpus=lambda: texts)
    name = model.layer_at(1).name
    found = second_moments(model, [name], task, "computed", "task", 100, Workspace(tmp_path), 5)[name]
    short = [model.text.decode(model.text.encode(t)[:5]) for t in texts]
    assert all(model.text.encode(s) == model.text.encode(t)[:5] for s, t in zip(short, texts, strict=True))
    assert relative(found, by_hand(model, 1, short)) < 1e-5
    for make in (Rome, Memit):
        with pytest.raises(UserError, match="mom2_max_tokens=0 must be above 0"):
            make(mom2_max_tokens=0)


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
