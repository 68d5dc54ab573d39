"""Output collision: the network is trained to give for x' what it gives for x (arXiv 2303.00046, section 3).

Mean squared error between f_<=l(x) and f_<=l(x'), over the layer's weight and bias (local) or over everything up to the
layer's block (global). The paper's footnote 5 has the edited weights on both sides (`live`), which can be satisfied by
making all outputs alike; `frozen` holds the unedited network's f_<=l(x) fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.vision.helpers.editor import EditData, TrainedEditor, one_layer
from edit_robust.editors.vision.helpers.features import slices
from edit_robust.editors.vision.helpers.training import Fit, Objective, Rows, search
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import Features


@dataclass(kw_only=True, eq=False)
class Collision(TrainedEditor):
    """Output collision as an editor. Its further options are those of `TrainedEditor` and `ImageEditor`.

    scope: `local` trains weight and bias of the layer, `global` all that the output of its block depends on.
    target: `live` or `frozen`, see above.   weight_decay: of weights.   batch_size: pairs a step; null: all.
    """

    name: str = "local-collision"
    scope: Literal["local", "global"] = "local"
    target: Literal["live", "frozen"] = "live"
    weight_decay: float = 1e-4
    batch_size: int | None = None

    def __post_init__(self) -> None:
        self.training = self.trained(self.weight_decay, batch_size=self.batch_size)

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State[int]:
        layer = one_layer(self.name, layers)
        local = self.scope == "local"
        names = model.parameter_names([layer]) if local else model.parameters_between(None, layer)
        return State((layer,), work.seed, tuple(names))

    def fit(self, data: EditData, state: State[int]) -> Fit | None:
        model, network, train = data.model, data.network, data.train.features
        end, clean = model.block_of(state.layers[0]).end, data.clean
        with torch.no_grad():
            parts = [network.suffix(clean.take(s), until=end) for s in slices(len(clean), model.batch_size)]
            fixed = torch.cat(parts) if self.target == "frozen" else None

        def loss(rows: Rows) -> Tensor:
            if fixed is not None:
                return mse_loss(network.suffix(train.take(rows), until=end).float(), fixed[rows].float())
            both = network.suffix(Features.cat([train.take(rows), clean.take(rows)]), until=end).float()
            edited, unedited = both.chunk(2)
            return mse_loss(edited, unedited)

        objective = Objective(network, tuple(state.changes(model)), loss, data.train, data.selection)
        return search(model, objective, self.training, data.generator)
