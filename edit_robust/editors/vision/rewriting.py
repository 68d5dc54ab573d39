"""Rewriting a layer: new values for the features of x' in a few directions of its input, and for nothing else.

With C the second moment of the layer's input vectors, Z = C^-1/2 and k the vectors of x' at the mask, d is an
orthonormal basis of Z times the strongest right singular vectors of the rows Z k (of one key, C^-1 k). Only what the
layer does along d changes, until its block gives for x' what it gave for x. Two forms exist:

- Santurkar et al. 2021 (and davidbau/rewriting): weights at every kernel tap, W <- W0 + (W - W0) P with P = d d^T on
  the input channels, every 10 steps of Adam; masked, L1.
- Brown et al. 2023 (arXiv 2303.00046): V = d held fixed and U trained by SGD from several starts, at the centre tap
  alone; keys about their mean, not masked, mean squared error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Delta, Layer, LowRank, Request, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, check_numbers
from edit_robust.editors.vision.helpers.moments import directions, image_moments, moment_images, on_map, pixels, width
from edit_robust.editors.vision.helpers.pairs import (
    Asked,
    Pairs,
    Select,
    as_edit,
    entered,
    generator_for,
    one_layer,
    pairs_of,
    selection,
)
from edit_robust.editors.vision.helpers.side_by_side import Fed, Reach, best_of, goal, optimise
from edit_robust.editors.vision.helpers.training import Fit, Objective, Rows, Training, learning_rates, search
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import Branch

#: What each paper does; an option that is not null takes the place of its entry.
VARIANTS: dict[str, dict[str, Any]] = {
    "santurkar2021": {
        "moment": "second", "masked": True, "taps": "all", "loss": "l1", "target": "frozen", "rank": 1, "lr": 1e-4,
        "num_steps": 20000, "ridge": 1e-4, "restarts": 1, "optimizer": "adam", "select": "none",
    },
    "brown2023": {
        "moment": "centered", "masked": False, "taps": "center", "loss": "mse", "target": "frozen", "rank": 1,
        "lr": "search", "num_steps": 10000, "ridge": 1e-4, "restarts": 10, "optimizer": "sgd", "select": "search",
    },
}  # fmt: skip
PROJECT_EVERY = 10


@dataclass(frozen=True)
class _Given:
    whitener: Float[Tensor, "d d"]
    mean: Float[Tensor, " d"]
    seed: int


class Rewriting:
    """Rewriting as an editor. Null stands for the variant's own value, see `VARIANTS`.

    moment: `second` (C = E[k k^T]) or `centered` (C and keys about the mean).   masked: keys and loss at the mask only.
    taps: `all` or `center`.   loss: `l1` or `mse`.   target: `frozen` or `live` (the changed weights on x, too).
    ridge: added to C, as a share of its mean diagonal.   restarts: random starts of U (taps=center).
    init: norm of U's columns at the start.   mom2_n_samples: images for C.   The other options are `Supervised`'s.
    """

    asks: ClassVar[str] = "images"
    batches = True

    def __init__(
        self,
        name: str = "rewriting",
        variant: Literal["santurkar2021", "brown2023"] = "brown2023",
        layers: int | list[int] | str = "auto",
        moment: Literal["second", "centered"] | None = None,
        masked: bool | None = None,
        taps: Literal["all", "center"] | None = None,
        loss: Literal["l1", "mse"] | None = None,
        target: Literal["frozen", "live"] | None = None,
        rank: int | None = None,
        lr: float | Literal["search"] | None = None,
        lr_grid: list[float] | None = None,
        num_steps: int | None = None,
        ridge: float | None = None,
        restarts: int | None = None,
        optimizer: Literal["sgd", "adam"] | None = None,
        select: Select | None = None,
        check_every: int = 10,
        max_drop: float | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        init: float = 0.01,
        mom2_n_samples: int = 2000,
    ) -> None:
        given = {
            "moment": moment, "masked": masked, "taps": taps, "loss": loss, "target": target, "rank": rank, "lr": lr,
            "num_steps": num_steps, "ridge": ridge, "restarts": restarts, "optimizer": optimizer, "select": select,
        }  # fmt: skip
        own = {**VARIANTS[variant], **{k: v for k, v in given.items() if v is not None}}
        if select is None and own["lr"] == "search" and own["select"] == "none":
            own["select"] = "search"
        check_numbers(
            {"rank": own["rank"], "restarts": own["restarts"], "mom2_n_samples": mom2_n_samples},
            {"ridge": own["ridge"], "init": init},
        )
        self.name, self.layers, self.own = name, layers, own
        self.init, self.mom2_n_samples = init, mom2_n_samples
        every_tap = own["taps"] == "all"
        self.training = Training(
            lrs=learning_rates(own["lr"], lr_grid),
            epochs=own["num_steps"],
            # weights are looked at only where they have just been projected
            check_every=-(-check_every // PROJECT_EVERY) * PROJECT_EVERY if every_tap else check_every,
            select=own["select"],
            max_drop=max_drop,
            optimizer=own["optimizer"],
            momentum=momentum,
            weight_decay=weight_decay,
        )

    def auto_layers(self, n_layers: int) -> list[int]:
        """The middle block: the paper tries them all."""
        return [n_layers // 2]

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State:
        layer = one_layer(self.name, layers)
        found = image_moments(model, layer, moment_images(task, self.name), self.mom2_n_samples, work)
        centered = self.own["moment"] == "centered"
        mean = found.mean if centered else torch.zeros_like(found.mean)
        given = _Given(found.whitener(centered, self.own["ridge"]), mean, work.seed)
        return State((layer,), given, {}, (model.layers[layer].weight_name,))

    def edit_each(self, model: Classifier, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]

    def edit(self, model: Classifier, requests: Sequence[Request], state: State) -> Edit:
        name = state.layers[0]
        layer, spine, end = model.layers[name], model.spine(name), model.block_of(name).end
        pairs = pairs_of(model, [r.x for r in requests])
        train = Asked(entered(model, spine, pairs.edited), pairs.labels)
        clean = entered(model, spine, pairs.clean)
        d = self.key_directions(layer, train.branch.entry, pairs, state.given).to(layer.weight.dtype)
        chosen = selection(model, spine, requests, pairs, self.training)
        edited, unedited = Fed.of(layer, train.branch, model.batch_size), Fed.of(layer, clean, model.batch_size)
        value = goal(spine, unedited, end)
        live = self.own["target"] == "live"
        weight = on_map(pairs.masks, value, layer.shape[0], layer, "mean").sqrt() if self.own["masked"] else None
        power = 1 if self.own["loss"] == "l1" else 2
        generator = generator_for(state.given.seed, requests)
        if self.own["taps"] == "center":
            reach = Reach(edited, end, None if live else value, unedited if live else None, weight, power)
            starts = self.restarts(layer, d, generator)
            fit = best_of(optimise(model, layer, spine, reach, train, chosen, self.training, starts, train_v=False))
            return as_edit(model, requests, state, fit, self.training)

        def loss(rows: Rows) -> Tensor:
            if live:
                both = Branch.cat([train.branch.take(rows), clean.take(rows)])
                got, want = spine.leave(both, until=end).float().chunk(2)
            else:
                got, want = spine.leave(train.branch.take(rows), until=end).float(), value[rows].float()
            difference = got - want if weight is None else (got - want) * weight[rows]
            return difference.abs().mean() if power == 1 else difference.square().mean()

        start = layer.weight.detach().clone()

        def settle(step: int) -> None:
            if step % PROJECT_EVERY == 0 or step == self.training.epochs:
                with torch.no_grad():
                    layer.weight.copy_(start + project(layer, layer.weight - start, d))

        objective = Objective(spine, (layer.weight_name,), loss, train, settle)
        fit = search(model, objective, chosen, self.training, generator)
        if fit is not None:
            fit = Fit(**{**fit.__dict__, "delta": Delta({layer.weight_name: factors(layer, fit.delta, d)})})
        return as_edit(model, requests, state, fit, self.training)

    def key_directions(self, layer: Layer, entry: Tensor, pairs: Pairs, given: _Given) -> Float[Tensor, "d r"]:
        """The directions of the layer's input that stand for x' at the mask, in float64."""
        keys = pixels(layer, entry)
        if self.own["masked"]:
            share = on_map(pairs.masks, entry, width(layer), layer, "bilinear").to(keys)
            share = (share.expand(len(entry), *share.shape[1:])).reshape(len(entry), -1)
        else:
            share = keys.new_ones(keys.shape[:2])
        at = share > 0
        if not bool(at.any()):
            raise UserError("the masks of this request mark nothing")
        return directions(keys[at].double() - given.mean, share[at], given.whitener, self.own["rank"])

    def restarts(self, layer: Layer, d: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random U and the fixed V = d for every start."""
        n, d_out, r = self.own["restarts"], layer.shape[0], d.shape[1]
        u = torch.randn(n, d_out, r, generator=generator).to(d) * self.init / d_out**0.5
        return u, d.expand(n, -1, -1).contiguous()


def project(layer: Layer, change: Tensor, d: Float[Tensor, "c r"]) -> Tensor:
    """A change of the weight, in its own shape, reduced to the input directions d at every kernel tap."""
    rows = layer.matrix(change).reshape(layer.shape[0], d.shape[0], -1)
    return layer.native(torch.einsum("oit,ir,jr->ojt", rows, d, d).reshape(layer.shape))


def factors(layer: Layer, delta: Delta, d: Float[Tensor, "c r"]) -> LowRank:
    """A change that lies along d at every tap, as factors: a column for each direction and tap."""
    c, r = d.shape
    rows = delta.terms[layer.weight_name].dense().reshape(layer.shape[0], c, -1)
    n = rows.shape[2]
    u = torch.einsum("oit,ir->ort", rows.double(), d.double()).reshape(layer.shape[0], r * n)
    v = torch.einsum("ir,st->isrt", d.double(), torch.eye(n, dtype=torch.float64, device=d.device))
    return LowRank(u.float(), v.reshape(c * n, r * n).float())
