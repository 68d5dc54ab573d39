"""Gradients of a loss with respect to the outputs of projections, token by token: what hypernetworks (MEND) read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from edit_robust.models.language.decoder import Decoder
from edit_robust.models.language.hooks import hooked


@dataclass(frozen=True)
class OutputGradients:
    """Of one projection, for every token of every row, row after row.

    inputs: u, what the projection is given.   gradients: delta, d loss / d (its output).
    The gradient of its weight as [d_out, d_in] is delta^T u, and that of its bias the sum of delta over tokens.
    """

    inputs: Float[Tensor, "tokens d_in"]
    gradients: Float[Tensor, "tokens d_out"]


def output_gradients(
    model: Decoder,
    rows: Sequence[Sequence[int]],
    reads: Sequence[tuple[int, int]],
    targets: Sequence[int],
    layers: Sequence[str],
    weights: Sequence[float] | None = None,
) -> dict[str, OutputGradients]:
    """Inputs and output gradients of some projections, by name; see `losses_and_gradients`."""
    return losses_and_gradients(model, rows, reads, targets, layers, weights)[1]


def losses_and_gradients(
    model: Decoder,
    rows: Sequence[Sequence[int]],
    reads: Sequence[tuple[int, int]],
    targets: Sequence[int],
    layers: Sequence[str],
    weights: Sequence[float] | None = None,
) -> tuple[Float[Tensor, " reads"], dict[str, OutputGradients]]:
    """-log p of every target in nats, in float32 on the CPU, and what some projections saw of it.

    layers: any projections of the network, by the names of their modules.
    The loss is the sum over reads (row, position) of -log p(target | tokens up to the position), each times its weight
    (default 1). Rows are run in batches of similar length: the sum falls apart into rows.
    """
    share = [1.0] * len(reads) if weights is None else list(weights)
    of_row: dict[int, list[int]] = {}
    for k, (row, _) in enumerate(reads):
        of_row.setdefault(row, []).append(k)
    found: dict[str, dict[int, tuple[Tensor, Tensor]]] = {n: {} for n in layers}
    losses = torch.zeros(len(reads))
    for batch in model.batches([len(r) for r in rows]):
        chosen = [(b, k) for b, i in enumerate(batch) for k in of_row.get(i, [])]
        at = (_indices([b for b, _ in chosen]), _indices([reads[k][1] for _, k in chosen]))
        want = (_indices([targets[k] for _, k in chosen]), torch.tensor([share[k] for _, k in chosen]))
        nll, seen = _of_batch(model, [rows[i] for i in batch], at, want, layers)
        losses[[k for _, k in chosen]] = nll.float().cpu()
        for n in layers:
            for b, i in enumerate(batch):
                found[n][i] = (seen[n][0][b, : len(rows[i])], seen[n][1][b, : len(rows[i])])
    return losses, {
        n: OutputGradients(*(torch.cat([parts[i][part] for i in range(len(rows))]) for part in (0, 1)))
        for n, parts in found.items()
    }


def _indices(values: Sequence[int]) -> Int[Tensor, " n"]:
    return torch.tensor(values, dtype=torch.long)


def _of_batch(
    model: Decoder,
    rows: Sequence[Sequence[int]],
    at: tuple[Tensor, Tensor],
    want: tuple[Tensor, Tensor],
    layers: Sequence[str],
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """-log p of the targets; inputs [b, t, d_in] and output gradients [b, t, d_out], 0 or unused at padding."""
    ids = model.tokens(rows)
    inputs: dict[str, Tensor] = {}
    added: dict[str, Tensor] = {}

    def add_zero(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            inputs[name] = args[0].detach().reshape(*ids.shape, -1)
            added[name] = torch.zeros_like(output, requires_grad=True)  # its gradient is that of the output
            return output + added[name]

        return hook

    modules = {n: model.net.get_submodule(n) for n in layers}
    with torch.enable_grad(), hooked(*(m.register_forward_hook(add_zero(n)) for n, m in modules.items())):
        logits = model.logits_at(ids, at)
        nll = F.cross_entropy(logits, want[0].to(logits.device), reduction="none")
        loss = (nll * want[1].to(nll)).sum()
        gradients = torch.autograd.grad(loss, [added[n] for n in layers])
    return nll.detach(), {n: (inputs[n], g.reshape(*ids.shape, -1)) for n, g in zip(layers, gradients, strict=True)}
