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
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edit_robust.core import Delta, Layer, LowRank, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import State, check_numbers
from edit_robust.editors.vision.helpers.editor import EditData, ImageEditor, layer_used_once
from edit_robust.editors.vision.helpers.moments import directions, image_moments, moment_images, on_map, pixels, width
from edit_robust.editors.vision.helpers.options import Optimizer, Select, Training, learning_rates
from edit_robust.editors.vision.helpers.pairs import ImagePairs
from edit_robust.editors.vision.helpers.side_by_side import (
    LayerInputs,
    LowRankProblem,
    OutputTarget,
    best_of,
    clean_output,
    optimise,
)
from edit_robust.editors.vision.helpers.training import Fit, Objective, Rows, search
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import Features


@dataclass(frozen=True)
class Variant:
    """What a paper does: the values of the options that are null."""

    moment: Literal["second", "centered"]
    masked: bool
    taps: Literal["all", "center"]
    loss: Literal["l1", "mse"]
    target: Literal["frozen", "live"]
    rank: int
    lr: float | Literal["search"]
    num_steps: int
    ridge: float
    restarts: int
    optimizer: Optimizer
    select: Select


VARIANTS = {
    "santurkar2021": Variant("second", True, "all", "l1", "frozen", 1, 1e-4, 20000, 1e-4, 1, "adam", "none"),
    "brown2023": Variant("centered", False, "center", "mse", "frozen", 1, "search", 10000, 1e-4, 10, "sgd", "search"),
}
PROJECT_EVERY = 10


@dataclass(frozen=True)
class Given:
    """What edits need of a layer: Z, the mean that is subtracted from keys (or zeros), and the run's seed."""

    whitener: Float[Tensor, "d d"]
    mean: Float[Tensor, " d"]
    seed: int


@dataclass(kw_only=True, eq=False)
class Rewriting(ImageEditor):
    """Rewriting as an editor. Null stands for the variant's own value, see `VARIANTS`.

    moment: `second` (C = E[k k^T]) or `centered` (C and keys about the mean).   masked: keys and loss at the mask only.
    taps: `all` or `center`.   loss: `l1` or `mse`.   target: `frozen` or `live` (the changed weights on x, too).
    lr: a learning rate, or `search` through lr_grid.   num_steps: of training, at most.
    ridge: added to C, as a share of its mean diagonal.   restarts: random starts of U (taps=center).
    optimizer: `sgd` or `adam`.   select: see `TrainedEditor`.   weight_decay: of the weights, or of U.
    init: norm of U's columns at the start.   mom2_n_samples: images for C.
    """

    name: str = "rewriting"
    variant: Literal["santurkar2021", "brown2023"] = "brown2023"
    moment: Literal["second", "centered"] | None = None
    masked: bool | None = None
    taps: Literal["all", "center"] | None = None
    loss: Literal["l1", "mse"] | None = None
    target: Literal["frozen", "live"] | None = None
    rank: int | None = None
    lr: float | Literal["search"] | None = None
    num_steps: int | None = None
    ridge: float | None = None
    restarts: int | None = None
    optimizer: Literal["sgd", "adam"] | None = None
    select: Select | None = None
    weight_decay: float = 0.0
    init: float = 0.01
    mom2_n_samples: int = 2000

    def __post_init__(self) -> None:
        own = VARIANTS[self.variant]
        given = {k: getattr(self, k) for k in asdict(own)}
        own = replace(own, **{k: v for k, v in given.items() if v is not None})
        if self.select is None and own.lr == "search" and own.select == "none":
            own = replace(own, select="search")
        check_numbers(
            {"rank": own.rank, "restarts": own.restarts, "mom2_n_samples": self.mom2_n_samples},
            {"ridge": own.ridge, "init": self.init},
        )
        self.own = own
        every = self.check_every
        if own.taps == "all":  # weights are compared only where they have just been projected
            every = -(-every // PROJECT_EVERY) * PROJECT_EVERY
        self.training = Training(
            lrs=learning_rates(own.lr, self.lr_grid),
            epochs=own.num_steps,
            check_every=every,
            select=own.select,
            max_drop=self.max_drop,
            patience=self.patience,
            optimizer=own.optimizer,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State[Given]:
        layer = layer_used_once(self.name, model, layers)
        found = image_moments(model, layer, moment_images(task, self.name), self.mom2_n_samples, work)
        centered = self.own.moment == "centered"
        mean = found.mean if centered else torch.zeros_like(found.mean)
        given = Given(found.whitener(centered, self.own.ridge), mean, work.seed)
        return State((layer,), given, (model.layers[layer].weight_name,))

    def seed(self, state: State[Given]) -> int:
        return state.given.seed

    def fit(self, data: EditData, state: State[Given]) -> Fit | None:
        model, name = data.model, state.layers[0]
        layer, end = model.layers[name], model.block_of(name).end
        d = self.key_directions(layer, data.train.features.input, data.pairs, state.given).to(layer.weight.dtype)
        clean = LayerInputs.of(layer, data.clean, model.batch_size)
        value = clean_output(data.network, clean, end)
        weight = None
        if self.own.masked:
            weight = on_map(data.pairs.masks, value, layer.shape[0], layer, "mean").sqrt()
        if self.own.taps == "all":
            return self._every_tap(data, layer, end, value, weight, d)
        live, power = self.own.target == "live", 1 if self.own.loss == "l1" else 2
        edited = LayerInputs.of(layer, data.train.features, model.batch_size)
        goal = OutputTarget(edited, end, None if live else value, clean if live else None, weight, power)
        problem = LowRankProblem(layer, data.network, goal, data.train, data.selection, model.batch_size)
        starts = self.random_starts(layer, d, data.generator)
        return best_of(optimise(problem, self.training, starts, train_v=False, progress=model.progress))

    def _every_tap(
        self, data: EditData, layer: Layer, end: nn.Module, value: Tensor, weight: Tensor | None, d: Tensor
    ) -> Fit | None:
        """Train the whole weight, projected to d at every tap each `PROJECT_EVERY` steps."""
        network, train = data.network, data.train.features

        def loss(rows: Rows) -> Tensor:
            if self.own.target == "live":
                both = Features.cat([train.take(rows), data.clean.take(rows)])
                got, want = network.suffix(both, until=end).float().chunk(2)
            else:
                got, want = network.suffix(train.take(rows), until=end).float(), value[rows].float()
            difference = got - want if weight is None else (got - want) * weight[rows]
            return difference.abs().mean() if self.own.loss == "l1" else difference.square().mean()

        start = layer.weight.detach().clone()

        def after_step(step: int) -> None:
            if step % PROJECT_EVERY == 0 or step == self.training.epochs:
                with torch.no_grad():
                    layer.weight.copy_(start + project(layer, layer.weight - start, d))

        objective = Objective(network, (layer.weight_name,), loss, data.train, data.selection, after_step)
        fit = search(data.model, objective, self.training, data.generator)
        return None if fit is None else replace(fit, delta=Delta({layer.weight_name: factors(layer, fit.delta, d)}))

    def key_directions(self, layer: Layer, h: Tensor, pairs: ImagePairs, given: Given) -> Float[Tensor, "d r"]:
        """The directions of the layer's input h that stand for x' at the mask, in float64.

        Raises UserError for masks that mark nothing.
        """
        keys = pixels(layer, h)
        if self.own.masked:
            share = on_map(pairs.masks, h, width(layer), layer, "bilinear").to(keys)
            share = (share.expand(len(h), *share.shape[1:])).reshape(len(h), -1)
        else:
            share = keys.new_ones(keys.shape[:2])
        at = share > 0
        if not bool(at.any()):
            raise UserError("the masks of this request mark nothing")
        return directions(keys[at].double() - given.mean, share[at], given.whitener, self.own.rank)

    def random_starts(self, layer: Layer, d: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random U and the fixed V = d for every start."""
        n, d_out, r = self.own.restarts, layer.shape[0], d.shape[1]
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
