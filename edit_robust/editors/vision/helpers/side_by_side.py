"""Many optimisations of a layer's low-rank change at once: all learning rates from all starts, side by side.

A change U V^T on some kernel taps is a 1 x 1 convolution of the input summed over these taps (see `low_rank`), so the
input is summed once, and a step of g changes is two small products and the blocks above on g times the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

from edit_robust.core import Delta, Layer, LowRank
from edit_robust.editors.vision.helpers.pairs import Asked, Selection, right, spans
from edit_robust.editors.vision.helpers.training import Fit, Training
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import Branch, Spine

ELEMENTS = 1 << 21  # activations of the edited layer that are computed side by side: more leave the cache


def taps(layer: Layer) -> Tensor:
    """[kh, kw] with 1 at the taps that carry the change: the centre, along an even side the two beside it."""
    if layer.kind != "conv2d":
        return torch.ones(1, 1)
    sides = []
    for k in layer.weight.shape[2:]:
        line = torch.zeros(k)
        line[(k - 1) // 2 : k // 2 + 1] = 1
        sides.append(line)
    return sides[0][:, None] * sides[1][None]


def spread(layer: Layer, v: Float[Tensor, "c_in r"]) -> Float[Tensor, "d_in r"]:
    """V over all inputs of the layer's matrix: its rows at the taps, 0 elsewhere."""
    m = taps(layer).to(v)
    return (v[:, None, None] * m[None, :, :, None]).reshape(-1, v.shape[1])


def tapped(layer: Layer, h: Tensor) -> Float[Tensor, "n c_in p"]:
    """The input as the change sees it, summed over the taps: one vector an output position."""
    if layer.kind != "conv2d":
        return h.reshape(len(h), -1, h.shape[-1]).transpose(1, 2)
    m: Any = layer.module
    channels, padding = h.shape[1], m.padding
    if m.padding_mode != "zeros":
        h, padding = pad(h, m._reversed_padding_repeated_twice, mode=m.padding_mode), 0
    kernel = taps(layer).to(h).expand(channels, 1, -1, -1)
    return conv2d(h, kernel, None, m.stride, padding, m.dilation, channels).flatten(2)


def add_changes(
    layer: Layer,
    still: Tensor,
    x: Float[Tensor, "n c_in p"],
    u: Float[Tensor, "g d_out r"],
    v: Float[Tensor, "g c_in r"],
) -> Tensor:
    """The layer's outputs under g changes, one after the other: [g * n, ...] from the unchanged one's [n, ...]."""
    g, _, r = v.shape
    inner = v.transpose(1, 2).reshape(g * r, -1) @ x  # [n, g r, p]
    change = u[:, None] @ inner.reshape(len(x), g, r, -1).transpose(0, 1)  # [g, n, d_out, p]
    if layer.kind != "conv2d":
        change = change.transpose(2, 3)
    return (still[None] + change.reshape(g, *still.shape)).flatten(0, 1)


@dataclass(frozen=True)
class Fed:
    """Images that wait at the layer, with what does not change there: its output, and its input over the taps."""

    branch: Branch
    still: Tensor
    x: Float[Tensor, "n c_in p"]

    @staticmethod
    @torch.no_grad()
    def of(layer: Layer, branch: Branch, at_once: int) -> Fed:
        parts = [branch.entry[s] for s in spans(len(branch), at_once)]
        return Fed(branch, torch.cat([layer.module(p) for p in parts]), torch.cat([tapped(layer, p) for p in parts]))

    def take(self, rows: slice) -> Fed:
        return Fed(self.branch.take(rows), self.still[rows], self.x[rows])

    def leave(self, spine: Spine, layer: Layer, u: Tensor, v: Tensor, until: torch.nn.Module | None = None) -> Tensor:
        """[g, n, ...]: what the network makes of the images under each change."""
        out = add_changes(layer, self.still, self.x, u, v)
        after = spine.leave(self.branch.repeat(len(u)), out, until)
        return after.reshape(len(u), -1, *after.shape[1:])


@dataclass(frozen=True)
class Reach:
    """What the changed block shall give for x': `target`, or what it gives for `clean` under the same change.

    weight: multiplies the difference (of x', broadcast), None: 1.   power: 1 (mean absolute error) or 2 (mean squared).
    """

    edited: Fed
    end: torch.nn.Module
    target: Tensor | None
    clean: Fed | None
    weight: Tensor | None = None
    power: int = 2

    def losses(self, spine: Spine, layer: Layer, u: Tensor, v: Tensor) -> Float[Tensor, " g"]:
        """The loss of each change."""
        got = self.edited.leave(spine, layer, u, v, self.end)
        want = self.target if self.clean is None else self.clean.leave(spine, layer, u, v, self.end)
        difference = (got - want).float()  # type: ignore[operator]
        if self.weight is not None:
            difference = difference * self.weight
        return (difference.abs() if self.power == 1 else difference.square()).flatten(1).mean(1)


@dataclass
class _Steps:
    """SGD with momentum, or Adam, of many runs that each have a learning rate [g, 1, 1]."""

    how: Training
    rate: Tensor
    first: list[Tensor]
    second: list[Tensor]
    count: int = 0

    def step(self, params: list[Tensor], grads: Sequence[Tensor]) -> None:
        self.count += 1
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            g = g + self.how.weight_decay * p
            if self.how.optimizer == "adam":
                self.first[i].lerp_(g, 0.1)
                self.second[i].mul_(0.999).addcmul_(g, g, value=0.001)
                root = (self.second[i] / (1 - 0.999**self.count)).sqrt() + 1e-8
                p -= self.rate * (self.first[i] / (1 - 0.9**self.count)) / root
            else:
                self.first[i].mul_(self.how.momentum).add_(g)
                p -= self.rate * self.first[i]

    def keep(self, rows: Tensor) -> None:
        self.rate = self.rate[rows]
        self.first, self.second = [t[rows] for t in self.first], [t[rows] for t in self.second]


@torch.no_grad()
def optimise(
    model: Classifier,
    layer: Layer,
    spine: Spine,
    reach: Reach,
    train: Asked,
    chosen: Selection,
    how: Training,
    starts: tuple[Float[Tensor, "s d_out r"], Float[Tensor, "s c_in r"]],
    train_v: bool,
) -> list[Fit | None]:
    """Every learning rate of `how` from every start, side by side; None for a run that diverges.

    Runs do not touch each other: they are stacked along the batch, and a run that is over leaves it. The same numbers,
    up to rounding, come from one run at a time.
    """
    s = len(starts[0])
    rates = torch.tensor([lr for lr in how.lrs for _ in range(s)], dtype=torch.float64).clamp_max(1e38).to(starts[0])
    u, v = (t.repeat(len(how.lrs), 1, 1) for t in starts)
    kept_u, kept_v = u.clone(), v.clone()
    params = [u, v] if train_v else [u]
    steps = _Steps(
        how, rates[:, None, None], [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    )
    judged = {
        k: Fed.of(layer, a.branch, model.batch_size) for k, a in (("x'", chosen.edited), ("x", chosen.clean)) if a
    }
    runs = torch.arange(len(rates), device=u.device)
    rank = torch.full((len(rates), 2), -1.0, device=u.device)
    at_step, diverged = [0] * len(rates), rates > torch.finfo(u.dtype).max / 1e3
    top = torch.full((len(rates),), chosen.at_start, device=u.device)
    for step in range(1, how.epochs + 1):
        losses, grads = _gradients(reach, spine, layer, u, v, train_v)
        diverged[runs] |= ~torch.isfinite(losses)
        steps.step([u, v] if train_v else [u], grads)
        if step % how.check_every and step < how.epochs:
            continue
        diverged[runs] |= ~(torch.isfinite(u).all((1, 2)) & torch.isfinite(v).all((1, 2)))
        if chosen.edited is None:
            now, within, better = rank[runs, 1], rank[runs, 0], torch.ones_like(runs, dtype=torch.bool)
        else:
            now = _accuracies(judged["x'"], chosen.edited, spine, layer, u, v)
            within = torch.ones_like(now)
            if chosen.clean is not None:
                clean = _accuracies(judged["x"], chosen.clean, spine, layer, u, v)
                within = (chosen.clean_at_start - clean <= (how.max_drop or 0.0)).to(now)
            better = (within > rank[runs, 0]) | ((within == rank[runs, 0]) & (now > rank[runs, 1]))
        better &= ~diverged[runs]
        best = runs[better]
        kept_u[best], kept_v[best] = u[better], v[better]
        rank[best] = torch.stack([within, now], 1)[better]
        for i in best.tolist():
            at_step[i] = step
        top[runs] = torch.fmax(top[runs], now)
        on = ~diverged[runs] & ~(now < top[runs] / 2)
        if not bool(on.all()):
            runs, u, v = runs[on], u[on], v[on]
            steps.keep(on)
        if not len(runs):
            break
    known = chosen.edited is not None
    fits: list[Fit | None] = []
    for i in range(len(rates)):
        one = slice(i, i + 1)
        ok = not diverged[i] and at_step[i] > 0
        loss = float(reach.losses(spine, layer, kept_u[one], kept_v[one])) if ok else float("nan")
        if loss != loss or loss == float("inf"):
            fits.append(None)
            continue
        delta = Delta({layer.weight_name: LowRank(kept_u[i].float().clone(), spread(layer, kept_v[i]).float())})
        told = float(_accuracies(reach.edited, train, spine, layer, kept_u[one], kept_v[one]))
        score = float(rank[i, 1]) if known else float("nan")
        fits.append(Fit(delta, how.lrs[i // s], at_step[i], loss, score, told, not known or bool(rank[i, 0])))
    return fits


def _side_by_side(fed: Fed) -> int:
    """How many changes fit beside each other for these images."""
    return max(1, ELEMENTS // max(1, fed.still.numel()))


def _gradients(
    reach: Reach, spine: Spine, layer: Layer, u: Tensor, v: Tensor, train_v: bool
) -> tuple[Tensor, list[Tensor]]:
    """Losses [g] and their gradients, in groups that fit into memory."""
    losses, grads = [], []
    for s in spans(len(u), _side_by_side(reach.edited)):
        with torch.enable_grad():
            a, b = u[s].clone().requires_grad_(True), v[s].clone().requires_grad_(train_v)
            each = reach.losses(spine, layer, a, b)
            grads.append(torch.autograd.grad(each.sum(), [a, b] if train_v else [a]))
        losses.append(each.detach())
    return torch.cat(losses), [torch.cat(g) for g in zip(*grads, strict=True)]


def _accuracies(fed: Fed, asked: Asked, spine: Spine, layer: Layer, u: Tensor, v: Tensor) -> Float[Tensor, " g"]:
    """Share of right answers under each change."""
    found = []
    for s in spans(len(u), _side_by_side(fed)):
        rows = max(1, ELEMENTS // max(1, fed.still[:1].numel()))  # of one change, should they be too many
        parts = [
            right(fed.take(r).leave(spine, layer, u[s], v[s]), asked.labels[r].expand(s.stop - s.start, -1))
            for r in spans(len(asked), rows)
        ]
        found.append(torch.cat(parts, 1).float().mean(1))
    return torch.cat(found)


@torch.no_grad()
def goal(spine: Spine, clean: Fed, end: torch.nn.Module) -> Tensor:
    """f_<=l(x) at the present weights."""
    return spine.leave(clean.branch, clean.still, end)


def best_of(fits: Sequence[Fit | None]) -> Fit | None:
    """The best run, the first of equal ones."""
    found = [f for f in fits if f is not None]
    return max(found, key=lambda f: f.rank) if found else None
