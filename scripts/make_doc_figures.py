"""Make the figures of README.md and docs/ again: run what they show, draw it, and write docs/images.

    python scripts/make_doc_figures.py                  # list the figures, each with the commands behind it
    python scripts/make_doc_figures.py scene-world      # make one; several names, or `all`, make several

Runs stay in outputs/docs/<group> and are not made twice; one that was stopped goes on. Most figures take hours on two
cores: 2400 edits in a row for the fact world, 54 runs for the scene world.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edit_robust.core.errors import UserError, nearest
from edit_robust.figures import RunData, by_name, style, suited
from edit_robust.runs.reader import list_runs

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"

#: group -> the command lines whose runs its figures draw, after `edit-robust run`
RUNS = {
    "forgetting-claims": ("-m experiment=forgetting-claims model=fact-gpt",),
    "collapse": ("-m editor=rome,r-rome,memit,ft,memit-seq,alphaedit task.n_requests=200",),
    "editors": (
        "-m editor=ft,mend,rome,r-rome,memit,memit-seq,emmet,alphaedit,encore,pmet,rect,prune,nse,lora "
        "task.n_requests=200",
    ),
    "scene-editing": ("experiment=scene-methods",),
    "patching": (
        "experiment=patching layer.index=0,2,5",
        "experiment=patching editor=paint layer.index=last task=digits,scene-digits",
        "experiment=patching layer.index=0,2,5 task=scene-digits task.kind=svhn task.name=scene-svhn",
        "experiment=patching editor=paint layer.index=last task=scene-digits task.kind=svhn task.name=scene-svhn",
    ),
}


@dataclass(frozen=True)
class Image:
    """A file of docs/images: drawn as one of the program's figures from a group of runs, or by a script."""

    group: str = ""
    figure: str = ""
    script: str = ""

    def commands(self) -> list[str]:
        """What to type to make it by hand."""
        if self.script:
            return [f"python {self.script}"]
        folder = f"outputs/docs/{self.group}"
        runs = [f"edit-robust run {line} figures=false paths.outputs={folder}" for line in RUNS[self.group]]
        return [*runs, f"edit-robust figure --only {self.figure} --outputs {folder}"]


MADE = {
    "leaderboard-facts": Image(script="scripts/make_leaderboard.py"),
    "leaderboard-scenes": Image(script="scripts/make_leaderboard.py"),
    "collapse": Image("collapse", "forgetting"),
    "editors": Image("editors", "editors"),
    "scaling": Image("forgetting-claims", "scaling"),
    "downstream": Image("forgetting-claims", "downstream"),
    "scene-tradeoff": Image("scene-editing", "tradeoff"),
    "scene-original-penalty": Image("scene-editing", "original-penalty"),
    "scene-editing-penalty": Image("scene-editing", "editing-penalty"),
    "patching": Image("patching", "patching"),
    "patching-alpha": Image("patching", "patching-alpha"),
    "scene-world": Image(script="scripts/make_scene_world.py sheet"),
}


def make(name: str) -> None:
    """Run what is missing, draw the figure, and write docs/images/<name>.png."""
    image = MADE[name]
    if image.script:
        subprocess.run([sys.executable, *image.script.split()], cwd=ROOT, check=True)
        return
    outputs = ROOT / "outputs" / "docs" / image.group
    for line in RUNS[image.group]:
        command = [sys.executable, "-m", "edit_robust.cli", "run", *line.split(), "figures=false"]
        subprocess.run([*command, f"paths.outputs={outputs}"], cwd=ROOT, check=True)
    module = by_name(image.figure)
    runs = [RunData.of(run) for run in list_runs(outputs) if run.complete]
    print(*style.save(module.draw(suited(module, runs)), IMAGES / name, ("png",)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="figures to make, or `all`; none: list them")
    names = parser.parse_args().names
    for name in MADE if names == ["all"] else names:
        if name not in MADE:
            raise UserError(f"there is no figure {name!r}; {nearest(name, MADE, 'figures')}")
    for name in MADE if names == ["all"] else names:
        make(name)
    if not names:
        for name, image in MADE.items():
            print(f"{name}.png", *(f"    {command}" for command in image.commands()), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
