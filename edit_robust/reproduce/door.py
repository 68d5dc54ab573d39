"""From the command line of `edit-robust reproduce` to figures on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from edit_robust.core.errors import UserError, nearest
from edit_robust.core.threads import prepare_environment
from edit_robust.messages import exit_code
from edit_robust.reproduce import words
from edit_robust.reproduce.catalogue import PAPER, SCALES, chosen, items
from edit_robust.reproduce.drawing import draw
from edit_robust.reproduce.making import examine, made, make, make_jobs, say_on_stderr
from edit_robust.reproduce.needs import needs
from edit_robust.reproduce.page import pages
from edit_robust.reproduce.plan import Plan, note_plan, part_of, union


@dataclass(frozen=True)
class Wish:
    """What the command line says; see `verbs/reproduce.py`. names: papers and figures, then options of the runs."""

    names: tuple[str, ...]
    quick: bool = False
    scale: str = SCALES[0]
    part: str | None = None
    go: bool = False
    draw_only: bool = False
    data: str = "data"
    tflops: float = 10.0
    outputs: Path = Path("outputs")

    def plans(self) -> list[Plan]:
        """How each item is to be made. Raises UserError for what there is not."""
        if self.scale not in SCALES:
            raise UserError(f"--scale {self.scale}: {nearest(self.scale, SCALES, 'scales')}")
        wanted = [name for name in self.names if not _is_option(name)]
        given = tuple(name for name in self.names if _is_option(name))
        if not wanted:
            raise UserError("say what to reproduce: PAPER, PAPER/FIGURE or all (`edit-robust reproduce --list`)")
        for option in given:
            if option.startswith(("experiment=", "paths.outputs=", "hydra.mode=")):
                raise UserError(f"{option} cannot be given here: the figure says which experiment, --outputs where")
        if self.quick and self.scale == PAPER:
            raise UserError("--quick is of the built-in scale; of the paper's take a part: --part 1/16")
        return [Plan(item, self.scale, self.quick, given, self.data) for item in chosen(wanted)]


def _is_option(text: str) -> bool:
    """Whether a word of the command line is an option of runs: `task.order=0`, `~measure.text-shifts`."""
    return "=" in text or text[:1] in ("~", "+")


def show_list(names: Sequence[str], outputs: Path) -> None:
    """Print the catalogue, or the part of it that the names mean."""
    some = chosen(names) if names else list(items())
    console = Console(highlight=False)
    console.print(words.listing(some, outputs))
    console.print(words.listing_note(some), style="dim")


def fulfil(wish: Wish) -> int:
    """Make what was wished for; gives back the exit code."""
    plans = wish.plans()
    prepare_environment()
    console = Console(highlight=False)
    failures: list[BaseException] = []
    if not wish.draw_only:
        if wish.scale == PAPER and not _may_start(wish, plans, console):
            return 0
        for plan in plans:  # what they are to be made of: `--list` tells how far they are
            note_plan(wish.outputs, plan)
        if wish.part is not None:
            failures = make_jobs(part_of(union(plans), wish.part), wish.outputs, say_on_stderr)
        else:
            failures = make(plans, wish.outputs, say_on_stderr)
        examine(plans, wish.outputs, say_on_stderr)
    show(plans, wish.outputs, console)
    return exit_code(failures[0]) if failures else 0


def _may_start(wish: Wish, plans: Sequence[Plan], console: Console) -> bool:
    """Print what the paper's own grid needs; whether it is to be started.

    Raises UserError where it is to be started and something is missing.
    """
    jobs = union(plans)
    jobs = jobs if wish.part is None else part_of(jobs, wish.part)
    found = needs(jobs, wish.outputs, wish.tflops)
    for line in words.needs_lines(found, len(jobs), wish.tflops):
        console.print(line, soft_wrap=True)
    console.print(words.things_table(found.things))
    missing = words.lacking(found)
    for line in missing:
        console.print(f"Missing: {line}", soft_wrap=True, markup=False)
    if not wish.go:
        console.print("Nothing was started: --go starts it" + (" once nothing is missing." if missing else "."))
        return False
    if missing:
        raise UserError(f"not started: {'; '.join(missing)}")
    return True


def show(plans: Sequence[Plan], outputs: Path, console: Console) -> None:
    """Draw every item that has runs, write the pages, and say where they are."""
    for plan in plans:
        found = made(plan, outputs)
        if not found.runs:
            console.print(f"{plan.item.place}: none of its {found.missing} runs is complete: not drawn")
            note_plan(outputs, plan)
            continue
        written = draw(found, outputs)
        note_plan(outputs, plan, written)
        shown = ", ".join(str(path) for path in written) or "its runs have no numbers for it"
        console.print(f"{plan.item.place}: {shown}", soft_wrap=True)
    for path in pages(plans, outputs):
        console.print(path, soft_wrap=True)
