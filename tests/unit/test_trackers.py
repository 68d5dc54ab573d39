"""A tracker mirrors what it can, and never fails, asks or holds up a run."""

from __future__ import annotations

import builtins
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edit_robust.config.compose import compose
from edit_robust.core.errors import UserError
from edit_robust.trackers import NoTracker, Tracker, WandbTracker
from edit_robust.trackers.base import key_of
from edit_robust.trackers.wandb import import_early, row_of

RECORD = {"step": 3, "alpha": 1.0, "n_edits": 3, "scope": "at-edit", "probe": "edit", "shift": "none", "severity": 0}
RECORD |= {"layer": "", "metric": "success", "value": 0.5, "n": 1, "run": "r"}
CONFIG = {"trajectory": {"name": "sequential"}, "where": Path("place")}


class FakeRun:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.summary: dict = {}
        self.metrics: list[tuple] = []
        self.ended: list[int] = []

    def log(self, row: dict) -> None:
        self.rows.append(row)

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def finish(self, exit_code: int = 0) -> None:
        self.ended.append(exit_code)


def fake_wandb(monkeypatch: pytest.MonkeyPatch, logged_in: bool = False, init=None) -> SimpleNamespace:
    """A W&B that is not there; `init` may be replaced by one that fails."""
    run = FakeRun()
    calls: list[dict] = []

    def begin(**given):
        calls.append(given)
        return init(given, run) if init else run

    def login(prompt: bool = True) -> bool:
        assert not prompt
        return logged_in

    fake = SimpleNamespace(run=run, calls=calls, init=begin, login=login, Image=lambda path: ("image", path))
    fake.Settings = lambda **given: given
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    return fake


def whole_run(tracker: Tracker, path: Path) -> None:
    """Everything that a runner calls."""
    tracker.start("abc", path, CONFIG)
    tracker.point(3, [RECORD])
    tracker.finish({"ES": 50.0}, [path / "scaling.png", path / "scaling.pdf"])
    tracker.close()
    tracker.close(failed=True)


@pytest.fixture(autouse=True)
def no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("a tracker asked a question")

    monkeypatch.setattr(builtins, "input", ask)
    monkeypatch.setattr("getpass.getpass", ask)


def test_no_tracker_does_nothing(tmp_path: Path) -> None:
    whole_run(NoTracker(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_keys_read_well() -> None:
    assert key_of(RECORD) == "at-edit/edit/success"
    weights = RECORD | {"scope": "model", "probe": "", "layer": "h.0.w", "metric": "drift_fro"}
    assert key_of(weights) == "model/h.0.w/drift_fro"
    assert key_of(RECORD | {"shift": "fog", "severity": 3}) == "at-edit/edit/fog-3/success"


def test_rows_hold_values_and_axes() -> None:
    missing = RECORD | {"metric": "accuracy", "value": float("nan")}
    assert row_of(3, [RECORD, missing]) == {"step": 3, "n_edits": 3, "alpha": 1.0, "at-edit/edit/success": 0.5}


def test_several_requests_at_one_step_have_keys_of_their_own() -> None:
    records = [RECORD | {"request": name, "value": value} for name, value in (("road-snow", 0.25), ("sea-wood", 0.75))]
    row = row_of(3, [*records, RECORD | {"request": ""}])
    assert row["at-edit/road-snow/edit/success"] == 0.25 and row["at-edit/sea-wood/edit/success"] == 0.75
    assert row["at-edit/edit/success"] == 0.5


def test_what_editors_tell_is_a_curve_over_edits() -> None:
    """One name for all edits, not one for each: a sequence of thousands has a handful of curves."""
    sign = RECORD | {"probe": "", "metric": "key_ratio"}
    rows = [row_of(step, [sign | {"request": str(step), "value": step / 4}]) for step in (1, 2)]
    assert [row["at-edit/key_ratio"] for row in rows] == [0.25, 0.5] and len(rows[0] | rows[1]) == 4
    batch = row_of(1, [sign | {"request": name, "value": value} for name, value in (("a", 1.0), ("b", 2.0))])
    assert batch["at-edit/key_ratio"] == 1.5
    layered = row_of(1, [sign | {"request": "a", "layer": "h.0.w"}])
    assert layered["at-edit/h.0.w/key_ratio"] == 0.5


def test_mirrors_a_run_offline_when_not_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = fake_wandb(monkeypatch)
    whole_run(WandbTracker(tags=["t"]), tmp_path)
    (given,) = fake.calls
    assert (given["mode"], given["id"], given["dir"], given["tags"]) == ("offline", "abc", str(tmp_path), ["t"])
    assert given["config"] == {"trajectory": {"name": "sequential"}, "where": "place"}
    assert ("*", "n_edits") in fake.run.metrics
    assert fake.run.rows[0]["at-edit/edit/success"] == 0.5
    assert fake.run.rows[1] == {"figures/scaling": ("image", str(tmp_path / "scaling.png"))}
    assert fake.run.summary == {"ES": 50.0}
    assert fake.run.ended == [0]


@pytest.mark.parametrize(
    ("mode", "environment", "logged_in", "expected"),
    [
        ("auto", None, True, "online"),
        ("auto", "offline", True, "offline"),
        ("auto", "online", False, "offline"),
        ("online", None, False, "offline"),
        ("online", None, True, "online"),
        ("offline", None, True, "offline"),
        ("auto", "disabled", True, None),
        ("disabled", None, True, None),
    ],
)
def test_modes(monkeypatch, tmp_path: Path, mode: str, environment: str | None, logged_in: bool, expected) -> None:
    fake = fake_wandb(monkeypatch, logged_in)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    whole_run(WandbTracker(mode=mode), tmp_path)
    assert [given["mode"] for given in fake.calls] == ([expected] if expected else [])
    assert all(given["settings"]["init_timeout"] <= 20 for given in fake.calls)


def test_a_failed_start_is_one_warning(monkeypatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(given: dict, run: FakeRun) -> FakeRun:
        raise RuntimeError("no disk\nand more")

    fake_wandb(monkeypatch, init=broken)
    with caplog.at_level(logging.WARNING):
        whole_run(WandbTracker(), tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "W&B could not start (RuntimeError: no disk); the run goes on without it"
    ]


def test_falls_back_to_offline(monkeypatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def unreachable(given: dict, run: FakeRun) -> FakeRun:
        if given["mode"] == "online":
            raise TimeoutError("unreachable")
        return run

    fake = fake_wandb(monkeypatch, True, unreachable)
    with caplog.at_level(logging.WARNING):
        whole_run(WandbTracker(), tmp_path)
    assert [given["mode"] for given in fake.calls] == ["online", "offline"]
    assert fake.calls[1]["id"] != fake.calls[0]["id"]
    assert len(caplog.records) == 1
    assert fake.run.ended == [0]


@pytest.mark.parametrize("method", ["log", "finish", "define_metric"])
def test_breaking_midway_is_one_warning(monkeypatch, tmp_path: Path, caplog, method: str) -> None:
    fake = fake_wandb(monkeypatch)

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    setattr(fake.run, method, broken)
    with caplog.at_level(logging.WARNING):
        whole_run(WandbTracker(), tmp_path)
    assert len(caplog.records) == 1


def test_a_missing_package_is_one_warning(monkeypatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with caplog.at_level(logging.WARNING):
        whole_run(WandbTracker(), tmp_path)
    assert len(caplog.records) == 1


def test_a_failed_run_ends_as_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = fake_wandb(monkeypatch)
    tracker = WandbTracker()
    tracker.start("abc", tmp_path, {})
    tracker.close(failed=True)
    assert fake.run.ended == [1]
    assert ("*", "step") in fake.run.metrics


def test_an_unknown_mode_is_refused_at_once() -> None:
    with pytest.raises(UserError, match='did you mean "offline"'):
        WandbTracker(mode="oflfine")


@pytest.mark.slow
def test_the_real_package_offline(monkeypatch, tmp_path: Path, capfd, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with caplog.at_level(logging.WARNING):
        tracker = WandbTracker(mode="offline")
        tracker.start("abc", tmp_path, CONFIG)
        tracker.point(3, [RECORD, RECORD | {"metric": "perplexity", "value": float("inf")}])
        tracker.finish({"ES": 50.0}, [])
    assert caplog.records == []
    assert list((tmp_path / "wandb").glob("offline-run-*/run-abc.wandb"))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_wandb_is_imported_before_the_large_libraries_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fails(name: str) -> None:
        asked.append(name)
        raise ImportError("another release")

    monkeypatch.setattr("edit_robust.trackers.wandb.import_module", fails)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for without in (["tracker=none"], ["editor=rome", "tracker.mode=disabled"]):
        import_early(compose(without).tracker)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    import_early(compose(["editor=rome"]).tracker)
    assert asked == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    import_early(compose(["editor=rome"]).tracker)  # what is not there is no matter
    assert [name.partition(".")[0] for name in asked] == ["wandb"]
