"""PMET's value optimisation: two vectors a request, one added to attention's output and one to the MLP's.

Adam on both minimises (Li et al. 2024, arXiv 2308.08742)

    w * mean over prompts of (sum of the target's NLL) / n_target
    + kl_factor * KL(new || unedited) on "{subject} is a", read at the subject's last token
    + weight_decay * (||delta_mlp|| / ||mlp||^2 + ||delta_attn|| / ||attn||^2)

each vector being kept within clamp times the norm of the output that it is added to. w is 1, and 0.1 in a step after
one at which every token of the target was the likeliest in every prompt. It ends early below a loss of 0.05, and where
the target was the likeliest throughout and the KL term is at most 0.01. Requests are optimised side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Request
from edit_robust.core.recorded import Differentiable
from edit_robust.editors.helpers.adam import Adam
from edit_robust.editors.language.helpers.values import STOP, Loss, Values, spread, sums_of, value_rows
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.injection_pair import halves, pair_injection

#: Of the target's NLL, once the target is the likeliest everywhere; and the KL term that then ends the optimisation.
_SURE, _KL_STOP = 0.1, 0.01


def optimise_pairs(
    model: CausalLM,
    layer: str,
    requests: Sequence[Request],
    templates: Sequence[str],
    *,
    lr: float,
    steps: int,
    weight_decay: float,
    clamp: float,
    kl_factor: float,
    plain: bool | None = None,
) -> Values:
    """The values of the MLP's output, optimised beside those of attention. See the top of the file."""
    bare = templates.index("{}") if "{}" in templates else None
    used = list(templates) if bare is not None else [*templates, "{}"]
    n, c = len(requests), len(used)
    rows = value_rows(model, requests, used)
    injection = pair_injection(model, layer, rows.tokens, rows.positions, rows.reads, plain)
    pick = c - 1 if bare is None else bare
    init = injection.out[: n * c].reshape(n, c, -1)[:, pick]
    terms = Loss.of(injection, rows, init, c, bare is None, weight_decay, kl_factor)
    objective = Differentiable(_PairLoss(terms, _norms(init)), record=injection.records)
    delta, info = _minimise(objective, init, clamp, lr, steps)
    (_, start), (_, found), (_, out) = halves(init), halves(delta), halves(injection.out[: n * c])
    keys, out = injection.keys[: n * c].reshape(n, c, -1), out.reshape(n, c, -1)
    own = slice(None) if bare is not None else slice(c - 1)
    return Values(start + found, start, found, keys[:, own], keys[:, pick], out[:, own], info)


def _norms(pair: Float[Tensor, "r two_d"]) -> Float[Tensor, "r 2"]:
    """Length of both vectors of each request, attention's first."""
    return torch.stack([half.norm(dim=1) for half in halves(pair)], 1)


@dataclass
class _PairLoss:
    """The loss of each request as a function of its vectors and, in the last column, of w.

    terms: what is read, and what of it counts.   norms: of the outputs that the vectors are added to.
    """

    terms: Loss
    norms: Float[Tensor, "r 2"]

    def __call__(self, x: Float[Tensor, "r two_d_and_one"]) -> tuple[Float[Tensor, " r"], ...]:
        """The loss, the target's NLL and the KL term of each request, and how many tokens are not the likeliest."""
        terms, delta, w = self.terms, x[:, :-1], x[:, -1]
        logp = terms.injection.read(spread(delta, terms.owner)).log_softmax(-1).to(delta.device)
        goal, subject = logp[: len(terms.targets)], logp[len(terms.targets) :]
        token = goal.gather(1, terms.targets[:, None])[:, 0]
        nll = sums_of(-token * terms.weights, terms.n_targets)
        kl = terms.kl_factor * F.kl_div(terms.unedited, subject, log_target=True, reduction="none").sum(1)
        decay = terms.weight_decay * (_norms(delta) / self.norms**2).sum(1)
        missed = (goal.amax(1) > token) & (terms.weights > 0)
        return w * nll + kl + decay, nll, kl, sums_of(missed.to(nll), terms.n_targets)


def _minimise(
    objective: Differentiable, init: Float[Tensor, "r two_d"], clamp: float, lr: float, steps: int
) -> tuple[Float[Tensor, "r two_d"], list[dict[str, float]]]:
    """Adam from 0, each row on its own, both vectors in their balls; what is known of each row afterwards.

    The last iteration takes no step, as in `optimise_values`.
    """
    n, bound = len(init), clamp * _norms(init)
    delta, adam = torch.zeros_like(init), Adam.like(init)
    w = torch.ones(n, device=init.device)
    active = torch.ones(n, dtype=torch.bool, device=init.device)
    taken = torch.zeros(n, device=init.device)
    loss = nll = w
    for step in range(1, steps + 1):
        loss, nll, kl, missed = objective.values(torch.cat([delta, w[:, None]], 1))
        sure = missed == 0
        active = active & (loss >= STOP) & ~(sure & (kl <= _KL_STOP))
        if step == steps or not bool(active.any()):
            break
        gradient = objective.gradient()[:, :-1]
        w = torch.where(active, torch.where(sure, _SURE, 1.0), w)
        taken = taken + active
        delta = torch.where(active[:, None], delta - adam.move(gradient, step, lr), delta)
        shrink = (bound / _norms(delta).clamp_min(1e-38)).clamp_max(1.0)
        delta = torch.cat([half * shrink[:, i : i + 1] for i, half in enumerate(halves(delta))], 1)
    delta = torch.where(loss.isnan()[:, None], loss[:, None], delta)  # nothing was learnt: such an edit is refused
    lengths = _norms(delta)
    info = [
        {
            "edit_loss": float(loss[i]),
            "edit_steps": float(taken[i]),
            "value_norm": float(lengths[i, 1]),
            "attention_value_norm": float(lengths[i, 0]),
            "target_probability": float(torch.exp(-nll[i])),
        }
        for i in range(n)
    ]
    return delta, info
