"""ROME (Meng et al. 2022) and its repairs r-ROME and p-ROME (Gupta et al. 2024): one fact, one rank-one change.

dW = r u^T with u = C^-1 k / ||C^-1 k|| and r = (v - W k') / (k' . u). ROME takes the mean key over contexts for k and
the bare prompt's key for k'; the two can be nearly C^-1-orthogonal, which makes r explode: a disabling edit. r-ROME
takes the mean key in both places, p-ROME the bare key in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from edit_robust.core import Delta, LowRank, Request, TextRequest, UserError
from edit_robust.core.options import DataFile
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, refuse_nonfinite
from edit_robust.editors.helpers.guard import Guard
from edit_robust.editors.language.helpers.contexts import ROME_RECIPE, context_templates, flatten
from edit_robust.editors.language.helpers.moments import Inverse, second_moments
from edit_robust.editors.language.helpers.norms import mean_norm, rescaled
from edit_robust.editors.language.helpers.values import Values, optimise_values, value_options
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task


@dataclass(frozen=True)
class _Given:
    templates: list[str]
    inverse: Inverse | None
    mean_norm: float | None


class Rome:
    """Rank-one model editing of one layer.

    keys: which key makes the direction u and which the denominator: `mean-bare` (ROME), `mean` (r-ROME) or
        `bare` (p-ROME).
    v_lr, v_num_grad_steps, v_weight_decay, clamp_norm_factor, kl_factor: of the value optimisation.
    mom2: `computed` or an .npz file; mom2_dataset, mom2_n_samples: corpus and number of documents for C, drawn from it
        at random; mom2_max_tokens: each is cut to so many tokens (None: to what the model can read).
    mom2_adjustment: False sets C to the identity.  context_templates: `sampled`, `bare` or a JSON file.
    min_key_ratio: refuse an edit whose (k' . u) / (k . u) is below this, as near-disabling ones are; None: never. The
        short form of `editor.guard={sign: key_ratio, below: ...}`.
    norm_rescale: `nas` gives every value the norm that values have on the unedited model, measured on norm_samples
        other requests of the task (see `helpers/norms.py`); null leaves them as they are found.
    value_batch: independent edits optimised side by side.
    """

    batches = False
    needs: ClassVar[tuple[str, ...]] = ("injection", "trace")
    signs: ClassVar[tuple[str, ...]] = ("key_ratio", "division_factor", "cos_bare_mean", "key_leverage")
    takes: ClassVar[type[Request]] = TextRequest

    def __init__(
        self,
        name: str = "rome",
        layers: int | list[int] | str = "auto",
        keys: Literal["mean-bare", "mean", "bare"] = "mean-bare",
        v_lr: float = 0.5,
        v_num_grad_steps: int = 20,
        v_weight_decay: float = 0.5,
        clamp_norm_factor: float = 4.0,
        kl_factor: float = 0.0625,
        mom2: Literal["computed"] | DataFile = "computed",
        mom2_dataset: Literal["task"] | DataFile = "task",
        mom2_n_samples: int = 1000,
        mom2_max_tokens: int | None = None,
        mom2_adjustment: bool = True,
        context_templates: Literal["sampled", "bare"] | DataFile = "sampled",
        min_key_ratio: float | None = None,
        norm_rescale: Literal["nas"] | None = None,
        norm_samples: int = 1000,
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
            norm_samples=norm_samples,
        )
        self.name, self.layers, self.keys = name, layers, keys
        self.mom2, self.mom2_dataset = mom2, mom2_dataset
        self.mom2_n_samples, self.mom2_max_tokens = mom2_n_samples, mom2_max_tokens
        self.mom2_adjustment, self.context_templates = mom2_adjustment, context_templates
        self.value_batch = value_batch
        self.guard = None if min_key_ratio is None else Guard("key_ratio", below=min_key_ratio)
        self.norm_rescale, self.norm_samples = norm_rescale, norm_samples

    def auto_layers(self, n_layers: int) -> list[int]:
        """About a third of the way up, where causal tracing finds facts in GPT-2 (17 of 48) and GPT-J (5 of 28)."""
        return [round(0.3 * (n_layers - 1))]

    def prepare(self, model: CausalLM, layers: Sequence[str], task: Task, work: Workspace) -> State:
        if len(layers) != 1:
            raise UserError(f"{self.name} edits one layer, not {len(layers)}: give one layer.index")
        groups = context_templates(model, self.context_templates, (self.name, "rome"), ROME_RECIPE, work)
        inverse = None
        if self.mom2_adjustment:
            moments = second_moments(
                model, layers, task, self.mom2, self.mom2_dataset, self.mom2_n_samples, work, self.mom2_max_tokens
            )
            inverse = Inverse.of(moments[layers[0]])
        m = None
        if self.norm_rescale is not None:
            m = mean_norm(model, layers[0], "mlp", task, self.norm_samples, self.optimisation, work)
        return State(tuple(layers), _Given(flatten(groups), inverse, m))

    def edit(self, model: CausalLM, requests: Sequence[Request], state: State) -> Edit:
        if len(requests) != 1:
            raise UserError(f"{self.name} writes one fact at a time, not {len(requests)}: use editor=memit for batches")
        return self.edit_each(model, requests, state)[0]

    def edit_each(self, model: CausalLM, requests: Sequence[Request], state: State) -> list[Edit]:
        edits: list[Edit] = []
        for i in range(0, len(requests), self.value_batch):
            some = requests[i : i + self.value_batch]
            values = optimise_values(model, state.layers[0], "mlp", some, state.given.templates, **self.optimisation)
            values = rescaled(values, model, state.layers[0], "mlp", state.given.mean_norm)
            edits += [self._write(model, values, r, state) for r in range(len(some))]
        return edits

    def _write(self, model: CausalLM, values: Values, row: int, state: State) -> Edit:
        bare, mean = values.key_bare[row], values.keys[row].mean(0)
        out_bare, out_mean = values.init[row], values.out[row].mean(0)
        for_u = bare if self.keys == "bare" else mean
        for_r, out = (mean, out_mean) if self.keys == "mean" else (bare, out_bare)
        inverse = state.given.inverse
        u = inverse.solve(for_u[:, None])[:, 0] if inverse else for_u.double()
        leverage = float(for_u.double() @ u)
        u = u / u.norm()
        factor = for_r.double() @ u
        r = (values.value[row] - out).double() / factor
        name = model.layers[state.layers[0]].weight_name
        term = LowRank(r[:, None].float(), u[:, None].float())
        info = {
            **values.info[row],
            "delta_norm": float(r.norm()),
            "division_factor": float(factor),
            "key_ratio": float(factor / (for_u.double() @ u)),
            "key_leverage": leverage,
            "cos_bare_mean": float(torch.cosine_similarity(bare, mean, dim=0)),
        }
        edit = Edit(Delta({name: term}, model.position), [info])
        edit = edit if self.guard is None else self.guard.judge(edit, self.name)
        return edit if edit.refused else refuse_nonfinite(edit)
