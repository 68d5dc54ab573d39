"""The store of corrupted images: made once, whole or made again, bounded, and shared by processes."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edit_robust.core.errors import UserError
from edit_robust.shifts.images.store import CorruptedStore, digest_of, key_of

N = 4 * 32 * 32 * 3  # bytes of the images below
ROOM = (N + 4096) / 1e9  # a file of them, with its header, in GB


def images(value: int) -> np.ndarray:
    return np.full((4, 32, 32, 3), value, np.uint8)


def never() -> np.ndarray:
    raise AssertionError("made again")


def _make_slowly(folder: str) -> int:
    """Sum of images that take a while to make; in a process of its own."""

    def make() -> np.ndarray:
        (Path(folder) / "started").touch()
        time.sleep(1)
        return images(3)

    return int(CorruptedStore(folder, 1).get("key", make).sum())


def test_images_are_made_once_and_mapped(tmp_path: Path) -> None:
    store = CorruptedStore(tmp_path, 1)
    first = store.get("key", lambda: images(7))
    again = CorruptedStore(tmp_path, 1).get("key", never)
    for got in (first, again):
        np.testing.assert_array_equal(got, images(7))
        assert isinstance(got, np.memmap) and not got.flags.writeable
    np.testing.assert_array_equal(np.load(store.path("key"), allow_pickle=False), images(7))
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["key.npy"]


def test_a_process_waits_for_what_another_makes(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(_make_slowly, str(tmp_path))
        while not (tmp_path / "started").exists():
            assert not there.done() or there.exception() is None
            time.sleep(0.02)
        assert not (tmp_path / "key.npy").exists()
        np.testing.assert_array_equal(CorruptedStore(tmp_path, 1).get("key", never), images(3))
        assert there.result() == 3 * N


@pytest.mark.parametrize("damage", ["truncated", "empty", "longer", "other", "nonsense", "pickle"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    store = CorruptedStore(tmp_path, 1)
    store.get("key", lambda: images(7))
    path = store.path("key")
    whole = path.read_bytes()
    if damage == "other":
        np.save(path, np.zeros((4, 32, 32, 3)))
    elif damage == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    else:
        cut = {"truncated": whole[:-1], "empty": b"", "longer": whole + b"x", "nonsense": b"?" * len(whole)}
        path.write_bytes(cut[damage])
    np.testing.assert_array_equal(store.get("key", lambda: images(8)), images(8))
    np.testing.assert_array_equal(store.get("key", never), images(8))


def test_what_was_read_longest_ago_goes_first(tmp_path: Path) -> None:
    store = CorruptedStore(tmp_path, 2.5 * ROOM)
    for age, key in ((30, "a"), (20, "b")):
        store.get(key, lambda: images(1))
        os.utime(store.path(key), (time.time() - age,) * 2)
    store.get("a", never)  # read just now
    store.get("c", lambda: images(1))
    assert store.path("a").exists() and not store.path("b").exists() and store.path("c").exists()
    assert store.size() <= store.max_bytes


def test_what_is_being_read_stays(tmp_path: Path) -> None:
    store = CorruptedStore(tmp_path, 1.5 * ROOM)
    view = store.get("a", lambda: images(1))[1:]  # a view holds the file, too
    made = store.get("b", lambda: images(2))  # no room: handed back as it is
    np.testing.assert_array_equal(made, images(2))
    assert store.path("a").exists() and not store.path("b").exists()
    assert not made.flags.writeable
    assert int(view.sum()) == 3 * N // 4
    del view
    store.get("b", lambda: images(2))
    assert store.path("b").exists() and not store.path("a").exists()


def test_what_is_too_large_is_handed_back(tmp_path: Path) -> None:
    for gb in (N / 1e9, 0):
        store = CorruptedStore(tmp_path, gb)
        np.testing.assert_array_equal(store.get("key", lambda: images(5)), images(5))
        assert store.size() == 0


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    store = CorruptedStore(tmp_path, 1)
    with pytest.raises(ZeroDivisionError):
        store.get("key", lambda: images(1 // 0))
    for wrong in (np.zeros((4, 32, 32, 3)), np.zeros((32, 32, 3), np.uint8)):
        with pytest.raises(UserError, match=r"a store holds uint8 \[n, height, width, 3\], not"):
            store.get("key", lambda wrong=wrong: wrong)
    assert store.size() == 0 and [p.name for p in tmp_path.iterdir()] == ["locks"]


def test_unfinished_files_of_dead_processes_go(tmp_path: Path) -> None:
    store = CorruptedStore(tmp_path, 1)
    for name, age in ((".old.npy.x.part", 48), (".new.npy.x.part", 1)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age * 3600,) * 2)
    store.get("key", lambda: images(1))
    assert [p.name for p in tmp_path.glob(".*.part")] == [".new.npy.x.part"]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a store of -1 GB"):
        CorruptedStore(tmp_path, -1)
    for key in ("../x", "", ".hidden", "a/b"):
        with pytest.raises(UserError, match="is no key"):
            CorruptedStore(tmp_path, 1).get(key, never)


def test_keys_tell_everything_apart() -> None:
    one, other = images(1), images(2)
    digests = {
        digest_of([one], ["a"]),
        digest_of([other], ["a"]),
        digest_of([one], ["b"]),
        digest_of([one, other], ["a", "b"]),
        digest_of([one.reshape(2, 64, 32, 3)], ["a"]),
    }
    assert len(digests) == 5
    base = ("digest", "some", "fog", 1, "direct")
    changed = [base] + [(*base[:i], 2 if i == 3 else "x", *base[i + 1 :]) for i in range(5)]
    keys = [key_of(*parts) for parts in changed]
    assert len(set(keys)) == 6 and keys[0] == key_of(*base)
