"""How much faster the fast paths are than the plain ones: both measured in one run, on the same requests.

The plain path runs the whole network, one sequence at a time for questions, and every position and the whole
vocabulary at each step of the value optimisation. By default on the built-in model; `--golden FOLDER` takes a folder
with a model, requests.json, contexts.json and second_moment.npz.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from edit_robust.core import Example, Scores
from edit_robust.core.data import TextRequest
from edit_robust.core.work import Workspace
from edit_robust.editors.base import State
from edit_robust.editors.language.helpers.contexts import ROME_RECIPE, context_templates, flatten
from edit_robust.editors.language.helpers.values import optimise_values
from edit_robust.editors.language.rome import Rome
from edit_robust.evaluate.statistics.success import accuracy, success
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.fact_world import FactWorldTask
from edit_robust.tasks.language.questions import ask

CONSOLE = Console(highlight=False)


@dataclass(frozen=True)
class World:
    """A model and requests for it. `options` are the editor's."""

    model: CausalLM
    requests: list[TextRequest]
    options: Mapping[str, object]
    task: object


def golden(folder: Path, n: int) -> World:
    """The folder's requests, made n different ones by putting sampled contexts in front of their prompts."""
    contexts = json.loads((folder / "contexts.json").read_text())["rome"]
    task = Counterfact(path=str(folder / "requests.json"))
    base = task.requests()
    requests = []
    for i in range(n):
        r, context = base[i % len(base)], contexts[i // len(base)]
        requests.append(
            replace(
                r,
                id=f"{r.id}.{i}",
                x=context.replace("{}", str(r.x), 1),
                paraphrases=tuple(context.replace("{}", p) for p in r.paraphrases),
                neighbours=tuple((context.replace("{}", p), answer) for p, answer in r.neighbours),
            )
        )
    options = {"context_templates": str(folder / "contexts.json"), "mom2": str(folder / "second_moment.npz")}
    return World(CausalLM(str(folder / "model")), requests, options, task)


def built_in(n: int) -> World:
    """The shipped model and its world."""
    task = FactWorldTask(n_requests=n)
    return World(CausalLM("builtin:fact-gpt"), task.requests(), {"mom2_n_samples": 800}, task)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def value_optimisation(world: World, layer: int, templates: list[str], n: int) -> tuple[float, float, str]:
    """Plain and fast seconds for n value optimisations, alternating, and how far the values differ."""
    model, name = world.model, world.model.layer_at(layer).name
    options = {"lr": 0.5, "steps": 20, "weight_decay": 0.5, "clamp": 4.0, "kl_factor": 0.0625}
    times: dict[bool, list[float]] = {True: [], False: []}
    worst = 0.0
    for i, r in enumerate(world.requests[: n + 1]):
        values = {}
        for plain in (True, False):
            start = time.perf_counter()
            values[plain] = optimise_values(model, name, "mlp", [r], templates, plain=plain, **options)  # type: ignore[arg-type]
            if i:  # the first request warms up
                times[plain].append(time.perf_counter() - start)
        gap = (values[True].value - values[False].value).norm() / values[True].value.norm()
        worst = max(worst, float(gap))
    return sum(times[True]), sum(times[False]), f"relative difference of the values at most {worst:.0e}"


def examples_of(requests: Sequence[TextRequest]) -> list[Example]:
    return [e for p in ask(requests) for e in p.examples]


def compare(plain: Scores, fast: Scores) -> str:
    gap = float(np.nanmax(np.abs(plain.logp - fast.logp)))
    flips = int((success(plain) != success(fast)).sum() + (accuracy(plain) != accuracy(fast)).sum())
    return f"|d log p| at most {gap:.0e}, {flips} booleans differ"


def evaluation(world: World, layer: int) -> tuple[float, float, str]:
    """All questions of all requests: one at a time, and by the fast path with its cache ready, as in a run."""
    model, examples = world.model, examples_of(world.requests)
    scorer = model.scorer(examples, model.parameter_names([model.layer_at(layer).name]))
    scorer.score(range(50))
    fast_scores, plain_scores = [], []
    fast = statistics.median(seconds(lambda: fast_scores.append(scorer.score())) for _ in range(3))
    model.fast = False
    plain_scorer = model.scorer(examples)
    plain = seconds(lambda: plain_scores.append(plain_scorer.score()))
    model.fast = True
    return plain, fast, compare(plain_scores[0], fast_scores[0])


def sequence(world: World, layer: int, n: int, every: int) -> tuple[float, float, str]:
    """A sequential run of n edits, each asked right after it was made, all past ones every `every` edits."""
    last: dict[bool, Scores] = {}
    spent = dict.fromkeys((False, True), 0.0)
    for fast in (False, True):
        model = world.model
        model.fast = fast
        name = model.layer_at(layer).name
        editor = Rome(**world.options)  # type: ignore[arg-type]
        work = Workspace(Path("outputs/cache"), None, 0)
        state: State = editor.prepare(model, [name], world.task, work)  # type: ignore[arg-type]
        requests = world.requests[:n]
        examples = examples_of(requests)
        place = {r.id: i for i, r in enumerate(requests)}
        mine: list[list[int]] = [[] for _ in requests]
        for row, e in enumerate(examples):
            mine[place[e.group]].append(row)
        start = time.perf_counter()
        scorer = model.scorer(examples, model.parameter_names([name]))
        with model.held(model.parameter_names([name])):
            for i, r in enumerate(requests):
                model.add(editor.edit(model, [r], state).delta)
                scorer.score(mine[i])
                if (i + 1) % every == 0:
                    last[fast] = scorer.score([row for rows in mine[: i + 1] for row in rows])
        spent[fast] = time.perf_counter() - start
        CONSOLE.print(f"  {'fast' if fast else 'plain'} path: {spent[fast]:.1f} s", style="dim")
    world.model.fast = True
    agree = float((success(last[False]) == success(last[True])).mean())
    return spent[False], spent[True], f"{100 * agree:.2f} % of the last check's booleans agree"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, default=Path("../shared/golden"), help="used when it is there")
    parser.add_argument("--edits", type=int, default=200, help="edits of the sequential run")
    parser.add_argument("--past", type=int, default=300, help="requests of the evaluation")
    parser.add_argument("--values", type=int, default=8, help="value optimisations a layer")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the plain path gains more from many")
    parser.add_argument("--skip-sequence", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n = max(args.edits, args.past)
    world = golden(args.golden, n) if (args.golden / "model").is_dir() else built_in(n)
    model = world.model
    editor_templates = context_templates(
        model, str(world.options.get("context_templates", "sampled")), ("rome",), ROME_RECIPE, Workspace(Path())
    )
    templates = flatten(editor_templates)
    late = model.n_layers - 2
    CONSOLE.print(f"{model.name}: {model.n_layers} layers x {model.hidden_size}, {torch.get_num_threads()} threads")
    table = Table("what", "plain", "fast", "ratio", "asked for", "equal?", box=None)

    def row(what: str, measured: tuple[float, float, str], asked: str) -> None:
        plain, fast, equal = measured
        table.add_row(what, f"{plain:.2f} s", f"{fast:.2f} s", f"{plain / fast:.1f} x", asked, equal)
        CONSOLE.print(f"{what}: {plain / fast:.1f} x")

    with_contexts = f"{args.values} value optimisations, {len(templates)} contexts"
    row(f"{with_contexts}, layer 0", value_optimisation(world, 0, templates, args.values), "2.5 x")
    row(f"{with_contexts}, layer {late}", value_optimisation(world, late, templates, args.values), "4 x")
    world_past = World(model, world.requests[: args.past], world.options, world.task)
    row(f"questions about {args.past} past requests", evaluation(world_past, 0), "8 x")
    if not args.skip_sequence:
        what = f"{args.edits} edits in a row, all past asked every 10"
        row(what, sequence(world, 0, args.edits, 10), "5 x")
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
