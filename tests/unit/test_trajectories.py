"""Walks through weight space, with an editor and a ledger made of paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from edit_robust.core import Delta, Dense, Editable, Layer, LowRank, Request, UserError
from edit_robust.editors.base import Edit, State
from edit_robust.trajectories import Batch, Interpolate, Point, Sequential, Single

REQUESTS = [Request(str(i), "{} is", "a", "b", f"s{i}") for i in range(7)]


class PaperEditor:
    """Adds a fixed rank-one change a request, times the number of edits carried by the state (from 1)."""

    name, layers = "paper", "auto"

    def __init__(self, batches: bool = True) -> None:
        self.batches = batches
        self.positions: list[str] = []

    def change(self, requests: Sequence[Request], times: int = 1) -> Delta:
        i = torch.tensor([float(r.id) for r in requests])
        return Delta({"0.weight": LowRank(torch.stack([i + 1, i * i, -i]), torch.stack([i - 2, i + 0.5]) * times)})

    def edit(self, model: Editable, requests: Sequence[Request], state: State) -> Edit:
        self.positions.append(model.position)
        done = len(state.carried) + 1
        info = [{"id": float(r.id), "times": float(done)} for r in requests]
        return Edit(self.change(requests, done), info, {"done": torch.tensor(done)})

    def edit_each(self, model: Editable, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]


class PaperLedger:
    """Makes every edit, and remembers what was asked of it."""

    def __init__(self, measured: Sequence[int] = ()) -> None:
        self.known = set(measured)
        self.made: list[int] = []

    def measured(self, step: int) -> bool:
        return step in self.known

    def independent(self, steps: Sequence[int], make: Callable[[], list[Edit]]) -> list[Edit]:
        self.made += list(steps)
        return make()

    def advance(self, model: Editable, step: int, make: Callable[[], Edit], **about: bool) -> Edit:
        self.made.append(step)
        edit = make()
        model.add(edit.delta)
        return edit


def told(p: Point) -> tuple[tuple[int, dict[str, float]], ...]:
    """What the editor itself told of a point's edits."""
    return tuple((i, {k: v for k, v in info.items() if k != "relative_norm"}) for i, info in p.edits)


@pytest.fixture
def model() -> Editable:
    net = nn.Sequential(nn.Linear(2, 3, bias=False)).requires_grad_(False)
    return Editable(net, {"0": Layer("0", 0, "linear", net[0])})


def walk(
    trajectory: Any, model: Editable, editor: Any = None, n: int = 7, ledger: Any = None
) -> list[tuple[Point, torch.Tensor]]:
    """The points, and the weights that stand at each, as a change of the unedited ones."""
    start = model.param("0.weight").clone()
    points = [
        (p, model.param("0.weight") - start)
        for p in trajectory.walk(model, editor or PaperEditor(), State(("0",)), REQUESTS[:n], ledger or PaperLedger())
    ]
    assert torch.equal(model.param("0.weight"), start) and model.position == model.base, "not left as found"
    return points


def scopes(p: Point) -> dict[str, list[int]]:
    return {x.name: list(x.requests) for x in p.scopes}


def total(*changes: tuple[Sequence[int], int]) -> torch.Tensor:
    editor = PaperEditor()
    return sum(
        (editor.change([REQUESTS[i] for i in some], t).terms["0.weight"].dense() for some, t in changes),
        torch.zeros(3, 2),
    )


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.allclose(a, b, atol=1e-4, rtol=1e-5))


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_single(model: Editable, chunk: int) -> None:
    trajectory, editor = Single(every=3, chunk=chunk), PaperEditor()
    points = walk(trajectory, model, editor)
    assert len(points) == trajectory.points(7) == 8 and [p.step for p, _ in points] == list(range(8))
    first, weights = points[0]
    assert scopes(first) == {"unedited": list(range(7))} and first.whole and first.n_edits == 0 and not weights.any()
    for i, (p, weights) in enumerate(points[1:]):
        assert scopes(p) == {"at-edit": [i]} and p.n_edits == 1 and p.alpha == 1.0
        assert close(weights, total(([i], 1))), "every edit is made and measured alone"
        assert told(p) == ((i, {"id": float(i), "times": 1.0}),)
        assert p.terms["0.weight"] == pytest.approx(float(total(([i], 1)).norm()), rel=1e-5)
    assert [p.step for p, _ in points if p.whole] == [0, 3, 6, 7]
    assert set(editor.positions) == {model.base}, "all start from the unedited weights"


@pytest.mark.parametrize(("size", "sizes"), [(3, [3, 3, 1]), (7, [7]), (None, [7]), (10, [7]), (1, [1] * 7)])
def test_batch(model: Editable, size: int | None, sizes: list[int]) -> None:
    trajectory = Batch(batch_size=size)
    points = walk(trajectory, model)
    assert len(points) == trajectory.points(7) == len(sizes) + 1
    start = 0
    for (p, weights), n in zip(points[1:], sizes, strict=True):
        some = list(range(start, start + n))
        assert scopes(p) == {"at-edit": some} and p.n_edits == n and p.whole
        assert close(weights, total((some, 1))) and [i for i, _ in p.edits] == some
        start += n
    assert start == 7


@pytest.mark.parametrize(
    ("size", "every", "steps", "due"),
    [
        (1, 3, 7, [3, 6, 7]),
        (1, 10, 7, [7]),
        (1, 1, 7, [1, 2, 3, 4, 5, 6, 7]),
        (3, 1, 3, [3, 6, 7]),
        (2, 3, 4, [4, 6, 7]),
        (3, 5, 3, [6, 7]),
        (10, 4, 1, [7]),
    ],
)
def test_sequential(model: Editable, size: int, every: int, steps: int, due: list[int]) -> None:
    trajectory, editor = Sequential(every=every, batch_size=size), PaperEditor()
    points = walk(trajectory, model, editor)
    assert len(points) == trajectory.points(7) == steps + 1
    done, stack = 0, []
    for step, (p, weights) in enumerate(points[1:], start=1):
        some = list(range(done, min(done + size, 7)))
        done = some[-1] + 1
        stack.append((some, step))  # the state is handed on: the paper editor counts with it
        want = {"at-edit": some}
        if done in due:
            want["retention"] = list(range(done))
        if done == 7:
            want["final"] = list(range(7))
        assert scopes(p) == want and p.whole == (done in due) and p.n_edits == done and p.step == step
        assert close(weights, total(*stack))
        assert told(p) == tuple((i, {"id": float(i), "times": float(step)}) for i in some)
    assert len(set(editor.positions)) == steps and editor.positions[0] == model.base


@pytest.mark.parametrize(
    ("n", "every", "every_full", "size", "edit_only", "full"),
    [
        (7, 2, 4, 1, [2, 6], [4, 7]),
        (7, 2, 3, 1, [2, 4], [3, 6, 7]),  # a full check is a check, wherever it falls
        (7, 1, 7, 1, [1, 2, 3, 4, 5, 6], [7]),
        (7, 3, 1, 1, [], [1, 2, 3, 4, 5, 6, 7]),
        (7, 2, 4, 3, [3], [6, 7]),
        (7, 2, 100, 1, [2, 4, 6], [7]),
        (7, 2, None, 1, [], [2, 4, 6, 7]),  # no more than ten checks in all
        (25, 1, None, 1, [i for i in range(1, 25) if i % 3], [3, 6, 9, 12, 15, 18, 21, 24, 25]),
        (25, 2, None, 1, [2, 6, 10, 14, 18, 22], [4, 8, 12, 16, 20, 24, 25]),
    ],
)
def test_past_edits_are_asked_everything_more_seldom(
    model: Editable, n: int, every: int, every_full: int | None, size: int, edit_only: list[int], full: list[int]
) -> None:
    requests = [Request(str(i), "{} is", "a", "b", f"s{i}") for i in range(n)]
    walked = Sequential(every=every, every_full=every_full, batch_size=size)
    checks: dict[int, Any] = {}
    for p in walked.walk(model, PaperEditor(), State(("0",)), requests, PaperLedger()):
        assert all(s.probes is None for s in p.scopes if s.name != "retention")
        for s in p.scopes:
            if s.name == "retention":
                assert list(s.requests) == list(range(p.n_edits)) and p.whole
                checks[p.n_edits] = s.probes
    assert [k for k, probes in checks.items() if probes == ("edit",)] == edit_only
    assert [k for k, probes in checks.items() if probes is None] == full


def test_interpolation(model: Editable) -> None:
    alphas = [0.0, 0.25, 1.0]
    for editor, stack in (
        (PaperEditor(), [(range(7), 1)]),
        (PaperEditor(batches=False), [([i], i + 1) for i in range(7)]),
    ):
        trajectory = Interpolate(alphas=alphas)
        points = walk(trajectory, model, editor)
        assert len(points) == trajectory.points(7) == 4
        end = total(*stack)  # type: ignore[arg-type]
        for (p, weights), alpha in zip(points[1:], alphas, strict=True):
            assert p.alpha == alpha and p.n_edits == 7 and p.whole and scopes(p) == {"final": list(range(7))}
            assert float((weights - alpha * end).norm()) < 1e-5 * float(end.norm()) + 1e-12
            assert p.terms["0.weight"] == pytest.approx(alpha * float(end.norm()), rel=1e-4)
        assert not points[1][1].any(), "alpha 0 is the unedited model, to the bit"
        assert [len(p.edits) for p, _ in points] == [0, 0, 0, 7]
        assert [p.step for p, _ in points][1:] == [len(stack) + i for i in (1, 2, 3)]
    assert len(walk(Interpolate(batch_size=3), model)) == 12


def test_interpolation_ends_where_the_sequence_ends(model: Editable) -> None:
    sequence = walk(Sequential(), model)[-1][1]
    interpolated = walk(Interpolate(alphas=[1.0], batch_size=1), model)[-1][1]
    assert float((sequence - interpolated).norm()) < 1e-5 * float(sequence.norm())


@pytest.mark.parametrize("trajectory", [Single(every=2, chunk=2), Batch(batch_size=2), Sequential(), Interpolate()])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_walk_that_is_left_early_puts_the_model_back(model: Editable, trajectory: Any, stop: int) -> None:
    start = model.param("0.weight").clone()
    going = trajectory.walk(model, PaperEditor(), State(("0",)), REQUESTS, PaperLedger())
    for _ in range(stop):
        next(going)
    going.close()
    assert torch.equal(model.param("0.weight"), start) and model.position == model.base
    with pytest.raises(ZeroDivisionError):
        going = trajectory.walk(model, PaperEditor(), State(("0",)), REQUESTS, PaperLedger())
        for _ in range(stop + 1):
            next(going)
        going.throw(ZeroDivisionError())
    assert torch.equal(model.param("0.weight"), start) and model.position == model.base


def test_going_on_skips_what_has_been_measured(model: Editable) -> None:
    ledger = PaperLedger(measured=[0, 1, 2, 3])
    points = walk(Sequential(every=3), model, ledger=ledger)
    assert [p.step for p, _ in points] == [0, 4, 5, 6, 7] and ledger.made == [1, 2, 3, 4, 5, 6, 7]
    assert close(points[-1][1], total(*[([i], i + 1) for i in range(7)]))
    ledger = PaperLedger(measured=[0, 1, 2, 3, 4])
    points = walk(Single(chunk=3), model, ledger=ledger)
    assert [p.step for p, _ in points][1:] == [4, 5, 6, 7] and ledger.made == [4, 5, 6, 7]
    ledger = PaperLedger(measured=[2])
    assert [p.step for p, _ in walk(Batch(batch_size=3), model, ledger=ledger)] == [0, 1, 3] and ledger.made == [1, 3]
    ledger = PaperLedger(measured=[8, 9])
    points = walk(Interpolate(alphas=[0.0, 0.5, 1.0], batch_size=1), model, ledger=ledger)
    assert [p.step for p, _ in points] == [0, 10] and close(points[-1][1], total(*[([i], i + 1) for i in range(7)]))


def test_norms_that_were_kept_stand_for_the_change(model: Editable) -> None:
    class Kept(PaperLedger):
        def advance(self, model: Editable, step: int, make: Callable[[], Edit], **about: bool) -> Edit:
            edit = super().advance(model, step, make)
            return Edit(Delta({}, "", {"norms": {"0.weight": 42.0}}), edit.info)

    assert [p.terms for p, _ in walk(Sequential(), model, ledger=Kept())][1:] == [{"0.weight": 42.0}] * 7


def test_editors_that_write_one_fact_at_a_time(model: Editable) -> None:
    one = PaperEditor(batches=False)
    for trajectory in (Batch(), Sequential(batch_size=2), Interpolate(batch_size=2)):
        with pytest.raises(UserError, match="one fact at a time"):
            walk(trajectory, model, one)
    assert len(walk(Batch(batch_size=1), model, one)) == 8 and len(walk(Batch(), model, one, n=1)) == 2


def test_settings_that_make_no_sense() -> None:
    for make in (
        lambda: Single(every=0),
        lambda: Sequential(every=-1),
        lambda: Sequential(every_full=0),
        lambda: Sequential(batch_size=0),
        lambda: Batch(batch_size=0),
        lambda: Interpolate(batch_size=-2),
        lambda: Interpolate(alphas=[]),
        lambda: Interpolate(alphas=[0.0, float("nan")]),
        lambda: Interpolate(alphas=[float("inf")]),
    ):
        with pytest.raises(UserError, match="trajectory"):
            make()
    assert Interpolate().alphas == pytest.approx([i / 10 for i in range(11)])


@pytest.mark.parametrize("trajectory", [Single(), Batch(), Sequential(), Interpolate(), Interpolate(each=True)])
def test_a_change_outside_of_what_was_announced_is_refused(trajectory: Any) -> None:
    """And the weights are put back, whichever walk it was."""
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 3, bias=False)).requires_grad_(False)
    model = Editable(net, {"0": Layer("0", 0, "linear", net[0])})
    before = [p.clone() for p in net.parameters()]

    class Careless(PaperEditor):
        def change(self, requests: Sequence[Request], times: int = 1) -> Delta:
            other = LowRank(torch.ones(3, 1), torch.ones(3, 1))
            return Delta({**super().change(requests, times).terms, "1.weight": other})

    with pytest.raises(UserError, match=r"1\.weight, which was not announced: only 0\.weight"):
        walk(trajectory, model, Careless())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    assert model.position == model.base


def test_the_ledger_is_told_where_edits_are_checked(model: Editable) -> None:
    """Every third of seven edits, and the last one; edits of a line are no points, and are checked at its end."""
    told: list[tuple[int, bool, bool, bool]] = []

    class Noting(PaperLedger):
        def advance(self, model: Editable, step: int, make: Callable[[], Edit], **about: bool) -> Edit:
            told.append((step, about["check"], about["last"], about["points"]))
            return super().advance(model, step, make)

    walk(Sequential(every=3), model, ledger=Noting())
    assert [step for step, check, _, _ in told if check] == [3, 6] and [s for s, _, last, _ in told if last] == [7]
    assert all(points for *_, points in told)
    told.clear()
    walk(Sequential(every=3, batch_size=2), model, ledger=Noting())
    assert [step for step, check, _, _ in told if check] == [2, 3] and told[-1][2]
    told.clear()
    walk(Interpolate(batch_size=1), model, ledger=Noting())
    assert [t[0] for t in told if t[2]] == [7] and not any(check or points for _, check, _, points in told)


def test_a_sequence_tells_its_change_by_factors_while_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of the edits' factors is what the weights differ by; where factors are many, a matrix changed, or weights
    were put in place, the difference itself is told."""

    class Wide(PaperEditor):
        def change(self, requests: Sequence[Request], times: int = 1) -> Delta:
            g = torch.Generator().manual_seed(int(requests[0].id))
            term: Any = LowRank(torch.randn(16, 1, generator=g), torch.randn(20, 1, generator=g) * times)
            return Delta({} if requests[0].id == "1" else {"0.weight": Dense(term.dense()) if self.dense else term})

        dense = False

    def kinds(ledger: Any, dense: bool = False, dtype: torch.dtype = torch.float32) -> list[str]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 16)).to(dtype)
        model = Editable(net, {"l": Layer("0", 0, "linear", net[0])})
        first, editor, found = net[0].weight.detach().clone(), Wide(), []
        editor.dense = dense
        for point in Sequential(every=1).walk(model, editor, State(("l",), parameters=("0.weight",)), REQUESTS, ledger):
            if point.step:
                change = point.change()
                torch.testing.assert_close(
                    change.terms["0.weight"].dense(),
                    (net[0].weight.detach().float() - first.float()),
                    atol=2e-6,
                    rtol=1e-5,
                )
                assert change.base == model.base
                found.append(type(change.terms["0.weight"]).__name__)
        return found

    # the second request is refused; the sixth change would make five directions of sixteen
    assert kinds(PaperLedger()) == ["LowRank"] * 5 + ["Dense"] * 2
    assert kinds(PaperLedger(), dense=True) == ["Dense"] * 7
    assert kinds(PaperLedger(), dtype=torch.float64) == ["Dense"] * 7

    class Jumps(PaperLedger):
        """Puts the weights behind the third edit in place, as a run that goes on does."""

        def advance(self, model: Editable, step: int, make: Callable[[], Edit], **about: bool) -> Edit:
            if step > 3:
                return super().advance(model, step, make)
            if step == 3:
                with torch.no_grad():
                    model.param("0.weight").add_(1.0)
                model.position = "elsewhere"
            return Edit(Delta({}, model.position), [])

    assert kinds(Jumps([1, 2, 3])) == ["Dense"] * 4
    monkeypatch.setattr("edit_robust.core.combining._KEPT", 3 * 4 * (16 + 20))
    assert kinds(PaperLedger()) == ["LowRank"] * 4 + ["Dense"] * 3
