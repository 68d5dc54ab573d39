"""How long a plan takes: as long as a finished run like it took, else its arithmetic at this machine's speed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_robust.estimate.costs import FULL
from edit_robust.estimate.plan import CONTEXTS, QUESTIONS, TAIL, TOKENS, Plan
from edit_robust.runs.reader import Run, list_runs

#: Share of a matrix product's speed that the passes reach, below and from a width of 512 on (README: 31 % of the small
#: model's peak, 63 % at GPT2-XL's width).
REACHED, WIDE = (0.31, 0.63), 512


@dataclass(frozen=True)
class Speed:
    """flops: operations a second of a large matrix product in float32.   bandwidth: bytes a second read from memory.

    about: of what machine.
    """

    flops: float
    bandwidth: float
    about: str

    @classmethod
    def here(cls) -> Speed:
        """Of this machine now, measured in about a second: a product of 1024 x 1024, and the sum of 256 MB."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        a, b = (torch.ones(1024, 1024, device=device) for _ in range(2))
        big = torch.ones(1 << 25, dtype=torch.float64, device=device)

        def best(work: Any) -> float:
            times = []
            for _ in range(4):
                start = time.perf_counter()
                work()
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            return min(times)

        name = torch.cuda.get_device_name(0) if device == "cuda" else f"{torch.get_num_threads()} threads"
        return cls(2 * 1024**3 / best(lambda: a @ b), big.nbytes / best(big.sum), f"this machine ({name})")


@dataclass(frozen=True)
class Stretch:
    """what: in words.   seconds: None where nothing is known.   how: from what."""

    what: str
    seconds: float | None
    how: str


def like(values: Mapping[str, Any], outputs: Path) -> Run | None:
    """The newest complete run of the same editor, model, layer, task, trajectory and corruptions; None without one."""

    def parts(config: Mapping[str, Any]) -> tuple[str, ...]:
        named = [str((config.get(p) or {}).get("name")) for p in ("editor", "model", "task", "trajectory")]
        shifts = ",".join(sorted(k for k, v in (config.get("corruption") or {}).items() if v is not None))
        return (
            *named,
            str((config.get("model") or {}).get("path")),
            str((config.get("layer") or {}).get("index")),
            shifts,
        )

    wanted = parts(values)
    fitting = [r for r in list_runs(outputs) if r.complete and parts(r.config) == wanted and r.summary.get("n_edits")]
    return fitting[-1] if fitting else None


def from_run(plan: Plan, run: Run) -> list[Stretch]:
    """Seconds an edit of a finished run, times the edits; looking back grows with their square."""
    told, n = run.summary, float(run.summary["n_edits"])
    more = (plan.n or n) / n
    seconds = {
        k.removeprefix("seconds_"): float(v) for k, v in told.items() if k.startswith("seconds_") and v is not None
    }
    each = {"edit": more, "evaluate": more}
    return [
        Stretch(
            f"{name}ing" if name == "edit" else {"evaluate": "measuring"}.get(name, name),
            took * each.get(name, 1.0),
            f"{took / n:.3g} s an edit in {run.id}" if name in each else f"as in {run.id}",
        )
        for name, took in seconds.items()
        if name in ("load", "prepare", "edit", "evaluate")
    ]


def from_arithmetic(plan: Plan, values: Mapping[str, Any], speed: Speed) -> list[Stretch]:
    """Operations over the speed that passes reach; what depends on when training ends is not known."""
    sizes, n = plan.sizes, plan.n
    width = max(d for d, _ in plan.edited)
    flops = speed.flops * REACHED[width >= WIDE]
    passes = lambda tokens: 2.0 * sizes.parameters * tokens / flops  # noqa: E731
    if sizes.image:
        return [Stretch("editing and measuring", None, "no finished run like it; images' passes are not counted")]
    found = []
    if plan.moments:
        found.append(
            Stretch(
                "second moments, once", _moments(plan, values, flops, speed), "passes over the corpus, C and its factor"
            )
        )
    if n is None:
        return [*found, Stretch("editing", None, "how many edits the data gives is not known")]
    above = max(sizes.n_layers - max(plan.at), 1) / sizes.n_layers
    if plan.values:
        one = 3 * passes(CONTEXTS * TAIL) * above * plan.values
        one += sum(8.0 * f * f for _, f in plan.edited) / speed.bandwidth
        found.append(
            Stretch("editing", n * one, f"{plan.values} steps in {CONTEXTS} contexts, the blocks above; solves")
        )
    elif plan.steps:
        found.append(Stretch("editing", n * 3 * passes(TOKENS) * plan.steps, f"{plan.steps} steps of one sequence"))
    else:
        found.append(Stretch("editing", None, "no finished run like it"))
    asked = float(QUESTIONS * n)
    if plan.sequence:
        asked += n * n / (2.0 * plan.every) + QUESTIONS * n * (FULL + 1) / 2
    looks = 1 + n / plan.every
    from_there = (sizes.n_layers - min(plan.at)) / sizes.n_layers  # what lies below was computed once
    measuring = passes(2 * TOKENS * asked) * from_there + passes(float(values.get("text_tokens") or 0) * looks)
    found.append(Stretch("measuring", measuring, f"{asked:,.0f} questions, perplexity {looks:,.0f} times"))
    return found


def _moments(plan: Plan, values: Mapping[str, Any], flops: float, speed: Speed) -> float:
    """Passes up to the last edited block over so many documents, their keys' products, and Cholesky factors."""
    editor = values["editor"]
    documents = float(editor.get("mom2_n_samples") or 0)
    tokens = documents * float(editor.get("mom2_max_tokens") or min(1024, 100))
    below = (max(plan.at) + 1) / plan.sizes.n_layers
    squares = sum(float(f) ** 2 for _, f in plan.edited)
    cubes = sum(float(f) ** 3 for _, f in plan.edited)
    return (
        2 * plan.sizes.parameters * below * tokens / flops
        + 2 * squares * tokens / flops
        + cubes / 3 / (speed.flops / 2)
    )
