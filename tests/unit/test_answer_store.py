"""Answers on disk: what was whole stays, what was half written goes; shards; images made ready ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edit_robust.core.ahead import ahead
from edit_robust.core.images import ImageSet
from edit_robust.evaluate.answer_store import AnswerStore, Group, Place, PointAnswers, answer_bytes
from edit_robust.evaluate.image_shards import COPIES, Shard, shard_size, shards

Arrays = tuple[np.ndarray, np.ndarray]


def answers(place: Place, points: int = 3, n: int = 4, classes: int = 1000) -> Arrays:
    g = np.random.default_rng([place.images, place.variant, place.first])
    return g.integers(0, classes, (points, n), dtype=np.int32), g.normal(size=(points, n)).astype(np.float32)


PLACES = [Place(i, v, k) for i in (0, 1) for v in (0, 1) for k in (8, 0, 4)]


@pytest.mark.parametrize(("classes", "width"), [(1000, 2), (1 << 15, 2), (21841, 2), (40000, 4)])
def test_answers_come_back_as_they_were(tmp_path: Path, classes: int, width: int) -> None:
    store = AnswerStore(tmp_path / "s", classes)
    for place in PLACES:
        store.add(place, *answers(place, classes=classes))
    assert (tmp_path / "s" / "answers.bin").stat().st_size == len(PLACES) * 12 * (width + 4)
    assert answer_bytes(classes) == width + 4
    for again in (store, AnswerStore(tmp_path / "s", classes)):
        assert all(p in again for p in PLACES) and Place(2, 0, 0) not in again
        for i, v, row in ((0, 0, 0), (1, 1, 2)):
            parts = [answers(Place(i, v, k), classes=classes) for k in (0, 4, 8)]
            pred, logp = (np.concatenate([part[j][row] for part in parts]) for j in (0, 1))
            assert np.array_equal(again.predicted(i, v, row), pred) and again.predicted(i, v, row).dtype == np.int32
            assert np.array_equal(again.logp(i, v, row), logp)
    point = PointAnswers(store, {"edit|a|none|0": (0, 0, 1), "original||fog|3": (1, 1, 1)})
    assert list(point) == [f"{p}|{k}" for p in ("edit|a|none|0", "original||fog|3") for k in ("pred", "logp")]
    assert len(point) == 4 and "edit|a|none|0|pred" in point and "edit|b|none|0|pred" not in point
    assert np.array_equal(dict(point)["original||fog|3|logp"], store.logp(1, 1, 1))


def test_what_a_kill_left_half_written_is_cut_off(tmp_path: Path) -> None:
    for damage in ("line", "arrays", "nothing"):
        folder = tmp_path / damage
        store = AnswerStore(folder, 1000)
        for place in PLACES[:2]:
            store.add(place, *answers(place))
        if damage == "line":
            with (folder / "answers.jsonl").open("a") as f:
                f.write('{"images": 0, "var')
        if damage == "arrays":
            with (folder / "answers.bin").open("ab") as f:
                f.write(b"half of what was to be")
        again = AnswerStore(folder, 1000)
        assert [p in again for p in PLACES[:3]] == [True, True, False]
        again.add(PLACES[2], *answers(PLACES[2]))
        last = AnswerStore(folder, 1000)
        parts = [answers(Place(0, 0, k))[0][1] for k in (0, 4, 8)]
        assert np.array_equal(last.predicted(0, 0, 1), np.concatenate(parts)), damage


def test_an_index_without_its_arrays_is_worth_nothing(tmp_path: Path) -> None:
    AnswerStore(tmp_path, 10).add(PLACES[0], *answers(PLACES[0], classes=10))
    (tmp_path / "answers.bin").write_bytes(b"")
    store = AnswerStore(tmp_path, 10)
    assert PLACES[0] not in store
    store.add(PLACES[1], *answers(PLACES[1], classes=10))
    assert PLACES[1] in AnswerStore(tmp_path, 10) and PLACES[0] not in AnswerStore(tmp_path, 10)


def test_a_group_is_remembered(tmp_path: Path) -> None:
    group = Group((0, 3, 4), ((0, 3, 4), (3,)), 128, "in memory")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "answers.bin").write_bytes(b"of another group")
    group.start(tmp_path / "g")
    assert Group.begun(tmp_path / "g") == group and not (tmp_path / "g" / "answers.bin").exists()
    assert Group.begun(tmp_path / "none") is None
    (tmp_path / "g" / "group.json").write_text('{"steps": 3}')
    assert Group.begun(tmp_path / "g") is None


def test_shards_are_whole_batches_that_fit() -> None:
    for size, batch, points, limit in ((224, 64, 1, 256 << 20), (224, 64, 512, 256 << 20), (48, 7, 40, 1 << 20)):
        n = shard_size(size, batch, points * 6, limit)
        assert n % batch == 0 and n * (COPIES * 3 * size**2 + 6 * points) <= limit
        assert (n + batch) * (COPIES * 3 * size**2 + 6 * points) > limit
    assert shard_size(224, 64, 6, 256 << 20) > 64 and shard_size(1000, 64, 6, 1) == 64
    sets = [ImageSet("original", tuple("abcdefg"), np.zeros(7, int), lambda i: np.zeros((2, 2, 3), np.uint8))] * 2
    assert shards(sets, 4) == [Shard(i, r) for i in (0, 1) for r in (range(4), range(4, 7))]


def test_the_next_item_is_made_while_this_one_is_used() -> None:
    made: list[tuple[int, int]] = []

    def items() -> Iterator[int]:
        for i in range(4):
            made.append((i, threading.get_ident()))
            yield i

    seen = []
    for i in ahead(items()):
        for _ in range(200):
            if len(made) >= min(i + 2, 4):
                break
            time.sleep(0.01)
        assert len(made) == min(i + 2, 4), "one ahead, and no more: they take memory"
        seen.append(i)
    assert seen == [0, 1, 2, 3] and {t for _, t in made}.isdisjoint({threading.get_ident()})
    assert not [t for t in threading.enumerate() if t.name.startswith("edit-robust-images")]


def test_errors_come_in_their_place_and_nothing_goes_on() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no image")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="no image"):
        next(found)
    left = ahead(iter(range(1000)))
    assert next(left) == 0
    left.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("edit-robust-images")]
