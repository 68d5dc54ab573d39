"""Direct low-rank editing: output collision by a change of low rank at one layer.

W' = W + m x (U V^T) with U [c_out, r] and V [c_in, r]: the same c_out x c_in matrix at each kernel tap where m is 1.
That is the centre tap of an odd kernel, which makes the change a 1 x 1 convolution, and the four taps around the centre
of an even one (arXiv 2303.00046, equation 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from edit_robust.core.work import Workspace
from edit_robust.editors.base import State, check_numbers
from edit_robust.editors.vision.helpers.editor import EditData, TrainedEditor, layer_used_once
from edit_robust.editors.vision.helpers.side_by_side import (
    LayerInputs,
    LowRankProblem,
    OutputTarget,
    best_of,
    clean_output,
    optimise,
)
from edit_robust.editors.vision.helpers.training import Fit
from edit_robust.models.vision.classifier import Classifier


@dataclass(kw_only=True, eq=False)
class DirectLowRank(TrainedEditor):
    """Output collision over a low-rank change of one layer, from several random starts (U zero, V small and random).

    rank: r.   restarts: starts for every learning rate; the best of all is kept.   init: norm of V's columns then.
    target: `live` or `frozen`, as in `Collision`.   weight_decay: of the factors.
    Its further options are those of `TrainedEditor` and `ImageEditor`.
    """

    name: str = "low-rank"
    rank: int = 1
    restarts: int = 10
    init: float = 1.0
    target: Literal["live", "frozen"] = "live"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_numbers({"rank": self.rank, "restarts": self.restarts, "init": self.init}, {})
        self.training = self.trained(self.weight_decay)

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State[int]:
        layer = layer_used_once(self.name, model, layers)
        return State((layer,), work.seed, (model.layers[layer].weight_name,))

    def fit(self, data: EditData, state: State[int]) -> Fit | None:
        model, network, name = data.model, data.network, state.layers[0]
        layer, end = model.layers[name], model.block_of(name).end
        edited = LayerInputs.of(layer, data.train.features, model.batch_size)
        clean = LayerInputs.of(layer, data.clean, model.batch_size)
        if self.target == "frozen":
            goal = OutputTarget(edited, end, clean_output(network, clean, end), None)
        else:
            goal = OutputTarget(edited, end, None, clean)
        d_out, c_in = layer.shape[0], edited.summed.shape[1]
        rank = min(self.rank, d_out, c_in)
        v = torch.randn(self.restarts, c_in, rank, generator=data.generator).to(layer.weight) * self.init / c_in**0.5
        starts = (v.new_zeros(self.restarts, d_out, rank), v)
        problem = LowRankProblem(layer, network, goal, data.train, data.selection, model.batch_size)
        return best_of(optimise(problem, self.training, starts, train_v=True, progress=model.progress))
