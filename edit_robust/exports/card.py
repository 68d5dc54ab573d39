"""The README.md of an exported folder: what was edited, what that did by the run's own numbers, how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from edit_robust.exports.edited import Edited
from edit_robust.report.clauses_language import collapsed
from edit_robust.report.grid import columns_of, grid
from edit_robust.report.numbers import amount
from edit_robust.report.sentence import verdict
from edit_robust.runs.reader import Run

#: Numbers of a point that stand in the card of a model at that point, and what they are in.
SHARES = ("success", "accuracy", "token_accuracy", "forgotten", "forgotten_es")
WITHOUT = ("_target_", "guard", "name", "layers")


def write_card(edited: Edited, folder: Path, library: str, loading: str) -> None:
    """Write README.md. loading: code that loads the folder, in which FOLDER stands for its place."""
    run = edited.run
    title = f"{edited.model.name}, edited" if run is None else f"{edited.model.name}, edited by {edited.info['editor']}"
    parts = [_head(edited, library), f"# {title}", *_warning(edited), "## What was edited", _facts(edited)]
    parts += _damage(edited)
    parts += ["## How to load it", f"```python\n{loading.replace('FOLDER', folder.name)}\n```"]
    parts += ["The code is meant to be run beside this folder. Written by `edit-robust`."]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _head(edited: Edited, library: str) -> str:
    base = str(edited.config.get("path") or "")
    lines = ["---", f"library_name: {library}", "tags:", "- model-editing", "- edit-robust"]
    if base.count("/") == 1 and not base.startswith((".", "/", "~")) and not Path(base).exists():
        lines.append(f"base_model: {base}")  # an id of the hub; a folder of this machine tells a reader nothing
    return "\n".join([*lines, "---"])


def _warning(edited: Edited) -> list[str]:
    run = edited.run
    if run is None or not collapsed(run.summary):
        return []
    part = "" if _whole(edited) else " These weights are a part of that change: see what was measured below."
    return [f"> **Warning: the model has collapsed.** {verdict(run.summary, run.config)}{part}"]


def _facts(edited: Edited) -> str:
    """A table of two columns."""
    info, run = edited.info, edited.run
    rows: dict[str, Any] = {
        "unedited model": f"{edited.model.name} ({edited.config.get('path') or 'weights of its library'})",
        "hash of the unedited model": f"`{edited.base}`",
        "type of the weights": info.get("dtype"),
        "editor": info.get("editor"),
    }
    if run is not None:
        rows["its settings"] = _settings(run.config["editor"])
        rows["layers"] = ", ".join(run.status.get("layers") or [])
        rows["task"] = run.config["task"].get("name")
    rows["edits"] = f"{edited.n_edits}{_refused(edited)}"
    rows["part of the change"] = f"alpha = {edited.alpha:g}: W0 + alpha (W - W0)" if edited.alpha != 1 else "all of it"
    rows["size of the change"] = f"{amount(edited.change.norm(), 2)} (Frobenius norm, all parameters together)"
    rows["changed parameters"] = _some(edited.change.terms)
    rows["run"] = info.get("run")
    rows["made by"] = f"`{run.status.get('command', '')}`" if run is not None else "`edit-robust apply`"
    return _table(["", ""], [[k, str(v)] for k, v in rows.items() if v not in (None, "", "``")])


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(f"`{n}`" for n in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _settings(editor: Mapping[str, Any]) -> str:
    given = {k: v for k, v in editor.items() if k not in WITHOUT and v is not None}
    return ", ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in given.items())


def _refused(edited: Edited) -> str:
    n = edited.run.summary.get("n_refused") if edited.run is not None and _whole(edited) else 0
    return f", of which {n:.0f} were refused" if n else ""


def _whole(edited: Edited) -> bool:
    """Whether the model stands where the run's walk ended."""
    return edited.alpha == 1 and edited.step is None


def _damage(edited: Edited) -> list[str]:
    """What the run measured of these weights."""
    run = edited.run
    if run is None:
        return ["## What it broke", f"Nothing was measured of this copy. {_measured_at(edited)}"]
    if _whole(edited) and run.summary:
        cells = grid(columns_of(run))
        lines = [[words, *values] for words, values in (*cells.scores, *cells.others)]
        return [
            "## What it did and what it broke",
            verdict(run.summary, run.config),
            _table(["", *cells.columns], lines),
        ]
    there = _point(run, edited)
    if there is None:
        if not run.summary:
            return ["## What it broke", f"{run.id} is not complete: there is no summary of it."]
        text = (
            f"{run.id} measured no point at these weights; at the end of its walk: {verdict(run.summary, run.config)}"
        )
        return ["## What it broke", text]
    records = run.records[run.records.step == there]
    return ["## What it did and what it broke", f"As measured at step {there} of {run.id}:", _records(records)]


def _measured_at(edited: Edited) -> str:
    where = edited.info.get("run")
    return f"The change comes from the run {where}, whose own card or report says what it broke there." if where else ""


def _point(run: Run, edited: Edited) -> int | None:
    """The step of the run's point at these weights; None where it measured none."""
    for point in run.points:
        if edited.step is not None and edited.alpha == 1 and point["step"] == edited.step:
            return int(point["step"])
        if edited.step is None and point["alpha"] == edited.alpha and point["n_edits"] == edited.n_edits:
            return int(point["step"])
    return None


def _records(records: pd.DataFrame) -> str:
    """Rates and perplexity of a point, one a line."""
    shown = records[records.metric.isin([*SHARES, "perplexity"]) & (records.layer == "")]
    shown = shown.groupby(["scope", "probe", "shift", "severity", "metric"], sort=False, as_index=False).agg(
        value=("value", "mean"), n=("n", "sum")
    )
    lines = []
    for row in shown.to_dict("records"):
        value = float(row["value"])
        text = f"{100 * value:.1f} %" if row["metric"] in SHARES else amount(value, 2)
        probe = str(row["probe"]) if row["severity"] == 0 else f"{row['probe']}, {row['shift']} {row['severity']}"
        lines.append([str(row["scope"]), probe, str(row["metric"]), text, str(row["n"])])
    return _table(["whom", "questions", "number", "value", "n"], lines)


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in row) + " |" for row in cells)
