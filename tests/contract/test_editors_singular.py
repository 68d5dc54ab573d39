"""An edit whose linear algebra has no solution is refused, and the walk goes on; other errors are raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import go, override, prepared, records
from helpers.tiny import tiny_facts, write_json

from edit_robust.core import Delta, LowRank, Request
from edit_robust.editors.base import Edit, State, is_singular
from edit_robust.editors.language.helpers.moments import Inverse
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runner import Experiment

pytestmark = pytest.mark.slow

Quick = Callable[..., list[str]]
TinyModel = Callable[[str], CausalLM]


@pytest.fixture
def repeated(tmp_path: Path) -> str:
    """Six facts, of which the second is about the first one's subject."""
    facts = tiny_facts(6)
    for key in ("subject", "prompt"):
        facts[1]["requested_rewrite"][key] = facts[0]["requested_rewrite"][key]
    return str(write_json(tmp_path / "repeated.json", facts))


def refused(run: Any) -> list[tuple[str, float]]:
    """(request, whether refused), in the order of the edits."""
    table = run.records[run.records.metric == "refused"].sort_values("step", kind="stable")
    return list(zip(table.request, table.value, strict=True))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("trajectory", ["sequential", "batch"])
def test_memit_without_penalty_refuses_a_repeated_subject(
    kind: str, trajectory: str, repeated: str, quick: Quick, tiny_model: TinyModel, checkpoint: Any
) -> None:
    more = [f"task.path={repeated}", "task.n_requests=6", "task.unique_subjects=false", "editor.mom2_update_weight=0"]
    given = override(quick("memit"), f"model.path={checkpoint(kind)}", *more, f"trajectory={trajectory}")
    run = go(prepared([*given, "trajectory.batch_size=2"], tiny_model(kind)))
    assert run.complete and run.summary["n_refused"] == 2 and run.summary["n_edits"] == 6
    assert refused(run) == [("0", 1.0), ("1", 1.0), ("2", 0.0), ("3", 0.0), ("4", 0.0), ("5", 0.0)]
    assert run.deltas()[0].terms == {} and run.deltas()[0].info["refused"] == "singular"
    penalised = override(given, "editor.mom2_update_weight=1")
    assert go(prepared([*penalised, "trajectory.batch_size=2"], tiny_model(kind))).summary["n_refused"] == 0


@pytest.mark.parametrize("trajectory", ["sequential", "single", "interpolate"])
def test_rome_goes_on(trajectory: str, quick: Quick, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of four edits has no solution: it is refused alone, also where edits are made side by side."""
    each = Rome.edit_each

    def fails(self: Rome, model: Any, requests: Sequence[Request], state: Any) -> list[Edit]:
        if any(r.id == "1" for r in requests):
            torch.linalg.cholesky(-torch.eye(3))
        return each(self, model, requests, state)

    monkeypatch.setattr(Rome, "edit_each", fails)
    run = go(prepared(override(quick("rome"), f"trajectory={trajectory}"), tiny_model("gpt2")))
    assert run.complete and run.summary["n_refused"] == 1
    assert [value for _, value in refused(run)] == [0.0, 1.0, 0.0, 0.0]


class Solver:
    """An editor of one's own; the request `odd` meets `error`."""

    name, layers, batches = "solver", [0], True
    needs: tuple[str, ...] = ()
    takes = Request

    def __init__(self, error: Callable[[], Any], odd: str = "1") -> None:
        self.error, self.odd = error, odd

    def auto_layers(self, n_layers: int) -> list[int]:
        return [0]

    def prepare(self, model: Any, layers: Sequence[str], task: Any, work: Any) -> State:
        return State(tuple(layers))

    def edit(self, model: Any, requests: Sequence[Request], state: State) -> Edit:
        if any(r.id == self.odd for r in requests):
            self.error()
        layer = model.layers[state.layers[0]]
        d_out, d_in = layer.shape
        term = LowRank(torch.full((d_out, 1), 1e-3), torch.ones(d_in, 1))
        return Edit(Delta({layer.weight_name: term}, model.position), [{"refused": 0.0} for _ in requests])

    def edit_each(self, model: Any, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]


SINGULAR: dict[str, Callable[[], Any]] = {
    "solve": lambda: torch.linalg.solve(torch.ones(2, 2), torch.ones(2, 1)),
    "cholesky": lambda: torch.linalg.cholesky(-torch.eye(2)),
    "eigh": lambda: torch.linalg.eigh(torch.full((3, 3), float("nan"))),
    "numpy": lambda: np.linalg.inv(np.zeros((2, 2))),
}
MISTAKES: dict[str, Callable[[], Any]] = {
    "shapes": lambda: torch.linalg.solve(torch.eye(2), torch.ones(3, 1)),
    "not square": lambda: torch.linalg.cholesky(torch.ones(2, 3)),
    "numpy's shapes": lambda: np.linalg.inv(np.zeros((2, 3))),
    "another": lambda: torch.ones(2, 3) @ torch.ones(2, 3),
    "division": lambda: 1 / 0,
}


def solving(given: list[str], model: CausalLM, error: Callable[[], Any]) -> Experiment:
    made = prepared(given, model)
    return Experiment(**{**made.__dict__, "editor": Solver(error)})


@pytest.mark.parametrize("error", list(SINGULAR))
@pytest.mark.parametrize("trajectory", ["sequential", "single"])
def test_an_editor_of_ones_own(error: str, trajectory: str, quick: Quick, tiny_model: TinyModel) -> None:
    run = go(solving(override(quick(), f"trajectory={trajectory}"), tiny_model("gpt2"), SINGULAR[error]))
    assert run.complete and [value for _, value in refused(run)] == [0.0, 1.0, 0.0, 0.0]
    assert run.deltas()[1].info["refused"] == "singular" and len(run.deltas()) == 4
    assert b"NaN" not in records(run)


@pytest.mark.parametrize("error", list(MISTAKES))
def test_mistakes_are_not_refusals(error: str, quick: Quick, tiny_model: TinyModel) -> None:
    with pytest.raises((RuntimeError, ZeroDivisionError, np.linalg.LinAlgError)) as raised:
        go(solving(quick(), tiny_model("gpt2"), MISTAKES[error]))
    assert not is_singular(raised.value)  # type: ignore[arg-type]


def test_what_a_gpu_says() -> None:
    lost = "cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnDpotrf`"
    assert is_singular(RuntimeError(lost))
    assert not is_singular(RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"))
    assert not is_singular(RuntimeError("CUDA out of memory"))


def test_a_matrix_that_is_not_finite_is_no_singular_one(tiny_model: TinyModel) -> None:
    """Numbers that are no numbers are refused as such, further on."""
    from edit_robust.editors.language.helpers.moments import check_regular

    check_regular(torch.full((3, 3), float("nan")), "")
    check_regular(torch.eye(3) * 1e-9, "")
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        check_regular(torch.ones(3, 3).double() + 1e-15 * torch.eye(3), "keys")
    assert Inverse.of(torch.eye(3)).ridge == 0.0
