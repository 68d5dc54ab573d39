"""The solves of MEMIT's family at d = 2048, through factors that are made once, against the formulas as they stand.

The dense solve in float64 is what the public implementations do at every edit. Factoring C, once a run, counts in
neither; keys of past edits are there in the rows that say so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from bench_rows import Row, shown
from torch import Tensor

from edit_robust.editors.language.helpers.moments import Inverse
from edit_robust.editors.language.helpers.past import Identity, Past
from edit_robust.editors.language.helpers.solves import (
    alphaedit_dense,
    emmet_dense,
    emmet_factored,
    memit_dense,
    memit_factored,
)

FLOOR = 5.0


def solve_rows(d: int = 2048, n: int = 4, past: int = 64, times: int = 5) -> Iterator[Row]:
    """A row a method: n keys of d, solved `times` times."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2 * d, d, generator=g, dtype=torch.float64)
    moment = x.T @ x / len(x)
    inverse = Inverse.of(moment)
    k, old = (torch.randn(d, m, generator=g, dtype=torch.float64) for m in (n, past))
    basis = torch.linalg.eigh(moment)[1][:, : d // 2]
    space = Past(Identity(10.0, d // 2, k.device), "layer", k.device, basis)
    pieces = [{"layer": old.T.float()}]
    kept = old.float().double()
    held, projector, inside = kept @ kept.T, basis @ basis.T, basis.T @ k
    space.grown(pieces, inside)  # made along with the edits before
    pairs: tuple[tuple[str, Callable[[], Tensor], Callable[[], Tensor]], ...] = (
        ("MEMIT", lambda: memit_dense(moment, k, 20.0), lambda: memit_factored(inverse, k, 20.0)),
        ("EMMET", lambda: emmet_dense(moment, k, 20.0, 0.1), lambda: emmet_factored(inverse, k, 20.0, 0.1)),
        (
            f"AlphaEdit, {past} past keys",
            lambda: alphaedit_dense(projector, k, 10.0, held),
            lambda: basis @ space.solve(pieces, inside),
        ),
    )
    for name, dense, factored in pairs:
        before, there = _timed(dense, times)
        here, found = _timed(factored, times)
        off = float((found - there).norm() / there.norm())
        equal = f"relative difference {off:.0e}"
        yield Row(f"solve of {name}, d = {d}", n, before, here, before / here, FLOOR, equal, off > 1e-9)


def _timed(action: Callable[[], Tensor], times: int) -> tuple[float, Tensor]:
    """Seconds of the processor for one call, and what it gives; the first call does not count."""
    import time

    found = action()
    start = time.process_time()
    for _ in range(times):
        found = action()
    return (time.process_time() - start) / times, found


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    raise SystemExit(shown(list(solve_rows()), 1, "otherwise: the dense solve in float64"))
