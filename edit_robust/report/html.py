"""One self-contained page about one or several runs: what was run, what came out, what the numbers mean."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edit_robust.figures import ALL, style, suited
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.grouping import APART, Group, flatten, groups
from edit_robust.report import claims, images
from edit_robust.report.numbers import amount, finite, grid, number, percent, score, uses_accuracy
from edit_robust.report.sentence import verdict

TEMPLATE = "report.html.j2"
#: Up to so many runs are shown unfolded.
OPEN = 3


def write_report(runs: Sequence[RunData], out: Path) -> Path:
    """Write the page about these runs to `out` (a file, or a folder that gets `report.html`); gives back its path."""
    path = out if out.suffix in (".html", ".htm") else out / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    labels = {run.run_id: label_of(group, run) for group in groups(runs) for run in group.runs}
    sections = [section(run, labels[run.run_id]) for run in runs]
    page = environment.get_template(TEMPLATE).render(
        title=title_of(runs),
        runs=sections,
        unfolded=len(runs) <= OPEN,
        overview=overview(runs, labels) if len(runs) > 1 else None,
        figures=[inline(module, those) for module in ALL if module.applies(those := suited(module, runs))],
        accuracy=any(uses_accuracy(run.summary) for run in runs),
        language=not runs or not all(images.is_image(run.summary) or run.is_image for run in runs),
        glossary=images.GLOSSARY if any(images.is_image(run.summary) for run in runs) else (),
        claims=claims.shown(runs),
    )
    path.write_text(page, encoding="utf-8")
    return path


def title_of(runs: Sequence[RunData]) -> str:
    """What the page is about: the editors, the models, the tasks."""
    parts = []
    for key in ("editor.name", "model.name", "task.name"):
        names = list(dict.fromkeys(str(name) for run in runs if (name := setting(run.config, key))))
        if names:
            parts.append(", ".join(names[:4]) + (", ..." if len(names) > 4 else ""))
    return " · ".join(parts) or "Edited models"


def label_of(group: Group, run: RunData) -> str:
    """The group's label; repeats are told apart by their order and seed."""
    if len(group.runs) == 1:
        return group.label
    flat = [flatten(one.config) for one in group.runs]
    own = flatten(run.config)
    repeats = [
        f"{key.rpartition('.')[2]} {own.get(key)}"
        for key in ("task.order", "seed")
        if len({str(one.get(key)) for one in flat}) > 1
    ]
    return ", ".join([group.label, *repeats])


def status_of(run: RunData) -> dict[str, str]:
    """What the run's status file says, as far as it is there: state, error, device, software."""
    found: Mapping[str, Any] = {}
    if run.path is not None and (file := run.path / "status.json").is_file():
        try:
            loaded = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            loaded = {}
        found = loaded if isinstance(loaded, Mapping) else {}
    state = found.get("state") or found.get("status") or ("complete" if run.summary else "unfinished")
    shown = {"state": str(state)}
    if data := images.sources(run):
        shown["data"] = data
    error = found.get("error") or found.get("traceback")
    if error:
        shown["error"] = str(error).strip().splitlines()[-1]
    for key in ("device", "git_sha"):
        if found.get(key):
            shown[key.replace("_", " ")] = str(found[key])
    versions = found.get("versions")
    if isinstance(versions, Mapping):
        shown["software"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return shown


def section(run: RunData, label: str) -> dict[str, Any]:
    """All that the page says about one run."""
    return {
        "id": run.run_id,
        "label": label,
        "verdict": verdict(run.summary, run.config),
        "grid": images.grid(run.summary) if images.is_image(run.summary) else grid(run.summary, both=True),
        "status": status_of(run),
        "config": outline({key: value for key, value in run.config.items() if key not in APART}),
    }


def overview(runs: Sequence[RunData], labels: Mapping[str, str]) -> dict[str, Any]:
    """One line a run; columns that no run has are left out."""
    language = [run for run in runs if not images.is_image(run.summary)]
    accuracy = all(uses_accuracy(run.summary) for run in language)
    scores = ("ES_acc", "PS_acc", "NS_acc") if accuracy else ("S", "ES", "PS", "NS")
    lines = []
    for run in runs:
        own = run.summary
        values = [score(own, "", name) for name in scores]
        if all(value is None for value in values):
            values = [score(own, "final_", name) for name in scores]
        cells = [percent(value) for value in values]
        cells += [
            percent(finite(own, "forgotten_pct")),
            amount(number(own, "perplexity")),
            amount(number(own, "drift")),
        ]
        rates = [finite(own, name) for name, _ in images.RATES]
        cells += ["" if value is None else images.share(value) for value in rates]
        cells += [images.penalty(finite(own, name)) for name, _ in images.PENALTIES]
        lines.append((labels[run.run_id], run.run_id, cells))
    titles = [*(name.replace("_acc", " tokens") for name in scores), "forgotten", "perplexity", "drift"]
    titles += ["images of the edit", "original task", "eq. 1", "eq. 2"]
    kept = [place for place in range(len(titles)) if any(cells[place] for _, _, cells in lines)]
    return {
        "columns": [titles[place] for place in kept],
        "lines": [(name, run_id, [cells[place] for place in kept]) for name, run_id, cells in lines],
    }


def inline(module: Any, runs: Sequence[RunData]) -> dict[str, str]:
    """A figure as a data address, with its title and how to read it."""
    image = b64encode(style.png(module.draw(runs))).decode("ascii")
    return {"name": module.NAME, "title": module.TITLE, "caption": module.CAPTION, "source": image}


def outline(config: Mapping[str, Any], depth: int = 0) -> str:
    """The config as indented `key: value` lines."""
    lines = []
    for key, value in config.items():
        pad = "  " * depth
        if isinstance(value, Mapping):
            lines += [f"{pad}{key}:", outline(value, depth + 1)] if value else [f"{pad}{key}: {{}}"]
        else:
            lines.append(f"{pad}{key}: {'' if value is None else value}".rstrip())
    return "\n".join(lines)
