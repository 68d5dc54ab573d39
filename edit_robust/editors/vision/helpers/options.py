"""How weights are trained, as options say it, with the defaults of arXiv 2303.00046, appendix D.2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edit_robust.core import UserError
from edit_robust.editors.base import check_numbers

#: Images that learning rates and steps are chosen by.
Select = Literal["search", "validation", "train", "none"]
Optimizer = Literal["sgd", "adam", "paint"]
GRID = tuple(10.0**e for e in range(-5, 3))  # 1e-5 .. 100


@dataclass(frozen=True)
class Training:
    """How weights are trained and which of them are kept.

    lrs: learning rates to choose among.   epochs: passes over the pairs, at most.   check_every: steps between two
    measurements of the accuracy by which weights are chosen.   select: images of that accuracy: `search` (a split of
    their own), `validation` (the reported images, as in the paper), `train`, or `none` (the last weights are kept).
    max_drop: prefer weights that cost the clean images at most this accuracy.
    patience: steps, after those of warm-up, after which a learning rate is given up when its accuracy of selection has
    got no better; None: it goes on to the last epoch, as in the paper.
    optimizer: sgd | adam | paint (AdamW with linear warm-up, cosine and clipping: mlfoundations/patching).
    """

    lrs: tuple[float, ...]
    epochs: int
    check_every: int = 10
    select: Select = "search"
    max_drop: float | None = None
    patience: int | None = None
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int | None = None
    warmup: int = 500

    def __post_init__(self) -> None:
        whole = {"max_epochs": self.epochs, "check_every": self.check_every}
        rest = {"momentum": self.momentum, "weight_decay": self.weight_decay, "warmup": self.warmup}
        if self.max_drop is not None:
            rest["max_drop"] = self.max_drop
        if self.batch_size is not None:
            whole["batch_size"] = self.batch_size
        if self.patience is not None:
            whole["patience"] = self.patience
        check_numbers({**{k: float(v) for k, v in whole.items()}}, rest)
        if self.select == "none" and len(self.lrs) > 1:
            raise UserError("editor.select=none keeps the last weights: it needs one editor.lr, not a search")

    def given_up(self, step: int, best: int) -> bool:
        """Whether to go no further at a step, when the best weights are those of the step `best`.

        Steps of warm-up do not count: their learning rates are not yet the one that is tried.
        """
        if self.patience is None or self.select == "none":
            return False
        warm = self.warmup if self.optimizer == "paint" else 0
        return step - max(best, warm) >= self.patience

    @property
    def title(self) -> str:
        """What is done, for a progress bar."""
        return f"training with {len(self.lrs)} learning rates" if len(self.lrs) > 1 else "training"


def learning_rates(lr: float | str, grid: Sequence[float] | None) -> tuple[float, ...]:
    """The rates to try: one, or the grid (null: the paper's, 1e-5 to 100)."""
    found = tuple(GRID if grid is None else grid) if isinstance(lr, str) else (lr,)
    if not found or not all(x > 0 and math.isfinite(x) for x in found):
        raise UserError(f"editor.lr={lr}, editor.lr_grid={grid}: learning rates must be numbers above 0")
    return tuple(float(x) for x in found)
