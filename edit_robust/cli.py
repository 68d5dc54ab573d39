"""The command line. Imports nothing heavy until a verb needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edit_robust.completion import complete_listed, complete_override
from edit_robust.messages import exit_code, explain
from edit_robust.verbs.apply import apply
from edit_robust.verbs.collect import collect
from edit_robust.verbs.compare import compare
from edit_robust.verbs.doctor import doctor
from edit_robust.verbs.estimate import estimate
from edit_robust.verbs.evaluate import evaluate
from edit_robust.verbs.export import export
from edit_robust.verbs.finding import Names, Outputs, found_runs
from edit_robust.verbs.findings import findings
from edit_robust.verbs.make_pairs import make_pairs
from edit_robust.verbs.report import report
from edit_robust.verbs.reproduce import reproduce

if TYPE_CHECKING:
    from rich.table import Table

    from edit_robust.runs.reader import Run

app = typer.Typer(
    help="Edit a neural network and measure what the edit broke.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # [lists] in docstrings are no markup
)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def run(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="GROUP=CHOICE or GROUP.OPTION=VALUE.", autocompletion=complete_override)
    ] = None,
) -> None:
    """Run an experiment: `edit-robust run editor=rome model=gptj`; -m for a sweep; --help and --cfg job are Hydra's."""
    from edit_robust.config.launch import main as hydra_main

    try:
        failures = hydra_main(overrides or [])
    except KeyboardInterrupt as e:  # Typer would end without a word
        explain(e)
        raise SystemExit(exit_code(e)) from None
    if failures:
        raise SystemExit(exit_code(failures[0]))


@app.command()
def check(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As for `run`.", autocompletion=complete_override)
    ] = None,
) -> None:
    """Check a config without loading a weight: names, types, files."""
    from edit_robust.config.check import check as check_config
    from edit_robust.config.compose import compose, jobs
    from edit_robust.config.identity import run_id

    for job in jobs(overrides or [], multirun=True):
        values = check_config(compose(job))
        parts = ", ".join(
            f"{p} {values[p].get('name') or ''}".strip() for p in ("editor", "model", "task", "trajectory")
        )
        typer.echo(f"ok: {parts}; layer {values['layer']['index']}; run {run_id(values)}")


@app.command()
def ls(
    what: Annotated[
        str,
        typer.Argument(
            help="models, editors, tasks, measures, layers, corruptions, runs, ...", autocompletion=complete_listed
        ),
    ],
    outputs: Outputs = Path("outputs"),
) -> None:
    """List what there is to choose from, or the runs so far."""
    from rich.console import Console
    from rich.table import Table

    from edit_robust.config.compose import choices

    named = ("model", "editor", "guard", "task", "layer", "measure", "corruption", "experiment", "tracker")
    groups = {g + "s": g for g in named}
    groups["trajectories"] = "trajectory"
    console = Console()
    if what == "runs":
        tables = _runs_tables(outputs)
        for runs in tables:
            console.print(runs, "")
        if not tables:
            console.print(f"There are no runs in {outputs / 'runs'} yet.", highlight=False)
        return
    if what not in groups:
        from edit_robust.core.errors import UserError, nearest

        raise UserError(f"there is nothing called {what!r} to list; {nearest(what, [*groups, 'runs'])}")
    table = Table(box=None, pad_edge=False)
    table.add_column(groups[what], style="bold", no_wrap=True)
    table.add_column("")
    needs = _needs_of(groups[what])
    if what == "measures":
        table.add_column("needs")
    for name, about in choices(groups[what]).items():
        table.add_row(name, about, *([needs.get(name, "")] if what == "measures" else []))
    console.print(table)
    if what == "tasks":
        for name, text in needs.items():
            console.print(f"\n[bold]{name}[/bold]\n{text}", highlight=False)


@app.command()
def figure(
    names: Names = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Names of figures; all that apply otherwise.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; outputs/figures otherwise.")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Draw figures of runs as PNG and PDF, several runs overlaid. Without a name: of all complete runs."""
    from edit_robust.figures import RunData, draw_all

    runs = found_runs(names, outputs)
    drawn = draw_all([RunData.of(r) for r in runs], out or outputs / "figures", only)
    if not drawn:
        from edit_robust.core.errors import UserError

        raise UserError("none of the figures can be drawn from these runs")
    for path in drawn:
        typer.echo(path)


@app.command()
def autopsy(
    names: Names = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Say which edit broke the model of a sequential run: a disabling edit, or the last of too many (accumulation).

    The edit is found by replaying the run, and made again alone in the unedited model. Of several runs, where they
    broke over their orders, too. Without a name: of all complete runs whose edits pile up.
    """
    from dataclasses import asdict

    from edit_robust.autopsy import examined, over_groups
    from edit_robust.messages import Ui
    from edit_robust.report.collapse import autopsy_lines, orders_line

    runs = examined(found_runs(names, outputs), Ui().progress, strict=bool(names))
    for run, finding in runs:
        typer.echo(run.id)
        for line in autopsy_lines(finding.to_dict(), int(run.summary.get("n_edits") or 0)):
            typer.echo(f"  {line}")
    for label, found in over_groups([run for run, _ in runs]).items():
        typer.echo(f"{label}: {orders_line(asdict(found))}")


app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(evaluate)
app.command()(collect)
app.command()(make_pairs)
app.command()(export)
app.command()(apply)
app.command()(compare)
app.command()(doctor)
app.command()(report)
app.command(context_settings={"ignore_unknown_options": True})(estimate)
app.command()(findings)
app.command()(reproduce)


def _runs_tables(outputs: Path) -> list[Table]:
    """All runs with their state and the numbers that have a short heading; those with the same numbers in one table."""
    from rich.table import Table

    from edit_robust.report.grid import side_by_side
    from edit_robust.runs.reader import list_runs

    alike: dict[tuple[str, ...], list[Run]] = {}
    for run in list_runs(outputs):
        alike.setdefault(tuple(side_by_side([run], bare=True)[0][:1]), []).append(run)
    tables = []
    for runs in alike.values():
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("run", min_width=12, overflow="fold")
        table.add_column("status", no_wrap=True)
        table.add_column("edits", no_wrap=True)
        headings, lines = side_by_side(runs, bare=True)
        for heading in headings:
            table.add_column(heading, justify="right", overflow="fold")
        for run, cells in zip(runs, lines, strict=True):
            made = run.summary.get("n_edits", run.status.get("points", ""))
            table.add_row(run.id, str(run.status.get("status", "?")), str(made), *cells)
        tables.append(table)
    return tables


def _needs_of(group: str) -> dict[str, str]:
    """What the choices of a group need, where they say so: of the user (tasks), of model and task (measures)."""
    from edit_robust.config.compose import choices, own_nodes
    from edit_robust.config.nodes import target_of

    found = {}
    for name in choices(group):
        for node in own_nodes(group, name):
            needs = str(getattr(target_of(node, group), "needs", "")) if group in ("task", "measure") else ""
            if needs:
                found[name] = needs
    return found


def main() -> None:
    """Entry point of the `edit-robust` command."""
    try:
        code = app(standalone_mode=False)
    except (Exception, KeyboardInterrupt) as e:
        explain(e)
        raise SystemExit(exit_code(e)) from None
    raise SystemExit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
