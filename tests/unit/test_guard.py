"""A guard around an editor: what it stops, what it lets pass, and what it says of both."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from edit_robust.config.check import check
from edit_robust.config.compose import choices, compose
from edit_robust.config.identity import run_id
from edit_robust.config.nodes import build
from edit_robust.core import Delta, Editable, Layer, LowRank, Request, UserError
from edit_robust.core.signs import SIGNS
from edit_robust.editors.base import Edit, State, edit_each_or_refuse, edit_or_refuse
from edit_robust.editors.helpers.guard import Guard

SIZES = {"a": 1.0, "b": 1.2, "c": 50.0, "d": 0.9, "e": 1.1, "f": 1.0, "g": 12.0, "h": 9.0}
REQUESTS = [Request(name, "{} is", "x", "y", name) for name in SIZES]


class Sized:
    """Changes the weights by as much as the request says; a small key ratio goes with a large change."""

    name, layers, batches, needs, takes = "sized", "auto", True, (), Request

    def __init__(self, carries: bool = False) -> None:
        self.carries, self.seen = carries, []  # type: ignore[var-annotated]

    def edit(self, model: Editable, requests: Sequence[Request], state: State) -> Edit:
        self.seen.append([dict(p) for p in state.carried[:]])
        size = sum(SIZES[r.id] for r in requests)
        delta = Delta(
            {"0.weight": LowRank(torch.tensor([[size], [0.0]]), torch.tensor([[1.0], [0.0]]))}, model.position
        )
        info = [{"refused": 0.0, "delta_norm": size, "key_ratio": 1 / SIZES[r.id]} for r in requests]
        carry = {"own": torch.tensor(float(len(state.carried)))} if self.carries else {}
        return Edit(delta, info, carry)

    def edit_each(self, model: Editable, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]


@pytest.fixture
def model() -> Editable:
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    return Editable(net, {"0": Layer("0", 0, "linear", net[0])})


def one(model: Editable, guard: Guard, name: str, editor: Sized | None = None) -> Edit:
    request = next(r for r in REQUESTS if r.id == name)
    return edit_or_refuse(guard.around(editor or Sized()), model, [request], State(("0",)))  # type: ignore[arg-type]


def test_every_edit_tells_its_size_before_it_is_applied(model: Editable) -> None:
    edit = edit_or_refuse(Sized(), model, REQUESTS[:1], State(("0",)))  # type: ignore[arg-type]
    assert edit.info[0]["relative_norm"] == pytest.approx(1.0 / 5.0), "||W|| is 5"
    model.add(edit.delta)
    again = edit_each_or_refuse(Sized(), model, REQUESTS[:1], State(("0",)))[0]  # type: ignore[arg-type]
    assert again.info[0]["relative_norm"] == pytest.approx(1.0 / 32**0.5), "of the weights as they stand"


def test_what_is_below_the_line_is_refused_with_its_reason(model: Editable) -> None:
    edit = one(model, Guard("key_ratio", below=0.3), "c")
    assert edit.refused and edit.info[0]["refused"] == 1.0 and edit.info[0]["guarded"] == 1.0
    assert edit.delta.info["refused"] == "guard: key_ratio 0.02 is below 0.3"
    assert edit.info[0]["relative_norm"] == pytest.approx(10.0), "the sign is that of the edit that was asked for"
    passed = one(model, Guard("key_ratio", below=0.3), "a")
    assert not passed.refused and passed.info[0]["guarded"] == 0.0 and "guard_scale" not in passed.info[0]


def test_rescaled_to_the_line(model: Editable) -> None:
    edit = one(model, Guard("relative_norm", above=2.0, action="rescale"), "c")
    assert edit.delta.norm() == pytest.approx(2.0 * 5.0) and edit.info[0]["guard_scale"] == pytest.approx(0.2)
    assert edit.info[0]["delta_norm"] == pytest.approx(10.0) and edit.info[0]["refused"] == 0.0
    assert edit.delta.info["guard"] == "guard: relative_norm 10 is above 2"
    low = one(model, Guard("key_ratio", below=0.1, action="rescale"), "c")
    assert low.delta.norm() == pytest.approx(50 * 0.02 / 0.1), "as if it had been divided by the line"


def walked(model: Editable, guard: Guard, editor: Sized) -> list[Edit]:
    """All requests in a row, as a walk makes them."""
    guarded, state, made = guard.around(editor), State(("0",)), []  # type: ignore[arg-type]
    for r in REQUESTS:
        edit = edit_or_refuse(guarded, model, [r], state)
        state = state.after(edit)
        made.append(edit)
    return made


def test_against_the_median_of_the_edits_before(model: Editable) -> None:
    """Nothing is stopped before there are five; refused edits are not among those compared with."""
    made = walked(model, Guard("relative_norm", times=10.0), Sized())
    assert [e.refused for e in made] == [False] * 6 + [True, False], "12 > 10 x 1.05 and 9 is not; 50 came too early"
    assert "median" not in made[0].carry and float(made[0].carry["guard.relative_norm"]) == pytest.approx(0.2)


def test_the_editor_sees_its_own_state_alone(model: Editable) -> None:
    editor = Sized(carries=True)
    made = walked(model, Guard("relative_norm", times=10.0), editor)
    assert [len(seen) for seen in editor.seen] == [0, 1, 2, 3, 4, 5, 6, 6], "a refused edit leaves nothing"
    assert all(set(piece) == {"own"} for seen in editor.seen for piece in seen)
    assert set(made[-1].carry) == {"own", "guard.relative_norm"} and not made[6].carry


def test_a_walk_that_goes_on_judges_as_the_uninterrupted_one(model: Editable) -> None:
    whole = walked(model, Guard("relative_norm", times=10.0), Sized())
    state = State(("0",))
    for edit in whole[:5]:
        state = state.after(edit)
    fresh = Guard("relative_norm", times=10.0).around(Sized())  # type: ignore[arg-type]
    for r, was in zip(REQUESTS[5:], whole[5:], strict=True):
        edit = edit_or_refuse(fresh, model, [r], state)
        state = state.after(edit)
        assert edit.info == was.info and edit.delta.info == was.delta.info


def test_of_a_batch_the_others_are_made_anew(model: Editable) -> None:
    editor = Sized()
    guarded = Guard("key_ratio", below=0.3).around(editor)  # type: ignore[arg-type]
    edit = edit_or_refuse(guarded, model, REQUESTS[:4], State(("0",)))
    assert [i["guarded"] for i in edit.info] == [0, 0, 1, 0] and [i["refused"] for i in edit.info] == [0, 0, 1, 0]
    assert edit.delta.norm() == pytest.approx(1.0 + 1.2 + 0.9) and len(editor.seen) == 2
    nothing = edit_or_refuse(Guard("key_ratio", below=30).around(Sized()), model, REQUESTS[:3], State(("0",)))  # type: ignore[arg-type]
    assert nothing.refused and [i["guarded"] for i in nothing.info] == [1, 1, 1]


def test_independent_edits(model: Editable) -> None:
    guarded = Guard("key_ratio", below=0.3).around(Sized())  # type: ignore[arg-type]
    edits = edit_each_or_refuse(guarded, model, REQUESTS[:4], State(("0",)))
    assert [e.refused for e in edits] == [False, False, True, False]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_signs_that_are_no_sign_of_health(value: float, model: Editable) -> None:
    delta = one(model, Guard("key_ratio", below=0.0), "a").delta
    judged = Guard("key_ratio", below=0.3, above=5.0).judge(Edit(delta, [{"key_ratio": value}]))
    assert judged.refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sign": "edit_loss"}, "has no usual line"),
        ({"sign": "key_ratio", "below": 2.0, "above": 1.0}, "must be less than"),
        ({"sign": "key_ratio", "below": -1.0, "action": "rescale"}, "must be above 0"),
        ({"sign": "edit_loss", "times": 3.0}, "times=3 must be above 1, and sign=edit_loss a warning sign"),
        ({"sign": "relative_norm", "times": 0.5}, "must be above 1"),
    ],
)
def test_bad_guards(options: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Guard(**options)


def test_a_sign_that_the_editor_does_not_tell(model: Editable) -> None:
    with pytest.raises(UserError, match=r"editor.guard.sign=key_rato: sized tells no such sign; .*key_ratio"):
        one(model, Guard("key_rato", below=1.0), "a")


# -- by name -------------------------------------------------------------------------------------------------------


def values(*overrides: str) -> dict:
    return check(compose(list(overrides)))


def test_a_word_is_what_it_stands_for() -> None:
    named, spelled = values("editor.guard=key-ratio"), values("editor.guard={sign:key_ratio,below:0.25,action:refuse}")
    assert run_id(named) == run_id(spelled) != run_id(values())
    assert "guard" not in values()["editor"] and run_id(values()) == run_id(values("editor.guard=none"))
    made = build(named["editor"], "editor")
    assert made.name == "rome" and made.needs == ("injection", "trace") and made.batches is False


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("editor.guard=key-rato", 'did you mean "key-ratio"'),
        ("editor.guard=3", "a guard's name or"),
        ("editor.guard={sgn:key_ratio}", 'editor.guard.sgn is no option of Guard; did you mean "sign"'),
        ("editor.guard={below:1}", "editor.guard.sign must be given"),
        ("editor.guard={sign:key_ratio,action:stop}", "editor.guard.action=stop"),
    ],
)
def test_bad_words(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        values(override)


def test_an_editor_that_is_known_not_to_tell_a_sign_is_refused_when_the_config_is_checked() -> None:
    class Silent(Sized):
        signs = ("cos_bare_mean",)

    with pytest.raises(UserError, match=r"editor\.guard\.sign=key_ratio: sized tells no such sign"):
        Guard("key_ratio", below=1.0).around(Silent())  # type: ignore[arg-type]
    Guard("relative_norm", above=1.0).around(Silent())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", choices("guard"))
def test_named_guards_draw_the_usual_lines(name: str) -> None:
    guard = values(f"editor.guard={name}")["editor"]["guard"]
    (sign,) = [s for s in SIGNS if s.guard == name]
    assert guard["sign"] == sign.key
    assert (guard.get("below") or guard.get("above"), guard.get("times")) == (sign.threshold, sign.times)
    assert all(values("editor=ft" if name == "norm" else "editor=rome", f"editor.guard={name}"))
