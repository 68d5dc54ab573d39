"""Write docs/leaderboard.md and its figures from the runs of experiment=leaderboard-facts and leaderboard-scenes.

    make leaderboard                                          # run what is missing, then this
    python scripts/make_leaderboard.py --outputs FOLDER       # from runs that lie elsewhere

Every number of the page is read from the runs. The page says how many edits and orders these hold.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edit_robust.config.compose import choices, compose
from edit_robust.core.errors import UserError
from edit_robust.core.files import write_text
from edit_robust.figures.board import Board, board, together
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.leaderboard import CAPTION, draw_board
from edit_robust.figures.style import save
from edit_robust.report.compare import markdown
from edit_robust.runs.reader import Run, list_runs

ROOT = Path(__file__).resolve().parent.parent
#: experiment -> heading, the number that orders the editors, what is done in words.
WORLDS = {
    "leaderboard-facts": (
        "Facts",
        "S",
        "Each editor writes the same {n} facts into fact-gpt, one after the other, in {orders}. ES, PS and NS are of "
        "each edit right after it was made.",
    ),
    "leaderboard-scenes": (
        "Scenes",
        "edit",
        "Each editor makes the same {n} concept-style edits of scene-cnn, each in the unedited network, with the "
        "settings of its preset. `edit` and `original` are accuracies on clean images, eq. 1 and eq. 2 means over the "
        "fifteen corruptions of ImageNet-C at severity 3.",
    ),
}
#: How much longer than its processor time a run takes by the clock before the page says so.
BUSY = 1.5
START = """# Leaderboard

All editors that ship, on both built-in worlds. `make leaderboard` makes this page; `edit-robust compare` makes such a
table of any runs that were asked the same ([how intervals and ranks are made](metrics.md#intervals)). The worlds are
small and invented: who leads here need not lead on GPT-J. What an editor costs the rest of the model stands in the
other columns; no single number ranks an editor.
"""


def main() -> None:
    """Write the page. Raises UserError where runs of a world are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs" / "leaderboard")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument(
        "--overrides", nargs="*", default=[], help="what was given besides the experiment, for the page"
    )
    args = parser.parse_args()
    runs = [run for run in list_runs(args.outputs) if run.complete]
    (args.docs / "images").mkdir(parents=True, exist_ok=True)
    parts = [START]
    for experiment in WORLDS:
        parts.append(section(experiment, chosen(experiment, runs), args.docs, args.overrides))
    parts += [
        textwrap.fill(CAPTION, 120),
        "",
        "See also: [metrics and protocols](metrics.md) · [the fact world](fact-world.md) ·",
    ]
    parts += ["[editing in the scene world](scene-editing.md) · [README](../README.md)", ""]
    write_text(args.docs / "leaderboard.md", "\n".join(parts))
    print(args.docs / "leaderboard.md")


def chosen(experiment: str, runs: Sequence[Run]) -> list[Run]:
    """The runs of the experiment's model and task: of those that were asked the same, the most."""
    wanted = compose([f"experiment={experiment}"])
    own = [r for r in runs if setting(r.config, "model.name") == wanted.model.name]
    found = together([RunData.of(r) for r in own])
    if not found:
        raise UserError(f"there are no complete runs of experiment={experiment}: make leaderboard")
    names = {r.run_id for r in max(found, key=len)}
    return [r for r in own if r.id in names]


def section(experiment: str, runs: Sequence[Run], docs: Path, overrides: Sequence[str]) -> str:
    """A world's heading, what was run, the figure and the tables."""
    title, by, words = WORLDS[experiment]
    found = board([RunData.of(r) for r in runs], by=by)
    save(draw_board(found), docs / "images" / experiment, ["png"])
    config = runs[0].config
    orders = len({setting(r.config, "task.order") for r in runs})
    pairs = setting(config, "task.pairs")
    n = len(pairs) if isinstance(pairs, list) else int(runs[0].summary["n_edits"])
    said = words.format(n=n, orders="one order" if orders == 1 else f"{orders} orders")
    own = [o.partition(":")[2] for o in overrides if belongs(o, experiment)]
    command = " ".join(["edit-robust run", f"experiment={experiment}", *own])
    lines = [
        f"## {title}",
        "",
        textwrap.fill(f"{said} {left_out(found, config)}".strip(), 120),
        "",
        "```",
        command,
        "```",
        "",
    ]
    lines += [textwrap.fill(spent(runs), 120), ""]
    return "\n".join([*lines, markdown(found, f"images/{experiment}.png").partition("\n\n")[2]])


def belongs(override: str, experiment: str) -> bool:
    """Whether an override was given to this experiment: `leaderboard-facts:task.n_requests=10`."""
    return override.startswith(f"{experiment}:")


def left_out(found: Board, config: Mapping[str, Any]) -> str:
    """The editors that fit the model and have no run here."""
    known = {entry.label for entry in found.entries}
    kind = "vision" if isinstance(setting(config, "task.pairs"), list) else "language"
    fitting = []
    for name in choices("editor"):
        target = str(compose([f"editor={name}"]).editor._target_)
        if f".{kind}." in target and name not in known:
            fitting.append(name)
    return f"Not run here: {', '.join(fitting)}." if fitting else ""


def spent(runs: Sequence[Run]) -> str:
    """What all of it took, in processor seconds, and on what."""
    seconds = sum(sum((r.status.get("processor_seconds") or {}).values()) for r in runs)
    versions = runs[0].status.get("versions") or {}
    threads = runs[0].status.get("threads", "")
    clock = sum(sum((r.status.get("seconds") or {}).values()) for r in runs)
    busy = ""
    if clock > BUSY * seconds:
        busy = (
            f" By the clock it was {clock / seconds:.1f} times as long, as the machine did other work: compare editors "
            "by processor seconds."
        )
    return (
        f"{len(runs)} runs took {seconds / 60:.1f} minutes of processor time (threads: {threads}), with torch "
        f"{versions.get('torch')}.{busy}"
    )


if __name__ == "__main__":
    main()
