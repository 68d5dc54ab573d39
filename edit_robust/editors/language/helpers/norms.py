"""Values of a fixed norm (NAS, `norm_rescale: nas`): in a long sequence the vectors that edits write grow, and
with them the weights.

v = v0 + delta is what the projection of the last edited layer would have to give at the subject's last token, v0 what
it gives now. With m the mean of ||v|| over other requests on the unedited model,

    v <- v0         where ||v|| > 2 m: nothing is left to write
    v <- v m / ||v||  elsewhere,          z = (h - v0) + v

h is the place that delta was added to: v0 itself in ROME, the block's output in MEMIT and its descendants.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Request, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.helpers.cache import learned
from edit_robust.editors.language.helpers.values import Options, Values, optimise_values
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task

#: m is measured on no fewer requests; so many are optimised side by side; the largest share of norms is left out.
LEAST, BATCH, DROPPED = 10, 16, 0.05
#: Values longer than so many m are given up.
FAR = 2.0


def rescaled(values: Values, model: CausalLM, layer: str, where: str, m: float | None) -> Values:
    """Values whose v has the norm m; as they are where m is None. Each request's info tells what ||v|| was."""
    if m is None:
        return values
    now = _outputs(values, model, layer, where)
    v = now + values.delta
    norm = v.norm(dim=1, keepdim=True)
    wanted = torch.where(norm > FAR * m, now, v * (m / norm))
    told = [{"output_norm": float(n), "norm_given_up": float(n > FAR * m)} for n in norm[:, 0]]
    infos = [{**info, **more} for info, more in zip(values.info, told, strict=True)]
    return replace(values, value=values.value + (wanted - v), info=infos)


def mean_norm(
    model: CausalLM, layer: str, where: str, task: Task, n: int, optimisation: Options, work: Workspace
) -> float:
    """m: the mean of ||v|| over n requests that the task does not edit, the largest 5 % left out; a norm.

    v is optimised in the unedited model on the bare prompt alone. The requests are drawn from `training_requests()`
    with seed 0; all of them where it has no more. Computed once and kept under `work.cache`. UserError where there are
    fewer than 10.
    """
    requests = _drawn(task.training_requests(), n)
    if len(requests) < LEAST:
        raise UserError(
            f"editor.norm_rescale=nas needs {LEAST} or more requests that are not edited, and task={task.name} has "
            f"{len(requests)}: give a smaller task.n_requests"
        )
    told = json.dumps([[r.id, str(r.x), str(r.subject), str(r.target)] for r in requests])
    key = {
        "model": model.base,
        "layer": layer,
        "where": where,
        "requests": hashlib.sha256(told.encode()).hexdigest()[:16],
        "n": len(requests),
        "dtype": str(model.dtype),
        **{k: v for k, v in optimisation.items() if k != "plain"},
    }

    def make() -> dict[str, Tensor]:
        if model.position != model.base:
            raise ValueError("the norm of values is the unedited model's; this one has been edited")
        found = []
        with work.progress("Measuring the norm of values", len(requests)) as advance:
            for i in range(0, len(requests), BATCH):
                some = requests[i : i + BATCH]
                values = optimise_values(model, layer, where, some, ["{}"], **optimisation)
                found.append((_outputs(values, model, layer, where) + values.delta).norm(dim=1))
                advance(len(some))
        return {"norms": torch.cat(found)}

    norms = learned(work, "norms", key, make)["norms"].double()
    kept = norms.sort().values[: len(norms) - int(DROPPED * len(norms))]
    m = float(kept.mean())
    if not 0 < m < float("inf"):
        raise UserError(
            f"the norm of values on {len(requests)} requests is {m}: editor.norm_rescale=nas cannot be used"
        )
    return m


def _drawn(requests: Sequence[Request], n: int) -> list[Request]:
    """n of them at random, in their order."""
    order = torch.randperm(len(requests), generator=torch.Generator().manual_seed(0))[:n]
    return [requests[i] for i in sorted(order.tolist())]


def _outputs(values: Values, model: CausalLM, layer: str, where: str) -> Float[Tensor, "r d"]:
    """What the projection gives for the bare prompts: v0."""
    if where == "mlp":
        return values.init
    projection = model.layers[layer]
    with torch.no_grad():
        return projection.module(values.key_bare.to(projection.weight)).to(values.init)
