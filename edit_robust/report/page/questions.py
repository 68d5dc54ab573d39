"""What people ask of a run, each answered in a sentence or two; what was not measured is not answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from edit_robust.figures.frame import RunData, is_sequence, setting
from edit_robust.report import clauses_images, clauses_language
from edit_robust.report.collapse import autopsy_lines, collapse_lines
from edit_robust.report.numbers import amount, finite, number, percent, share
from edit_robust.report.page.edits import Edits
from edit_robust.report.sentence import condition, refused
from edit_robust.runs.reader import Run

WALKS = {
    "single": "each in the unedited model",
    "batch": "all at once in the unedited model",
    "interpolate": "a walk from the unedited to the edited weights",
    "combine": "each made in the unedited model, then a walk along what they combine to",
}


@dataclass(frozen=True)
class Answer:
    """question; lines: the answer, a sentence each; where: the part of the page that says more, "" if none does."""

    question: str
    lines: tuple[str, ...]
    where: str = ""


def answers(
    run: RunData, examples: pd.DataFrame | None, status: dict[str, Any], edits: Edits | None = None
) -> list[Answer]:
    """The questions in the order in which people ask them.

    examples: the run's questions, to name an edit by what it is about.   status: what the run's status file says.
    edits: one by one; the first is the example of what was edited.
    """
    summary, config = run.summary, run.config
    subject = instance(edits) or pairs(examples)
    asked = (
        Answer("What was edited?", (*edited(run, status), *subject), "edits" if edits else "images"),
        Answer("Did it take?", told([clauses_language.took(summary, config), clauses_images.gained(summary, config)])),
        Answer("Did it hold under shift?", told(held(run)), "corruptions"),
        Answer("What else broke?", told(broke(run)), "numbers"),
        Answer("When did it collapse?", told([collapsed(run)])),
        Answer("Which edit did it?", tuple(culprit(run, examples, status)), "edits"),
    )
    return [one for one in asked if one.lines]


def told(clauses: Sequence[str]) -> tuple[str, ...]:
    """Clauses that say something, as sentences."""
    return tuple(f"{text[0].upper()}{text[1:]}." for text in clauses if text)


def edited(run: RunData, status: dict[str, Any]) -> list[str]:
    """How many edits of what, where, by which editor, in which manner."""
    editor, model, task = (str(setting(run.config, f"{part}.name") or "") for part in ("editor", "model", "task"))
    if not editor:
        return []
    made = finite(run.summary, "n_edits") or finite(run.summary, "n_requests")
    many = "Edits" if made is None else "1 edit" if made == 1 else f"{made:,.0f} edits"
    walk, batch = setting(run.config, "trajectory.name"), setting(run.config, "trajectory.batch_size")
    manner = "one upon the other" if is_sequence(run) else WALKS.get(str(walk), "")
    if isinstance(batch, int) and batch > 1:
        manner = f"{batch} at a time, {manner}" if is_sequence(run) else f"{batch} at a time in the unedited model"
    if made == 1 and is_sequence(run):
        manner = ""
    layers = list(status.get("layers") or ())
    some = ", ".join(f"`{one}`" for one in layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
    at = f", at {some}" if some else ""
    return [f"{many} of {task} in {model}{at}, by {editor}{f': {manner}' if manner else ''}."]


def instance(edits: Edits | None) -> list[str]:
    """The first edit of a run on language."""
    if edits is None or not edits.shown:
        return []
    own = edits.shown[0].own
    instead = f", not {own.other}" if own.other else ""
    return [f"{'One of them: “' if edits.total > 1 else '“'}{own.text} …” shall be answered {own.right}{instead}."]


def pairs(examples: pd.DataFrame | None) -> list[str]:
    """What the edits of a run on images were about, by their names."""
    if examples is None or not {"probe", "group"} <= set(examples.columns):
        return []
    names = [str(name) for name in dict.fromkeys(examples[examples.probe == "edit"]["group"]) if name]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return [f"About {', '.join(names[:4])}{more}."] if names else []


def held(run: RunData) -> list[str]:
    """Other words, corruptions, natural shifts."""
    summary = run.summary
    lines = [clauses_language.rewordings(summary, run.config), clauses_images.corrupted(summary, run.config)]
    natural = []
    for key in summary:
        shift = key.removesuffix("_accuracy")
        if f"unedited_{key}" in summary and shift != key and shift not in ("edit", "original"):
            before, now = finite(summary, f"unedited_{key}"), finite(summary, key)
            if before is not None and now is not None:
                natural.append(f"{shift.replace('_', ' ')} from {share(before)} to {share(now)}")
    if natural:
        lines.append(f"natural shifts of the original task: {'; '.join(natural)}")
    return lines


def broke(run: RunData) -> list[str]:
    """Neighbours, past edits, plain text, the original task, the model as a whole."""
    clauses = (clauses_language.neighbours, clauses_language.ending, clauses_images.cost, condition, refused)
    return [*(clause(run.summary, run.config) for clause in clauses), clauses_images.leaked(run.summary, run.config)]


def collapsed(run: RunData) -> str:
    """Where the model broke; "" where edits do not pile up or nothing tells."""
    summary = run.summary
    edit, until = finite(summary, "inflection_edit"), finite(summary, "inflection_until")
    if edit is not None:
        after = finite(summary, "inflection_after")
        if until in (None, edit) or after is None:
            return f"it broke at edit {edit:.0f}"
        return f"it broke about edit {edit:.0f}, between the checks after {after:.0f} and after {until:.0f} edits"
    if not is_sequence(run) or number(summary, "perplexity") is None:
        return ""
    if clauses_language.collapsed(summary):
        return "the model has collapsed by the end; no single step stands out"
    before, after = number(summary, "unedited_perplexity"), number(summary, "perplexity")
    text = "" if before is None else f": perplexity went from {amount(before, 2)} to {amount(after, 2)}"
    forgotten = finite(summary, "forgotten_pct")
    lost = "" if forgotten is None else f", {percent(forgotten)} of past edits are forgotten"
    return f"it did not, up to the last edit{text}{lost}"


def culprit(run: RunData, examples: pd.DataFrame | None, status: dict[str, Any]) -> list[str]:
    """The edit that broke the model, by which sign, and what would have prevented it; what an autopsy found."""
    lines = collapse_lines(run.summary, run.config, examples, str(status.get("command", "")), run.run_id)
    found = Run(run.path).autopsy if run.path is not None else {}
    if found:
        lines = [one for one in lines if "edit-robust autopsy" not in one]
        lines += [f"Autopsy: {one.strip()}" for one in autopsy_lines(found, int(run.summary.get("n_edits") or 0))]
    if not lines and "inflection_edit" in run.summary and is_sequence(run):
        return ["No edit broke the model."]
    return lines
