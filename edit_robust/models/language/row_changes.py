"""Changes that the rows of a batch have of their own: the weights stay as they are, and each projection adds what the
row's own change would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from edit_robust.core import Layer, LowRank
from edit_robust.core.delta import Term
from edit_robust.models.language.hooks import hooked


class RowChanges:
    """Rows belong to the changes in equal numbers: those of the first, then those of the second, and so on.

    layers: projections by name.   changes: terms by the projection's name, in place of which the weights would change.
    """

    def __init__(self, layers: Mapping[str, Layer], changes: Sequence[Mapping[str, Term]]) -> None:
        self.changes = changes
        self.layers = {n: layers[n] for n in dict.fromkeys(n for change in changes for n in change)}

    def on(self, batch: Sequence[int], rows: int) -> AbstractContextManager[None]:
        """Inside the block each row runs under its own change. batch: numbers of the rows that run, of so many.

        Raises ValueError for rows that cannot be shared out evenly.
        """
        share, over = divmod(rows, len(self.changes))
        if over:
            raise ValueError(f"{rows} rows cannot belong to {len(self.changes)} changes in equal numbers")
        places: dict[int, list[int]] = {}
        for place, row in enumerate(batch):
            places.setdefault(row // share, []).append(place)
        return hooked(*(x.module.register_forward_hook(self._hook(n, places)) for n, x in self.layers.items()))

    def _hook(self, name: str, places: Mapping[int, Sequence[int]]) -> Any:
        device = self.layers[name].weight.device
        terms = {i: c[name].on(device) for i, c in enumerate(self.changes) if name in c and i in places}
        rows = sum(map(len, places.values()))

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            x, y = args[0].reshape(rows, -1, args[0].shape[-1]), output.reshape(rows, -1, output.shape[-1]).clone()
            for i, term in terms.items():  # some families flatten the tokens of a batch
                y[places[i]] += _through(term, x[places[i]]).to(y)
            return y.reshape(output.shape)

        return hook


def _through(term: Term, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
    if isinstance(term, LowRank):
        return (x.to(term.v) @ term.v) @ term.u.T
    return x.to(term.m) @ term.m.T
