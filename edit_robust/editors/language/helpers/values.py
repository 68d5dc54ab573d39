"""The value optimisation that ROME and its descendants share: find the vector that makes the model say the target.

For each request, Adam on delta minimises (language-editing: ROME eq. 4)

    mean over prompts of (sum of the target's NLL) / n_target
    + kl_factor * KL(new || unedited) on "{subject} is a", read at the subject's last token
    + weight_decay * ||delta|| / ||init||^2

with delta added at the subject's last token of every prompt, ||delta|| <= clamp * ||init|| after each step, and
an early stop below a loss of 0.05. The last iteration takes no step. Requests are optimised side by side, one row each.
ENCORE stops at a `Cutoff`, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from edit_robust.core import Request, UserError
from edit_robust.core.recorded import Differentiable
from edit_robust.editors.base import check_numbers, continuation
from edit_robust.editors.helpers.adam import Adam
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.injection import Injection

STOP = 5e-2
KL_PROMPT = "{} is a"


class Options(TypedDict):
    """Of `optimise_values`, in its own names."""

    lr: float
    steps: int
    weight_decay: float
    clamp: float
    kl_factor: float
    plain: bool | None


def value_options(
    v_lr: float,
    v_num_grad_steps: int,
    v_weight_decay: float,
    clamp_norm_factor: float,
    kl_factor: float,
    fast: bool | None,
    **counts: float,
) -> Options:
    """An editor's options as `optimise_values` takes them. UserError for what cannot be; `counts` must be above 0."""
    check_numbers(
        {
            "v_lr": v_lr,
            "v_num_grad_steps": v_num_grad_steps,
            "clamp_norm_factor": clamp_norm_factor,
            **counts,
        },
        {"v_weight_decay": v_weight_decay, "kl_factor": kl_factor},
    )
    return {
        "lr": v_lr,
        "steps": v_num_grad_steps,
        "weight_decay": v_weight_decay,
        "clamp": clamp_norm_factor,
        "kl_factor": kl_factor,
        "plain": None if fast is None else not fast,
    }


@dataclass(frozen=True)
class Cutoff:
    """Another early stop (ENCORE, arXiv 2502.01636): at the `times`-th iteration, in all, that is sure.

    probability: an iteration is sure where the target's probability (the mean over prompts of exp(-NLL / n_target)) is
    above it; None: where every token of the target is the likeliest in every prompt but the bare one, which counts only
    where it is the only one.
    """

    times: int = 1
    probability: float | None = None

    @staticmethod
    def of(prob_cutoff: float | None) -> Cutoff | None:
        """From `editor.prob_cutoff`: -c stops at the c-th iteration that ranks the target first everywhere, a number
        between 0 and 1 at a probability; null: never. UserError for others."""
        if prob_cutoff is None:
            return None
        if 0 < prob_cutoff < 1:
            return Cutoff(1, prob_cutoff)
        if prob_cutoff < 0 and prob_cutoff == int(prob_cutoff):
            return Cutoff(int(-prob_cutoff))
        raise UserError(
            f"editor.prob_cutoff={prob_cutoff} is neither a whole number below 0 (-4: stop at the fourth iteration "
            "that ranks the target first), nor a probability between 0 and 1, nor null"
        )


@dataclass(frozen=True)
class Values:
    """What the optimisation found, a row a request.

    value: init + delta.  init: the bare prompt's value.  delta: what was added.
    keys: [r, contexts, d_in] at the subject's last token; key_bare: the bare prompt's.  out: [r, contexts, d].
    """

    value: Float[Tensor, "r d"]
    init: Float[Tensor, "r d"]
    delta: Float[Tensor, "r d"]
    keys: Float[Tensor, "r c d_in"]
    key_bare: Float[Tensor, "r d_in"]
    out: Float[Tensor, "r c d"]
    info: list[dict[str, float]]


@dataclass(frozen=True)
class ValueRows:
    """Token rows of all requests: prompt + target for every template, then "{subject} is a" for every request.

    positions: the subject's last token in each row.   owner: the request of each row.
    reads: (row, position) of what is read: the targets' tokens first, then one place a request for the KL term.
    targets, weights, target_owner: the wanted token of each target read, its share of the loss, and its request.
    """

    tokens: list[list[int]]
    positions: list[int]
    owner: list[int]
    reads: list[tuple[int, int]]
    targets: list[int]
    weights: list[float]
    target_owner: list[int]


def subject_rows(
    model: CausalLM, requests: Sequence[Request], templates: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """Tokens of template(prompt), and the index of the subject's last token; requests outer, templates inner."""
    texts, ends = _texts(requests, templates)
    rows, at = [], []
    for (ids, spans), end in zip(model.text.spans(texts), ends, strict=True):
        rows.append(ids)
        at.append(model.text.last_of(spans, end))
    return rows, at


def _texts(requests: Sequence[Request], templates: Sequence[str]) -> tuple[list[str], list[int]]:
    """Every template with every request's prompt in it, and where the subject ends, in characters."""
    texts, ends = [], []
    for r in requests:
        before = str(r.x).partition("{}")[0]
        for t in templates:
            texts.append(t.replace("{}", r.prompt, 1))
            ends.append(len(t.partition("{}")[0]) + len(before) + len(str(r.subject)))
    return texts, ends


def value_rows(model: CausalLM, requests: Sequence[Request], templates: Sequence[str]) -> ValueRows:
    text = model.text
    prompts, ends = _texts(requests, templates)
    targets = [continuation(r) for r in requests for _ in templates]
    rows = ValueRows([], [], [], [], [], [], [])
    for i, (ids, n, spans) in enumerate(text.joined(list(zip(prompts, targets, strict=True)))):
        rows.tokens.append(ids[:-1])
        rows.positions.append(text.last_of(spans, ends[i]))
        rows.owner.append(i // len(templates))
        goal = ids[n:]
        if n == 0 or rows.positions[-1] >= n:
            raise UserError(f"the subject of request {requests[i // len(templates)].id} is not before its target")
        for j, token in enumerate(goal):
            rows.reads.append((i, n - 1 + j))
            rows.targets.append(token)
            rows.weights.append(1.0 / (len(goal) * len(templates)))
            rows.target_owner.append(i // len(templates))
    for r, (ids, spans) in enumerate(text.spans([KL_PROMPT.replace("{}", str(q.subject)) for q in requests])):
        at = text.last_of(spans, len(str(requests[r].subject)))
        rows.tokens.append(ids)
        rows.positions.append(at)
        rows.owner.append(r)
        rows.reads.append((len(rows.tokens) - 1, at))
    return rows


def optimise_values(
    model: CausalLM,
    layer: str,
    where: str,
    requests: Sequence[Request],
    templates: Sequence[str],
    *,
    lr: float,
    steps: int,
    weight_decay: float,
    clamp: float,
    kl_factor: float,
    plain: bool | None = None,
    cutoff: Cutoff | None = None,
) -> Values:
    """Optimise a vector a request at `layer`; `where` is "mlp" (ROME) or "block" (MEMIT). See the top of the file."""
    bare = templates.index("{}") if "{}" in templates else None
    used = list(templates) if bare is not None else [*templates, "{}"]
    rows = value_rows(model, requests, used)
    n, c = len(requests), len(used)
    injection = model.injection(layer, where, rows.tokens, rows.positions, rows.reads, plain)
    keys = injection.keys[: n * c].reshape(n, c, -1)
    out = injection.out[: n * c].reshape(n, c, -1)
    pick = bare if bare is not None else c - 1
    init = out[:, pick]
    loss = Loss.of(injection, rows, init, c, bare is None, weight_decay, kl_factor)
    function = loss if cutoff is None else _Sure.of(loss, rows, cutoff.probability, c, pick)
    objective = Differentiable(function, record=injection.records)
    times = None if cutoff is None else cutoff.times
    delta, info = _minimise(objective, init, clamp * init.norm(dim=1), lr, steps, times)
    used_keys = keys if bare is not None else keys[:, :-1]
    used_out = out if bare is not None else out[:, :-1]
    return Values(init + delta, init, delta, used_keys, keys[:, pick], used_out, info)


def sums_of(x: Float[Tensor, "n *shape"], lengths: Int[Tensor, " segments"]) -> Float[Tensor, "segments *shape"]:
    """Sums over consecutive segments of the first axis, each from its first value to its last: the same bits at every
    run, on every device and with any number of threads, which `index_add` does not promise."""
    return torch.segment_reduce(x, "sum", lengths=lengths, axis=0, unsafe=True)  # safe: lengths add up to n


class _Spread(torch.autograd.Function):
    """`delta[owner]`, with a gradient that is added up in the order of the rows; on several threads its own is not."""

    @staticmethod
    def forward(ctx: Any, delta: Tensor, owner: Tensor) -> Tensor:
        ctx.requests = len(delta)
        return delta[owner]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        n = ctx.requests
        prompts = len(gradient) // n - 1
        lengths = torch.full((n,), prompts, device=gradient.device)
        return sums_of(gradient[: n * prompts].contiguous(), lengths) + gradient[n * prompts :], None


def spread(delta: Float[Tensor, "r d"], owner: Int[Tensor, " rows"]) -> Float[Tensor, "rows d"]:
    """Each row's vector. owner: as in `ValueRows`, the same number of prompts for every request, then one row each."""
    found: Tensor = _Spread.apply(delta, owner)
    return found


@dataclass
class Loss:
    """The loss of each request as a function of its vector. n_targets: target tokens of each request, in all prompts.
    unedited: log-probabilities behind "{subject} is a" in the unedited model."""

    injection: Injection
    init: Float[Tensor, "r d"]
    owner: Int[Tensor, " rows"]
    targets: Int[Tensor, " t"]
    n_targets: Int[Tensor, " r"]
    weights: Float[Tensor, " t"]
    unedited: Float[Tensor, "r v"]
    weight_decay: float
    kl_factor: float

    @staticmethod
    def of(
        injection: Injection,
        rows: ValueRows,
        init: Float[Tensor, "r d"],
        c: int,
        bare_added: bool,
        weight_decay: float,
        kl_factor: float,
    ) -> Loss:
        """The loss over `c` prompts a request; `bare_added`: the last of them is there for its key alone."""
        device = init.device
        weights = torch.tensor(rows.weights, device=device)
        if bare_added:
            reading = torch.tensor([row % c != c - 1 for row, _ in rows.reads[: len(rows.targets)]], device=device)
            weights = weights * reading * c / (c - 1)
        owner, targets = torch.tensor(rows.owner, device=device), torch.tensor(rows.targets, device=device)
        counts = torch.bincount(torch.tensor(rows.target_owner), minlength=len(init)).to(device)
        unedited = injection.unmoved[len(targets) :].log_softmax(-1).to(device)
        return Loss(injection, init, owner, targets, counts, weights, unedited, weight_decay, kl_factor)

    def __call__(self, delta: Float[Tensor, "r d"]) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
        """The loss of each request, and the target's part of it."""
        return self.parts(delta)[:2]

    def parts(
        self, delta: Float[Tensor, "r d"]
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"], Float[Tensor, "t v"]]:
        """The loss of each request, the target's part of it, and the log-probabilities where targets are read."""
        init = self.init
        logp = self.injection.read(spread(delta, self.owner)).log_softmax(-1).to(init.device)
        goal, subject = logp[: len(self.targets)], logp[len(self.targets) :]
        token_nll = -goal.gather(1, self.targets[:, None])[:, 0] * self.weights
        nll = sums_of(token_nll, self.n_targets)
        # F.kl_div(input, target, log_target) is KL(target || input): here KL(new || unedited)
        kl = self.kl_factor * F.kl_div(self.unedited, subject, log_target=True, reduction="none").sum(1)
        decay = self.weight_decay * delta.norm(dim=1) / init.norm(dim=1) ** 2
        return nll + kl + decay, nll, goal


@dataclass
class _Sure:
    """A loss that also tells which requests are sure of their target (see `Cutoff`).

    counts: of the target tokens read, 1 for those that must be the likeliest (probability None), or each one's share of
        its prompt's target.   prompts: target tokens of each prompt.   weights: of each prompt in its request's mean.
    """

    loss: Loss
    probability: float | None
    counts: Float[Tensor, " t"]
    prompts: Int[Tensor, " prompts"]
    weights: Float[Tensor, " prompts"]

    @staticmethod
    def of(loss: Loss, rows: ValueRows, probability: float | None, c: int, bare: int) -> _Sure:
        """c: prompts of a request.   bare: which of them is the bare one."""
        device = loss.init.device
        prompt = torch.tensor([row for row, _ in rows.reads[: len(rows.targets)]])
        prompts = torch.bincount(prompt, minlength=c * len(loss.init))
        sampled = ((prompt % c != bare) | (c == 1)).float()
        counts = sampled if probability is None else 1.0 / prompts[prompt]
        # prompts that are there for their key alone have no weight
        used = (sums_of(loss.weights, prompts.to(device)) > 0).float()
        weights = used / used.reshape(-1, c).sum(1).repeat_interleave(c)
        return _Sure(loss, probability, counts.to(device), prompts.to(device), weights)

    def __call__(self, delta: Float[Tensor, "r d"]) -> tuple[Float[Tensor, " r"], ...]:
        """The loss of each request, the target's part of it, and 1 for those that are sure."""
        loss, nll, goal = self.loss.parts(delta)
        targets = self.loss.targets
        if self.probability is None:
            missed = (goal.argmax(1) != targets) * self.counts
            return loss, nll, (sums_of(missed, self.loss.n_targets) == 0).to(nll)
        mean_nll = sums_of(-goal.gather(1, targets[:, None])[:, 0] * self.counts, self.prompts)
        probability = (torch.exp(-mean_nll) * self.weights).reshape(len(nll), -1).sum(1)
        return loss, nll, (probability > self.probability).to(nll)


def _minimise(
    objective: Differentiable,
    init: Float[Tensor, "r d"],
    bound: Float[Tensor, " r"],
    lr: float,
    steps: int,
    times: int | None = None,
) -> tuple[Float[Tensor, "r d"], list[dict[str, float]]]:
    """Adam from 0, each row on its own, in a ball of radius `bound`; what is known of each row afterwards.

    objective: gives the loss of each row, and the target's part of it. A row's gradient is that of its own loss alone.
    times: a row ends where the objective's third value was above 0 so many times; None: it has none.
    """
    n, device = len(init), init.device
    delta, adam = torch.zeros_like(init), Adam.like(init)
    active = torch.ones(n, dtype=torch.bool, device=device)
    taken = [0] * n
    nll = loss = sure = torch.zeros(n, device=device)
    for step in range(1, steps + 1):
        loss, nll, *more = objective.values(delta)
        active = active & (loss >= STOP)
        if times is not None:
            sure = sure + more[0]
            active = active & (sure < times)
        if step == steps or not bool(active.any()):
            break
        gradient = objective.gradient()
        taken = [t + int(a) for t, a in zip(taken, active.tolist(), strict=True)]
        delta = torch.where(active[:, None], delta - adam.move(gradient, step, lr), delta)
        length = delta.norm(dim=1)
        shrink = torch.where(length > bound, bound / length, torch.ones_like(length))
        delta = delta * shrink[:, None]
    delta = torch.where(loss.isnan()[:, None], loss[:, None], delta)  # nothing was learnt: such an edit is refused
    info = [
        {
            "edit_loss": float(loss[i]),
            "edit_steps": float(taken[i]),
            "value_norm": float(delta[i].norm()),
            "target_probability": float(torch.exp(-nll[i])),
        }
        for i in range(n)
    ]
    return delta, info
