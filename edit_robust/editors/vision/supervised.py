"""Fine-tuning on edited images: one layer (local), or that layer and all above it (global).

Cross entropy of the edited network on (x', y), arXiv 2303.00046, section 3. With `trajectory=interpolate` the local
form is the paper's 1-LI, one-layer interpolation; `recipe=paint` trains as PAINT does (mlfoundations/patching).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from edit_robust.core import Request
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State
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
from edit_robust.editors.vision.helpers.training import Objective, Rows, Training, learning_rates, search
from edit_robust.models.vision.classifier import Classifier

#: Weight decay of a recipe that is given none.
DECAY = {"paper": 1e-4, "paint": 0.1}


class Supervised:
    """Supervised fine-tuning as an editor.

    scope: `local` trains weight and bias of the layer, `global` every parameter from the layer on, the head included.
    lr: a learning rate, or `search` through lr_grid (null: 1e-5 to 100).   max_epochs: passes over the pairs, at most.
    recipe: `paper` (SGD with momentum) or `paint` (AdamW, `warmup` steps, then cosine to 0, gradients clipped at 1).
    weight_decay: null: the recipe's own, 1e-4 on weights or .1 on everything.   batch_size: pairs a step; null: all.
    select: images that learning rate and step are chosen by: `search` (the third split), `validation` (the reported
        images, as in the paper), `train`, or `none` (the last step is kept).
    max_drop: prefer changes that cost the clean images of selection at most this accuracy; null: the paper's choice.
    check_every: steps between two looks at the selection.
    """

    asks: ClassVar[str] = "images"
    batches = True

    def __init__(
        self,
        name: str = "local-ft",
        scope: Literal["local", "global"] = "local",
        layers: int | list[int] | str = "auto",
        lr: float | Literal["search"] = "search",
        lr_grid: list[float] | None = None,
        max_epochs: int = 10000,
        check_every: int = 10,
        select: Select = "search",
        max_drop: float | None = None,
        recipe: Literal["paper", "paint"] = "paper",
        weight_decay: float | None = None,
        momentum: float = 0.9,
        warmup: int = 500,
        batch_size: int | None = None,
    ) -> None:
        self.name, self.scope, self.layers = name, scope, layers
        self.training = Training(
            lrs=learning_rates(lr, lr_grid),
            epochs=max_epochs,
            check_every=check_every,
            select=select,
            max_drop=max_drop,
            optimizer="sgd" if recipe == "paper" else "paint",
            momentum=momentum,
            weight_decay=DECAY[recipe] if weight_decay is None else weight_decay,
            batch_size=batch_size,
            warmup=warmup,
        )

    def auto_layers(self, n_layers: int) -> list[int]:
        """The middle block: the paper tries them all."""
        return [n_layers // 2]

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State:
        layer = one_layer(self.name, layers)
        local = self.scope == "local"
        names = model.parameter_names([layer]) if local else model.parameters_between(layer, None)
        return State((layer,), work.seed, {}, tuple(names))

    def edit_each(self, model: Classifier, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]

    def edit(self, model: Classifier, requests: Sequence[Request], state: State) -> Edit:
        names = tuple(state.changes(model))
        spine = model.spine(model.first_of(names))
        pairs = pairs_of(model, [r.x for r in requests])
        train = Asked(entered(model, spine, pairs.edited), pairs.labels)
        chosen = selection(model, spine, requests, pairs, self.training)

        def loss(rows: Rows) -> Tensor:
            return cross_entropy(spine.leave(train.branch.take(rows)).float(), train.labels[rows])

        generator = generator_for(state.given, requests)
        fit = search(model, Objective(spine, names, loss, train), chosen, self.training, generator)
        return as_edit(model, requests, state, fit, self.training)
