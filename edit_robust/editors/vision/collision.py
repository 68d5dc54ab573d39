"""Output collision: what the network makes of x' shall be what it makes of x (arXiv 2303.00046, section 3).

Mean squared error between f_<=l(x) and f_<=l(x'), over the layer's weight and bias (local) or over everything up to the
layer's block (global). The paper's footnote 5 has the edited weights on both sides (`live`), which can be satisfied by
making all outputs alike; `frozen` holds the unedited network's f_<=l(x) fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

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
    spans,
)
from edit_robust.editors.vision.helpers.training import Objective, Rows, Training, learning_rates, search
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import Branch


class Collision:
    """Output collision as an editor.

    scope: `local` trains weight and bias of the layer, `global` every parameter up to the end of the layer's block.
    target: `live` or `frozen`, see above.   The other options are `Supervised`'s.
    """

    asks: ClassVar[str] = "images"
    batches = True

    def __init__(
        self,
        name: str = "local-collision",
        scope: Literal["local", "global"] = "local",
        target: Literal["live", "frozen"] = "live",
        layers: int | list[int] | str = "auto",
        lr: float | Literal["search"] = "search",
        lr_grid: list[float] | None = None,
        max_epochs: int = 10000,
        check_every: int = 10,
        select: Select = "search",
        max_drop: float | None = None,
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        batch_size: int | None = None,
    ) -> None:
        self.name, self.scope, self.target, self.layers = name, scope, target, layers
        self.training = Training(
            lrs=learning_rates(lr, lr_grid),
            epochs=max_epochs,
            check_every=check_every,
            select=select,
            max_drop=max_drop,
            momentum=momentum,
            weight_decay=weight_decay,
            batch_size=batch_size,
        )

    def auto_layers(self, n_layers: int) -> list[int]:
        """The middle block: the paper tries them all."""
        return [n_layers // 2]

    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State:
        layer = one_layer(self.name, layers)
        local = self.scope == "local"
        names = model.parameter_names([layer]) if local else model.parameters_between(None, layer)
        return State((layer,), work.seed, {}, tuple(names))

    def edit_each(self, model: Classifier, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]

    def edit(self, model: Classifier, requests: Sequence[Request], state: State) -> Edit:
        names = tuple(state.changes(model))
        spine, end = model.spine(model.first_of(names)), model.block_of(state.layers[0]).end
        pairs = pairs_of(model, [r.x for r in requests])
        train = Asked(entered(model, spine, pairs.edited), pairs.labels)
        clean = entered(model, spine, pairs.clean)
        chosen = selection(model, spine, requests, pairs, self.training)
        with torch.no_grad():
            parts = [spine.leave(clean.take(s), until=end) for s in spans(len(pairs), model.batch_size)]
            still = torch.cat(parts) if self.target == "frozen" else None

        def loss(rows: Rows) -> Tensor:
            if still is not None:
                return mse_loss(spine.leave(train.branch.take(rows), until=end).float(), still[rows].float())
            both = spine.leave(Branch.cat([train.branch.take(rows), clean.take(rows)]), until=end).float()
            edited, unedited = both.chunk(2)
            return mse_loss(edited, unedited)

        generator = generator_for(state.given, requests)
        fit = search(model, Objective(spine, names, loss, train), chosen, self.training, generator)
        return as_edit(model, requests, state, fit, self.training)
