"""MEMIT (Meng et al. 2023): many facts at once, spread over several layers.

z = block output at the last edited layer + delta, optimised for each fact. Then, from the lowest layer up, with keys K
[d_in, n] and the present z_cur recomputed after the layers below have changed,

    R = (z - z_cur) / (layers still to come, this one included)
    dW = R [(lambda C + K K^T)^-1 K]^T = R [C^-1 K (lambda I + K^T C^-1 K)^-1]^T      (Woodbury; C factored once)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Delta, LowRank, Request, TextRequest
from edit_robust.core.options import DataFile
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, check_numbers, refuse_nonfinite
from edit_robust.editors.language.helpers.contexts import MEMIT_RECIPE, Groups, context_templates, flatten
from edit_robust.editors.language.helpers.moments import Inverse, check_regular, second_moments
from edit_robust.editors.language.helpers.values import optimise_values, subject_rows, value_options
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task


@dataclass(frozen=True)
class _Given:
    groups: Groups
    inverses: dict[str, Inverse]


class Memit:
    """Mass editing of several layers.

    mom2_update_weight: lambda, the weight of what the layer already holds against the new facts. With 0, requests that
        share a subject have no solution: their edit is refused.
    The other options are ROME's, see `Rome`.
    """

    batches = True
    needs: ClassVar[tuple[str, ...]] = ("injection", "trace", "block_output")
    takes: ClassVar[type[Request]] = TextRequest

    def __init__(
        self,
        name: str = "memit",
        layers: int | list[int] | str = "auto",
        v_lr: float = 0.5,
        v_num_grad_steps: int = 20,
        v_weight_decay: float = 0.5,
        clamp_norm_factor: float = 0.75,
        kl_factor: float = 0.0625,
        mom2: Literal["computed"] | DataFile = "computed",
        mom2_dataset: Literal["task"] | DataFile = "task",
        mom2_n_samples: int = 1000,
        mom2_max_tokens: int | None = None,
        mom2_update_weight: float = 15000.0,
        context_templates: Literal["sampled", "bare"] | DataFile = "sampled",
        value_batch: int = 8,
        fast: bool | None = None,
    ) -> None:
        self.optimisation = value_options(
            v_lr,
            v_num_grad_steps,
            v_weight_decay,
            clamp_norm_factor,
            kl_factor,
            fast,
            mom2_n_samples=mom2_n_samples,
            mom2_max_tokens=1 if mom2_max_tokens is None else mom2_max_tokens,
            value_batch=value_batch,
        )
        check_numbers({}, {"mom2_update_weight": mom2_update_weight})
        self.name, self.layers = name, layers
        self.mom2, self.mom2_dataset = mom2, mom2_dataset
        self.mom2_n_samples, self.mom2_max_tokens = mom2_n_samples, mom2_max_tokens
        self.mom2_update_weight, self.context_templates = mom2_update_weight, context_templates
        self.value_batch = value_batch

    def auto_layers(self, n_layers: int) -> list[int]:
        """Up to five layers that end about a third of the way up, as the published presets do."""
        last = max(round(0.33 * (n_layers - 1)), min(1, n_layers - 1))
        return list(range(max(0, last - 4), last + 1))

    def prepare(self, model: CausalLM, layers: Sequence[str], task: Task, work: Workspace) -> State:
        layers = sorted(layers, key=lambda n: model.layers[n].index)
        groups = context_templates(model, self.context_templates, (self.name, "memit"), MEMIT_RECIPE, work)
        moments = second_moments(
            model, layers, task, self.mom2, self.mom2_dataset, self.mom2_n_samples, work, self.mom2_max_tokens
        )
        return State(tuple(layers), _Given(groups, {n: Inverse.of(moments[n]) for n in layers}))

    def edit_each(self, model: CausalLM, requests: Sequence[Request], state: State) -> list[Edit]:
        targets, infos = self._targets(model, requests, state)
        return [self._spread(model, [r], targets[i : i + 1], [infos[i]], state) for i, r in enumerate(requests)]

    def edit(self, model: CausalLM, requests: Sequence[Request], state: State) -> Edit:
        targets, infos = self._targets(model, requests, state)
        return self._spread(model, requests, targets, infos, state)

    def _targets(
        self, model: CausalLM, requests: Sequence[Request], state: State
    ) -> tuple[Float[Tensor, "n d"], list[dict[str, float]]]:
        """z of every request, at the model's present weights."""
        found, infos = [], []
        for i in range(0, len(requests), self.value_batch):
            some = requests[i : i + self.value_batch]
            values = optimise_values(
                model, state.layers[-1], "block", some, flatten(state.given.groups), **self.optimisation
            )
            found.append(values.value)
            infos += values.info
        return torch.cat(found), infos

    def _spread(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        targets: Float[Tensor, "n d"],
        infos: list[dict[str, float]],
        state: State,
    ) -> Edit:
        base = model.position
        terms: dict[str, LowRank] = {}
        with model.held(state.changes(model)):
            for i, name in enumerate(state.layers):
                keys = self._keys(model, name, requests, state.given.groups)
                now = model.block_output(state.layers[-1], *subject_rows(model, requests, ["{}"]))
                residual = (targets.double() - now.to(targets.device).double()) / (len(state.layers) - i)
                k = keys.double().T
                solved = state.given.inverses[name].solve(k)
                n = torch.eye(len(requests), dtype=k.dtype, device=k.device)
                penalised = self.mom2_update_weight * n + k.T @ solved
                check_regular(penalised, "MEMIT's keys depend on each other, and mom2_update_weight is too small")
                weighted = torch.linalg.solve(penalised, solved.T).T
                term = LowRank(residual.T.to(k.device).float(), weighted.float())
                terms[model.layers[name].weight_name] = term
                if not bool(torch.isfinite(term.u).all() and torch.isfinite(term.v).all()):
                    break
                model.add(Delta({model.layers[name].weight_name: term}, model.position))
        delta = Delta(terms, base)
        return refuse_nonfinite(Edit(delta, [{**i, "delta_norm": delta.norm()} for i in infos]))

    def _keys(
        self, model: CausalLM, layer: str, requests: Sequence[Request], groups: Groups
    ) -> Float[Tensor, "n d_in"]:
        """Mean key within each group of templates, then over groups: half the bare prompt, half the sampled ones."""
        templates = flatten(groups)
        keys = model.trace(*subject_rows(model, requests, templates), [layer])[layer].float()
        keys = keys.reshape(len(requests), len(templates), -1)
        parts = keys.split([len(g) for g in groups], dim=1)
        return torch.stack([p.mean(1) for p in parts]).mean(0)
