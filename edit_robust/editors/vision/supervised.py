"""Fine-tuning on edited images: one layer (local), or that layer and all above it (global).

Cross entropy of the edited network on (x', y), arXiv 2303.00046, section 3. With `trajectory=interpolate` the local
form is the paper's 1-LI, one-layer interpolation; `recipe=paint` trains as PAINT does (mlfoundations/patching).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.vision.helpers.editor import EditData, TrainedEditor, one_layer
from edit_robust.editors.vision.helpers.training import Fit, Objective, Rows, search
from edit_robust.models.vision.classifier import Classifier

#: Weight decay of a recipe that is given none.
DECAY = {"paper": 1e-4, "paint": 0.1}


@dataclass(kw_only=True, eq=False)
class Supervised(TrainedEditor):
    """Supervised fine-tuning as an editor. Its further options are those of `TrainedEditor` and `ImageEditor`.

    scope: `local` trains weight and bias of the layer, `global` every parameter that acts from the layer on.
    recipe: `paper` (SGD with momentum) or `paint` (AdamW, `warmup` steps, then cosine to 0, gradients clipped at 1).
    weight_decay: null: the recipe's own, 1e-4 on weights or .1 on everything.   batch_size: pairs a step; null: all.
    """

    name: str = "local-ft"
    scope: Literal["local", "global"] = "local"
    recipe: Literal["paper", "paint"] = "paper"
    weight_decay: float | None = None
    warmup: int = 500
    batch_size: int | None = None

    def __post_init__(self) -> None:
        decay = DECAY[self.recipe] if self.weight_decay is None else self.weight_decay
        self.training = self.trained(
            decay, "sgd" if self.recipe == "paper" else "paint", batch_size=self.batch_size, warmup=self.warmup
        )

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State[int]:
        layer = one_layer(self.name, layers)
        local = self.scope == "local"
        names = model.parameter_names([layer]) if local else model.parameters_between(layer, None)
        return State((layer,), work.seed, tuple(names))

    def fit(self, data: EditData, state: State[int]) -> Fit | None:
        network, train = data.network, data.train

        def loss(rows: Rows) -> Tensor:
            return cross_entropy(network.suffix(train.features.take(rows)).float(), train.labels[rows])

        objective = Objective(network, tuple(state.changes(data.model)), loss, train, data.selection)
        return search(data.model, objective, self.training, data.generator)
