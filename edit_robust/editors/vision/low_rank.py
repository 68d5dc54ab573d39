"""Direct low-rank editing: output collision by a change of low rank at one layer.

W' = W + m x (U V^T) with U [c_out, r] and V [c_in, r]: the same c_out x c_in matrix at each kernel tap where m is 1.
That is the centre tap of an odd kernel, which makes the change a 1 x 1 convolution, and the four taps around the centre
of an even one (arXiv 2303.00046, equation 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch

from edit_robust.core import Request
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, check_numbers
from edit_robust.editors.vision.helpers.pairs import (
    Asked,
    Select,
    as_edit,
    entered,
    generator_for,
    one_layer,
    pairs_of,
    selection,
)
from edit_robust.editors.vision.helpers.side_by_side import Fed, Reach, best_of, goal, optimise
from edit_robust.editors.vision.helpers.training import Training, learning_rates
from edit_robust.models.vision.classifier import Classifier


class DirectLowRank:
    """Output collision over a low-rank change of one layer, from several random starts (U zero, V small and random).

    rank: r.   restarts: starts for every learning rate; the best of all is kept.   init: norm of V's columns then.
    target: `live` or `frozen`, as in `Collision`.   weight_decay: of the factors.
    The other options are `Supervised`'s.
    """

    asks: ClassVar[str] = "images"
    batches = True

    def __init__(
        self,
        name: str = "low-rank",
        rank: int = 1,
        restarts: int = 10,
        init: float = 1.0,
        target: Literal["live", "frozen"] = "live",
        layers: int | list[int] | str = "auto",
        lr: float | Literal["search"] = "search",
        lr_grid: list[float] | None = None,
        max_epochs: int = 10000,
        check_every: int = 10,
        select: Select = "search",
        max_drop: float | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
    ) -> None:
        check_numbers({"rank": rank, "restarts": restarts, "init": init}, {})
        self.name, self.layers, self.target = name, layers, target
        self.rank, self.restarts, self.init = rank, restarts, init
        self.training = Training(
            lrs=learning_rates(lr, lr_grid),
            epochs=max_epochs,
            check_every=check_every,
            select=select,
            max_drop=max_drop,
            momentum=momentum,
            weight_decay=weight_decay,
        )

    def auto_layers(self, n_layers: int) -> list[int]:
        """The middle block: the paper tries them all."""
        return [n_layers // 2]

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State:
        layer = one_layer(self.name, layers)
        return State((layer,), work.seed, {}, (model.layers[layer].weight_name,))

    def edit_each(self, model: Classifier, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]

    def edit(self, model: Classifier, requests: Sequence[Request], state: State) -> Edit:
        name = state.layers[0]
        layer, spine, end = model.layers[name], model.spine(name), model.block_of(name).end
        pairs = pairs_of(model, [r.x for r in requests])
        train = Asked(entered(model, spine, pairs.edited), pairs.labels)
        edited = Fed.of(layer, train.branch, model.batch_size)
        clean = Fed.of(layer, entered(model, spine, pairs.clean), model.batch_size)
        chosen = selection(model, spine, requests, pairs, self.training)
        frozen = self.target == "frozen"
        reach = Reach(edited, end, goal(spine, clean, end) if frozen else None, None if frozen else clean)
        generator = generator_for(state.given, requests)
        d_out, c_in = layer.shape[0], edited.x.shape[1]
        rank = min(self.rank, d_out, c_in)
        v = torch.randn(self.restarts, c_in, rank, generator=generator).to(layer.weight) * self.init / c_in**0.5
        starts = (v.new_zeros(self.restarts, d_out, rank), v)
        fits = optimise(model, layer, spine, reach, train, chosen, self.training, starts, True)
        return as_edit(model, requests, state, best_of(fits), self.training)
