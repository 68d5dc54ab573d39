"""Answers on disk: what was whole stays, what was half written goes; shards; images made ready ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edit_robust.core.ahead import ahead, gathered, hands
from edit_robust.core.images import ImageSet
from edit_robust.evaluate.answer_store import AnswerStore, Group, Keep, Place, PointAnswers, answer_bytes, class_type
from edit_robust.evaluate.image_shards import COPIES, Shard, shard_size, shards


def answers(place: Place, points: int = 3, n: int = 5, classes: int = 1000) -> dict[str, np.ndarray]:
    g = np.random.default_rng([place.images, place.variant, place.first])
    return {
        "right": g.random((points, n)) < 0.5,
        "loss": g.normal(size=(points, 2)),
        "moved": g.integers(0, 9, (points, 2)),
        "pred": g.integers(0, classes, (points, n)).astype(class_type(classes)),
        "logp": g.normal(size=(points, n)).astype(np.float32),
        "logits": g.normal(size=(points, n, 3)).astype(np.float16),
    }


PLACES = [Place(i, v, k) for i in (0, 1) for v in (0, 1) for k in (10, 0, 5)]


@pytest.mark.parametrize(("classes", "width"), [(1000, 2), (1 << 15, 2), (21841, 2), (40000, 4)])
def test_answers_come_back_as_they_were(tmp_path: Path, classes: int, width: int) -> None:
    store = AnswerStore(tmp_path / "s")
    for place in PLACES:
        store.add(place, 5, answers(place, classes=classes))
    each = 3 * (1 + 16 + 16 + 5 * (width + 4 + 6))  # of three points: five bits are a byte
    assert (tmp_path / "s" / "answers.bin").stat().st_size == len(PLACES) * each
    assert [answer_bytes(classes, keep) for keep in get_args(Keep)] == [
        *(1 / 8, 1 / 8 + width + 4, 1 / 8 + width + 4 + 2 * classes)
    ]
    for again in (store, AnswerStore(tmp_path / "s")):
        assert all(p in again for p in PLACES) and Place(2, 0, 0) not in again
        for i, v, row in ((0, 0, 0), (1, 1, 2)):
            parts = [answers(Place(i, v, k), classes=classes) for k in (0, 5, 10)]
            whole = {name: np.concatenate([part[name][row] for part in parts]) for name in parts[0]}
            assert np.array_equal(again.right(i, v, row), whole["right"])
            assert again.loss(i, v, row) == pytest.approx(whole["loss"].sum())
            assert again.moved(i, v, row) == tuple(sum(part["moved"][row] for part in parts))
            for name in ("pred", "logp", "logits"):
                assert np.array_equal(again.kept(i, v, row, name), whole[name])
            assert again.kept(i, v, row, "pred").dtype == np.int32
    places = {"edit|a|none|0": (0, 0, 1), "original||fog|3": (1, 1, 1)}
    kinds = ["right", "pred", "logp", "logits"]
    point = PointAnswers(store, places)
    assert list(point) == [f"{p}|{k}" for p in places for k in kinds] and len(point) == 8
    assert point.place("original||fog|3") == (1, 1, 1) and point.place("edit|b|none|0") is None
    bits = dict(point)["original||fog|3|right"]
    assert len(bits) == 2 and np.array_equal(np.unpackbits(bits, count=15).astype(bool), store.right(1, 1, 1))
    bare = AnswerStore(tmp_path / "bare")
    bare.add(PLACES[1], 5, {"right": answers(PLACES[1])["right"], "loss": np.zeros((3, 1))})
    assert list(PointAnswers(bare, {"edit|a|none|0": (0, 0, 1)})) == ["edit|a|none|0|right"]


def test_without_the_unedited_model_nothing_is_gained_or_lost(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    store.add(PLACES[0], 5, {k: x for k, x in answers(PLACES[0]).items() if k != "moved"})
    assert store.moved(0, 0, 1) is None


def test_what_a_kill_left_half_written_is_cut_off(tmp_path: Path) -> None:
    for damage in ("line", "arrays", "nothing"):
        folder = tmp_path / damage
        store = AnswerStore(folder)
        for place in PLACES[:2]:
            store.add(place, 5, answers(place))
        if damage == "line":
            with (folder / "answers.jsonl").open("a") as f:
                f.write('{"images": 0, "var')
        if damage == "arrays":
            with (folder / "answers.bin").open("ab") as f:
                f.write(b"half of what was to be")
        again = AnswerStore(folder)
        assert [p in again for p in PLACES[:3]] == [True, True, False]
        again.add(PLACES[2], 5, answers(PLACES[2]))
        last = AnswerStore(folder)
        parts = [answers(Place(0, 0, k))["right"][1] for k in (0, 5, 10)]
        assert np.array_equal(last.right(0, 0, 1), np.concatenate(parts)), damage


def test_an_index_without_its_arrays_is_worth_nothing(tmp_path: Path) -> None:
    AnswerStore(tmp_path).add(PLACES[0], 5, answers(PLACES[0]))
    (tmp_path / "answers.bin").write_bytes(b"")
    store = AnswerStore(tmp_path)
    assert PLACES[0] not in store
    store.add(PLACES[1], 5, answers(PLACES[1]))
    assert PLACES[1] in AnswerStore(tmp_path) and PLACES[0] not in AnswerStore(tmp_path)


def test_a_group_is_remembered(tmp_path: Path) -> None:
    group = Group((0, 3, 4), ((0, 3, 4), (3,)), 128, "in memory", "answers")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "answers.bin").write_bytes(b"of another group")
    group.start(tmp_path / "g")
    assert Group.begun(tmp_path / "g") == group and not (tmp_path / "g" / "answers.bin").exists()
    assert Group.begun(tmp_path / "none") is None
    (tmp_path / "g" / "group.json").write_text('{"steps": [0], "asked": [[0]], "n": 8, "stamp": ""}')
    assert Group.begun(tmp_path / "g") is None, "answers of earlier versions had another form"
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


@pytest.mark.parametrize("workers", [0, 3])
def test_decoders_keep_the_order_and_name_the_first_that_fails(workers: int) -> None:
    def made(i: int) -> int:
        time.sleep(0.001 * (9 - i % 10))
        if i in (5, 7):
            raise ValueError(f"image {i} is damaged")
        return i * i

    with hands(workers) as pool:
        assert gathered(made, range(5), pool) == [0, 1, 4, 9, 16]
        with pytest.raises(ValueError, match="image 5 is damaged"):
            gathered(made, range(10), pool)
    assert not [t for t in threading.enumerate() if t.name.startswith("edit-robust-decoder")]
