"""Where in the network a change lies, and of what rank it is, where the editor tells it of every parameter."""

from __future__ import annotations

import re

import pandas as pd

from edit_robust.core.data import Column

#: So many places are named.
PLACES = 3
#: The first part of a parameter's name that ends in a number: its block.
_BLOCK = re.compile(r"^(?:.*?\.)?\d+(?=\.)")


def whereabouts(records: pd.DataFrame) -> list[Column]:
    """Columns of the newest change: its largest rank, and the blocks that hold the most of it; [] where none is told.

    records: all of a run. `change_share` is a parameter's part of ||dW||_F^2, `change_rank` its numerical rank.
    """
    told = records[(records.scope == "at-edit") & (records.layer != "")]
    told = told[told.step == told[told.metric == "change_share"].step.max()].drop_duplicates(["metric", "layer"])
    shares = told[told.metric == "change_share"].set_index("layer").value.astype(float)
    if shares.empty:
        return []
    ranks = told[told.metric == "change_rank"].set_index("layer").value.astype(float)
    found = [Column("n_changed_parameters", len(shares), "parameters that have changed", unit="count")]
    if len(ranks):
        found.append(
            Column("change_rank", int(ranks.max()), "rank of the change, largest of its matrices", unit="count")
        )
    places: dict[str, list[str]] = {}
    for name in shares.index:
        block = _BLOCK.match(name)
        places.setdefault(block[0] if block else name, []).append(name)
    by_size = sorted(places.items(), key=lambda place: -shares[place[1]].sum())
    for i, (place, names) in enumerate(by_size[:PLACES], start=1):
        own = ranks.reindex(names).max()
        note = f"(rank {own:.0f})" if own == own else ""
        where = names[0] if len(names) == 1 else place
        value = 100 * float(shares[names].sum())
        found.append(Column(f"change_place_{i}", value, f"of ‖ΔW‖² in {where}", unit="percent", note=note))
    return found
