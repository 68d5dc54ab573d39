"""The rows of the benchmark: what is measured, against what, what must be equal, and how fast it has to be."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_reference import ReferenceRome
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edit_robust.core import Example
from edit_robust.core.data import TextRequest
from edit_robust.core.work import Workspace
from edit_robust.editors.language.helpers.values import Options, optimise_values
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.questions import ask
from edit_robust.trajectories import Sequential

CONSOLE = Console(highlight=False)
OPTIONS: Options = {
    "lr": 0.5, "steps": 20, "weight_decay": 0.5, "clamp": 4.0, "kl_factor": 0.0625, "plain": None,
}  # fmt: skip
NUMBERS: Mapping[str, float] = {k: float(v) for k, v in OPTIONS.items() if isinstance(v, float | int)}


@dataclass(frozen=True)
class Row:
    """what: and on how much.  before, here: seconds, or None for `before` where the row is a share of the peak.

    ratio: how many times as fast, or the share.   floor: what it must reach.   equal: in words; wrong: where it is not.
    """

    what: str
    n: int
    before: float | None
    here: float
    ratio: float
    floor: float
    equal: str
    wrong: bool = False


@dataclass(frozen=True)
class World:
    """A model, n different requests, and where C and the context templates lie."""

    folder: Path
    model: CausalLM
    requests: list[TextRequest]
    templates: list[str]

    @staticmethod
    def of(folder: Path, n: int) -> World:
        """Requests become n different ones by putting sampled contexts in front of their prompts."""
        contexts = json.loads((folder / "contexts.json").read_text())["rome"]
        base = Counterfact(path=str(folder / "requests.json")).requests()
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
        return World(folder, CausalLM(str(folder / "model"), device="cpu"), requests, contexts)

    @cached_property
    def plain(self) -> CausalLM:
        """The model with its network as transformers loads it."""
        return CausalLM(str(self.folder / "model"), device="cpu", fast=False)

    def reference(self, layer: int) -> ReferenceRome:
        return ReferenceRome(self.plain.net, self.model.text, self.model.layer_at(layer).name)


def seconds(action: Callable[[], Any]) -> float:
    """Of the processor with one thread, of the clock with several."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    action()
    return clock() - start


def apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def measure(folder: Path, args: Namespace) -> list[Row]:
    """All rows, or those of `args.only`."""
    world = World.of(folder, max(args.edits, args.past, args.values + 1))
    late = world.model.n_layers - 2
    size = f"{world.model.n_layers} x {world.model.hidden_size}"
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "values": lambda: (r for i in (0, late) for r in value_rows(world, i, args.values, size)),
        "questions": lambda: question_rows(world, args.past),
        "sequence": lambda: sequence_rows(world, args.edits),
        "wide": lambda: wide_rows(world),
    }
    rows = []
    for name, part in parts.items():
        if not args.only or name in args.only:
            for row in part():
                CONSOLE.print(f"[dim]{row.what}: {row.ratio:.2f}[/dim]")
                rows.append(row)
    return rows


# -- value optimisation ------------------------------------------------------------------------------------------------


def value_rows(world: World, layer: int, n: int, size: str) -> Iterator[Row]:
    """ROME's value optimisation with all context templates: seconds against the reference's way, and of the peak."""
    model, reference = world.model, world.reference(layer)
    name = model.layer_at(layer).name
    before = here = worst = 0.0
    for i, r in enumerate(world.requests[: n + 1]):
        found: dict[str, Tensor] = {}

        def ours(r: TextRequest = r, found: dict[str, Tensor] = found) -> None:
            found["here"] = optimise_values(model, name, "mlp", [r], world.templates, **OPTIONS).value[0]

        def theirs(r: TextRequest = r, found: dict[str, Tensor] = found) -> None:
            found["before"] = reference.value(r, world.templates, NUMBERS)[0]

        spent = seconds(theirs), seconds(ours)
        worst = max(worst, apart(found["here"], found["before"]))
        if i:  # the first request warms up
            before, here = before + spent[0], here + spent[1]
    what = f"value optimisation, {len(world.templates)} contexts, layer {layer} of {size}"
    floor = 3.0 if layer == 0 else 6.0
    yield Row(what, n, before, here, before / here, floor, f"values to {worst:.0e} (1e-3 allowed)", worst > 1e-3)
    some = world.requests[1 : n + 1]
    work = flops(model, lambda: [optimise_values(model, name, "mlp", [r], world.templates, **OPTIONS) for r in some])
    yield peak_row(f"... share of the GEMM peak, layer {layer}", n, work, here, model.hidden_size, 0.12)


def flops(model: CausalLM, action: Callable[[], Any]) -> float:
    """Of the products of matrices in it, counted while it runs."""
    with FlopCounterMode(display=False) as counter:
        action()
    return float(counter.get_total_flops())


def peak_row(what: str, n: int, work: float, spent: float, width: int, floor: float) -> Row:
    share = work / spent / peak(width)
    return Row(what, n, None, spent, share, floor, f"{work / spent / 1e9:.0f} of {peak(width) / 1e9:.0f} GFLOP/s")


def peak(width: int) -> float:
    """The most FLOP a second that a product of [tokens, width] and [width, 4 width] reaches here."""
    if width not in _peaks:
        best = 0.0
        for tokens in (64, 128, 512):
            a, b = torch.randn(tokens, width), torch.randn(width, 4 * width)
            once = 2.0 * tokens * width * 4 * width
            times = max(3, int(2e9 / once))

            def go(a: Tensor = a, b: Tensor = b, times: int = times) -> None:
                for _ in range(times):
                    a @ b

            go()
            best = max(best, times * once / min(seconds(go) for _ in range(5)))
        _peaks[width] = best
    return _peaks[width]


_peaks: dict[int, float] = {}


def wide_rows(world: World) -> Iterator[Row]:
    """The value optimisation at GPT2-XL's width, in a random model of three layers."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=1600, n_layer=3, n_head=25, n_positions=256)
    net = transformers.AutoModelForCausalLM.from_config(config)
    model = CausalLM(net=net, tokenizer=world.model.text.tokenizer, name="random")
    name = model.layer_at(0).name
    reference = ReferenceRome(model.net, model.text, name)
    r = world.requests[0]
    found: list[Any] = []
    options: Options = {**OPTIONS, "steps": 5}
    go: Callable[[], Any] = lambda: found.append(optimise_values(model, name, "mlp", [r], world.templates, **options))  # noqa: E731
    work = flops(model, go)
    here = seconds(go)
    wanted: list[Tensor] = []
    before = seconds(lambda: wanted.append(reference.value(r, world.templates, {**NUMBERS, "steps": 5})[0]))
    gap = apart(found[-1].value[0], wanted[0])
    what = "5 steps of it at GPT2-XL's width (random, 3 x 1600), layer 0"
    yield Row(what, 1, before, here, before / here, 2.0, f"values to {gap:.0e} (1e-3 allowed)", gap > 1e-3)
    yield peak_row("... share of the GEMM peak", 1, work, here, model.hidden_size, 0.5)


# -- questions ---------------------------------------------------------------------------------------------------------


def by_record(requests: Sequence[TextRequest]) -> list[list[Example]]:
    """All questions of each request: its own, paraphrases, neighbours."""
    found: dict[str, list[Example]] = {r.id: [] for r in requests}
    for probe in ask(requests):
        for e in probe.examples:
            found[e.group].append(e)
    return list(found.values())


def question_rows(world: World, n: int) -> Iterator[Row]:
    """All questions about n past requests, after an edit at layer 0, with what it cannot change kept, as in a run."""
    model, reference = world.model, world.reference(0)
    records = by_record(world.requests[:n])
    examples = [e for record in records for e in record]
    scorer = model.scorer(examples, model.parameter_names([model.layer_at(0).name]))
    scorer.score(range(min(50, len(examples))))
    mine = scorer.score().logp
    wanted: list[list[float]] = []
    before = seconds(lambda: wanted.extend(row for record in records for row in reference.ask(record)))
    here = min(seconds(scorer.score) for _ in range(3))
    equal, wrong = same_answers(mine, np.array(wanted))
    yield Row(f"{len(examples)} questions about past requests", n, before, here, before / here, 4.0, equal, wrong)
    work = flops(model, scorer.score)
    yield peak_row("... share of the GEMM peak", n, work, here, model.hidden_size, 0.4)


def same_answers(mine: np.ndarray, wanted: np.ndarray, close: float = 1e-4) -> tuple[str, bool]:
    """In words, and whether they differ: log-probabilities, and which choice is likelier where they are not close."""
    gap = float(np.nanmax(np.abs(mine - wanted)))
    flips = int(((mine[:, 0] > mine[:, 1]) != (wanted[:, 0] > wanted[:, 1])).sum())
    return f"log p to {gap:.0e} ({close:.0e} allowed), {flips} preferences differ", gap > close or flips > 0


# -- a sequence --------------------------------------------------------------------------------------------------------


def sequence_rows(world: World, n: int) -> Iterator[Row]:
    """n ROME edits in a row, each asked everything at its edit; past ones as a run asks them: their own question every
    10 edits, everything ten times and at the end. Both ways ask the same questions."""
    last: list[np.ndarray] = []
    drift: list[float] = []
    spent = []
    records = by_record(world.requests[:n])
    weight = world.model.layer_at(0).weight_name
    for model, run in ((world.plain, _reference_sequence), (world.model, _our_sequence)):
        with model.held(model.parameter_names([model.layer_at(0).name])):
            before = model.matrix(weight).clone()
            spent.append(seconds(lambda run=run: last.append(run(world, records))))  # type: ignore[misc]
            drift.append(float((model.matrix(weight) - before).norm()))
        CONSOLE.print(f"[dim]{run.__name__.strip('_')}: {spent[-1]:.1f} s[/dim]")
    agree = float(((last[0][:, 0] > last[0][:, 1]) == (last[1][:, 0] > last[1][:, 1])).mean())
    moved = abs(drift[1] / drift[0] - 1)
    equal = f"{100 * agree:.2f} % of the last preferences (99 allowed), drift to {moved:.0e} (1e-2 allowed)"
    what = f"{n} edits in a row, past ones asked as in a run"
    yield Row(what, n, spent[0], spent[1], spent[0] / spent[1], 3.5, equal, agree < 0.99 or moved > 1e-2)


def _checks(n: int) -> Iterator[tuple[int, bool]]:
    """(edits made, whether past ones are asked everything) for every edit; False: their own question; see the walk."""
    walk = Sequential()
    every, full = walk.every, walk.full_every(n)
    for done in range(1, n + 1):
        yield done, done % full == 0 or done == n
    assert every <= full


def _reference_sequence(world: World, records: list[list[Example]]) -> np.ndarray:
    reference, n, every = world.reference(0), len(records), Sequential().every
    with np.load(world.folder / "second_moment.npz") as held:
        inverse = torch.from_numpy(held["layer0"]).double().inverse()
    answers: list[list[float]] = []
    for done, full in _checks(n):
        reference.edit(world.requests[done - 1], world.templates, inverse, NUMBERS)
        reference.ask(records[done - 1])
        if full or done % every == 0:
            answers = [row for record in records[:done] for row in reference.ask(record if full else record[:1])]
    return np.array(answers)


def _our_sequence(world: World, records: list[list[Example]]) -> np.ndarray:
    model, n, every = world.model, len(records), Sequential().every
    name = model.layer_at(0).name
    editor = Rome(context_templates=str(world.folder / "contexts.json"), mom2=str(world.folder / "second_moment.npz"))
    state = editor.prepare(model, [name], Counterfact(path=str(world.folder / "requests.json")), Workspace(Path()))
    examples = [e for record in records for e in record]
    starts = np.cumsum([0, *(len(record) for record in records)]).tolist()
    scorer = model.scorer(examples, model.parameter_names([name]))
    answers = np.zeros((0, 2))
    for done, full in _checks(n):
        model.add(editor.edit(model, [world.requests[done - 1]], state).delta)
        scorer.score(range(starts[done - 1], starts[done]))
        if full or done % every == 0:
            answers = scorer.score(range(starts[done]) if full else starts[:done]).logp
    return answers


# -- the table ---------------------------------------------------------------------------------------------------------


def shown(rows: Sequence[Row], threads: int, against: str = "the reference's way: one padded batch a record") -> int:
    """Print the table; 1 where something is unequal or too slow, else 0. against: what is compared with, in words."""
    unit = "CPU seconds" if threads == 1 else "seconds"
    title = f"{threads} thread{'s' if threads > 1 else ''}; {unit}; {against}"
    table = Table("what", "n", "otherwise", "here", "ratio", "floor", "equal", title=title, box=None)
    bad = []
    for row in rows:
        share = row.before is None
        ratio, floor = (f"{100 * x:.0f} %" if share else f"{x:.1f} x" for x in (row.ratio, row.floor))
        table.add_row(
            row.what, str(row.n), "" if share else f"{row.before:.2f}", f"{row.here:.2f}", ratio, floor, row.equal
        )
        if row.wrong:
            bad.append(f"{row.what}: the results are not equal: {row.equal}")
        if row.ratio < row.floor:
            bad.append(f"{row.what}: {ratio} is below the floor of {floor}")
    CONSOLE.print(table)
    for line in bad:
        CONSOLE.print(line, style="red")
    return int(bool(bad))
