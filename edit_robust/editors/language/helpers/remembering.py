"""Editors whose solve knows the keys of past edits; see `helpers/past.py` for the arithmetic."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.language.helpers.contexts import Groups
from edit_robust.editors.language.helpers.family import Given, LayerEditor, LayerProblem
from edit_robust.editors.language.helpers.moments import Inverse
from edit_robust.editors.language.helpers.past import Past
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task


@dataclass(frozen=True)
class GivenPast(Given):
    """pasts: of every layer, what its solve keeps."""

    pasts: Mapping[str, Past]


@dataclass(kw_only=True, eq=False, repr=False)
class RememberingEditor(LayerEditor):
    """dW = R K^T (M + K_p K_p^T + K K^T)^-1; a subclass says what M is, and where. An edit leaves its keys."""

    remembers: ClassVar[bool] = True

    @abstractmethod
    def pasts(
        self, moments: dict[str, Float[Tensor, "d_in d_in"]], inverses: Mapping[str, Inverse], work: Workspace
    ) -> Mapping[str, Past]:
        """What the solves of every layer keep, before any edit. moments: C, float64, taken out of the dictionary where
        nobody needs it any more; inverses: C^-1."""

    def given(
        self,
        model: CausalLM,
        groups: Groups,
        moments: dict[str, Float[Tensor, "d_in d_in"]],
        task: Task,
        work: Workspace,
    ) -> Any:
        inverses = {n: Inverse.of(c) for n, c in moments.items()}
        return GivenPast(groups, inverses, self.pasts(moments, inverses, work))

    def factors(self, problem: LayerProblem, state: State[Any]) -> Float[Tensor, "d_in n"]:
        past: Past = state.given.pasts[problem.layer.name]
        return past.inputs(past.solve(state.carried, past.coordinates(problem.keys)))
