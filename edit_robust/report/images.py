"""Runs on image classifiers in words and numbers: the sentence, the grid, which data it was, what the numbers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edit_robust.figures.frame import RunData
from edit_robust.report.numbers import Grid, amount, chance, finite, span

#: Moments of an image run: prefix of the summary's keys, and what to call it.
MOMENTS = (
    ("unedited_", "unedited"),
    ("", "the whole edit"),
    ("matched_", "a quarter of errors gone"),
    ("constrained_", "original within 1 point"),
)
RATES = (
    ("edit_accuracy", "images of the edit"),
    ("original_accuracy", "original task"),
)
PENALTIES = (
    ("original_ood_penalty", "original task under corruptions (eq. 1)"),
    ("editing_ood_penalty", "edit under corruptions (eq. 2)"),
)
#: Differences smaller than this (in accuracy) are called none.
SAME = 0.0005


def is_image(summary: Mapping[str, Any]) -> bool:
    """Whether a summary is of a run on images."""
    return any(key in summary for key in ("edit_accuracy", "unedited_edit_accuracy", "n_edit_images"))


def share(value: float) -> str:
    """An accuracy in percent: 85 %, 96.1 %, and neither 100 % nor 0 % unless it is all or none."""
    percent = 100 * value
    if percent >= 99.95 and value < 1:
        return "99.9 %"
    if 0 < percent < 0.05:
        return "0.1 %"
    return f"{percent:.1f}".removesuffix(".0") + " %"


def penalty(value: float | None) -> str:
    """A penalty as the paper writes it, a signed fraction: -0.012."""
    return "" if value is None else f"{value:+.3f}"


def interval(summary: Mapping[str, Any], key: str) -> str:
    """` [-0.018, -0.006]`, where it is known."""
    low, high = finite(summary, f"{key}_low"), finite(summary, f"{key}_high")
    return "" if low is None or high is None else f" [{penalty(low)}, {penalty(high)}]"


def verdict(summary: Mapping[str, Any]) -> str:
    """What the edit brought, what it cost the original task, and what corruptions take from both."""
    clauses = (gained(summary), cost(summary), corrupted(summary), refused(summary), leaked(summary))
    parts = [part for part in clauses if part]
    if not parts:
        before = finite(summary, "unedited_original_accuracy")
        if before is None:
            return "Nothing has been measured yet."
        return f"So far only the unedited model was measured: it gets {share(before)} of its own task right."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def of(summary: Mapping[str, Any], key: str) -> str:
    """` (n = 200)`, where it is known."""
    n = finite(summary, key)
    return f" (n = {n:,.0f})" if n else ""


def gained(summary: Mapping[str, Any]) -> str:
    """The first clause: accuracy on the edit's own images, before and after."""
    before, after = finite(summary, "unedited_edit_accuracy"), finite(summary, "edit_accuracy")
    if after is None:
        return ""
    many = finite(summary, "n_requests") or 1
    subject = "the edit" if many <= 1 else f"on average over {many:,.0f} requests the edit"
    n = of(summary, "n_edit_images")
    if before is None:
        return f"{subject} gets {share(after)} of its images right{n}"
    if abs(after - before) < SAME:
        return f"{subject} left accuracy on its images at {share(before)}{n}"
    return f"{subject} brought its images from {share(before)} to {share(after)}{n}"


def cost(summary: Mapping[str, Any]) -> str:
    """What became of the original task on clean images."""
    before, after = finite(summary, "unedited_original_accuracy"), finite(summary, "original_accuracy")
    if after is None:
        return ""
    n = of(summary, "n_original_images")
    if before is None:
        return f"the original task stands at {share(after)}{n}"
    if abs(after - before) < SAME:
        return f"the original task stayed at {share(before)}{n}"
    return f"the original task {'fell' if after < before else 'rose'} from {share(before)} to {share(after)}{n}"


def corrupted(summary: Mapping[str, Any]) -> str:
    """Both penalties in one clause."""
    first, second = finite(summary, "original_ood_penalty"), finite(summary, "editing_ood_penalty")
    clauses = []
    if first is not None:
        clauses.append(f"the original task {moved(first)} (eq. 1: {penalty(first)})")
    if second is not None:
        own = finite(summary, "unedited_editing_ood_penalty")
        beside = "" if own is None else f"; the unedited model's own drop there is {abs(own):.3f}"
        if own is not None and own > SAME:
            beside = f"; the unedited model itself gains {own:.3f} there"
        clauses.append(f"the edit {moved(second)} (eq. 2: {penalty(second)}{beside})")
    n = finite(summary, "n_variants")
    what = f"under {n:,.0f} {'corruption' if n == 1 else 'corruptions'}" if n else "under corruptions"
    return f"{what} {' and '.join(clauses)}" if clauses else ""


def moved(value: float) -> str:
    """`lost 1.2 points`, `gained 0.3 points`, `lost nothing`."""
    if abs(value) < SAME:
        return "lost nothing"
    points = f"{100 * abs(value):.1f}".removesuffix(".0")
    return f"{'lost' if value < 0 else 'gained'} {points} {'point' if points == '1' else 'points'}"


def refused(summary: Mapping[str, Any]) -> str:
    """Edits that were not made."""
    n = finite(summary, "n_refused")
    return f"{n:.0f} {'edit was' if n == 1 else 'edits were'} refused" if n else ""


def leaked(summary: Mapping[str, Any]) -> str:
    """The leak audit, where it found something."""
    n, part = finite(summary, "n_leaked"), finite(summary, "leaked_share")
    if not n or part is None:
        return ""
    return f"{n:,.0f} of the images it is judged by ({share(part)}) were trained on, too"


def natural(summary: Mapping[str, Any]) -> list[str]:
    """The natural shifts of the original task that the run measured."""
    known = {f"{moment}{name}" for moment, _ in MOMENTS for name, _ in RATES}
    names = [key.removeprefix("unedited_") for key in summary if key.endswith("_accuracy") and key not in known]
    return [name for name in dict.fromkeys(names) if finite(summary, name) is not None or f"unedited_{name}" in summary]


def grid(summary: Mapping[str, Any]) -> Grid:
    """Accuracies in percent and penalties as fractions, a column a moment; below them counts and time."""
    names = [
        *RATES,
        *PENALTIES,
        *((name, f"original task, {name.removesuffix('_accuracy').replace('_', ' ')}") for name in natural(summary)),
    ]
    moments = [
        (moment, title)
        for moment, title in MOMENTS
        if any(finite(summary, moment + name) is not None for name, _ in [*RATES, *PENALTIES])
    ]
    rows = []
    for name, words in names:
        values = [finite(summary, moment + name) for moment, _ in moments]
        rate = name.endswith("_accuracy")
        cells = tuple(("" if value is None else share(value)) if rate else penalty(value) for value in values)
        between = interval(summary, name) if not rate else ""
        cells = tuple(c + between if c and not moment else c for c, (moment, _) in zip(cells, moments, strict=True))
        if any(cells):
            rows.append((words, cells))
    return Grid(tuple(title for _, title in moments), tuple(rows), tuple(others(summary, moments)))


def others(summary: Mapping[str, Any], moments: list[tuple[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """mCE, flipped images, alphas, sizes and time; a number of no moment stands in the column of the whole edit."""
    rows: list[tuple[str, tuple[str, ...]]] = []

    def row(words: str, **cells: str) -> None:
        line = tuple(cells.get(moment.rstrip("_") or "edit", "") for moment, _ in moments)
        if any(line):
            rows.append((words, line))

    for key, words in (
        ("mce", "mean corruption error, AlexNet = 1"),
        ("relative_mce", "mean corruption error, unedited = 1"),
    ):
        before = "1" if key == "relative_mce" and finite(summary, key) is not None else ""
        row(words, unedited=before or amount(finite(summary, f"unedited_{key}")), edit=amount(finite(summary, key)))
    alphas = {key: finite(summary, f"{key}_alpha") for key in ("matched", "constrained")}
    if any(value is not None for value in alphas.values()):
        row("part of the edit (alpha)", edit="1", **{k: f"{v:.2f}" for k, v in alphas.items() if v is not None})
        counts = {key: finite(summary, f"{key}_n_requests") for key in alphas}
        row("requests that get there", **{k: f"{v:.0f}" for k, v in counts.items() if v is not None})
    gain, loss = finite(summary, "original_gained"), finite(summary, "original_lost")
    if gain is not None and loss is not None:
        p = chance(finite(summary, "original_mcnemar_p"))
        row("original images won / lost by the edit", edit=f"{gain:.0f} / {loss:.0f}{p and f' ({p})'}")
    for key, words in (
        ("edit_gain", "gain on images of the edit, 95 % interval"),
        ("original_change", "change of the original task, 95 % interval"),
    ):
        row(words, edit=f"{penalty(finite(summary, key))}{interval(summary, key)}")
    for probe, words in (
        ("edit", "largest fall of the edit along alpha"),
        ("original", "largest rise of the original task"),
    ):
        size = finite(summary, f"monotone_{probe}_violation")
        if size is not None:
            p = chance(finite(summary, f"monotone_{probe}_p")) if size else ""
            row(words, edit=f"{size:.3f}{p and f' ({p})'}")
    for key, words in (
        ("n_requests", "requests"),
        ("n_edit_images", "images of the edit"),
        ("n_original_images", "images of the original task"),
        ("n_variants", "corruptions times severities"),
        ("n_leaked", "images trained on and judged by"),
        ("n_refused", "edits refused"),
    ):
        value = finite(summary, key)
        row(words, edit=f"{value:,.0f}" if value else "")
    for key, words in (("seconds_edit", "time for editing"), ("seconds_evaluate", "time for measuring")):
        seconds = finite(summary, key)
        row(words, edit="" if seconds is None else span(seconds))
    return rows


def sources(run: RunData) -> str:
    """Which data the numbers were measured on, as the run stamped it: source, set and number of images."""
    file = run.path / "examples.jsonl" if run.path is not None else None
    if not run.is_image or file is None or not file.is_file():
        return ""
    counts: dict[tuple[str, str, str], int] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        shift = str(entry.get("shift") or "none")
        key = (str(entry.get("source") or "unnamed"), str(entry.get("probe", "")), "" if shift == "none" else shift)
        counts[key] = counts.get(key, 0) + 1
    shown = [
        f"{probe}{f' ({shift})' if shift else ''}: {source}, {counted:,} images"
        for (source, probe, shift), counted in sorted(counts.items(), key=lambda item: (item[0][1], item[0][2]))
    ]
    return "; ".join(shown)


#: How to read the numbers, for the page.
GLOSSARY = (
    (
        "Images of the edit",
        "Accuracy on held-out images that show the new concept (the edit's validation set). Compare it with the "
        "unedited model: what is more, the edit brought. Where a run has several requests, all numbers are means over "
        "them, each with its whole edit in the unedited model.",
    ),
    (
        "Original task",
        "Accuracy on the images that the model was made for. No edit is about them, so what is missing is damage.",
    ),
    (
        "Original task under corruptions (eq. 1)",
        "Accuracy of the edited model less that of the unedited one, on the same corrupted images; the mean over all "
        "corruptions and severities. A fraction: -0.012 is a loss of 1.2 points in a hundred; 0 is no loss.",
    ),
    (
        "Edit under corruptions (eq. 2)",
        "Accuracy on the edit's corrupted images less that on the clean ones, of the same edited model. The unedited "
        "model has such a drop of its own, shown beside it; only what goes beyond is the edit's own brittleness.",
    ),
    (
        "A quarter of errors gone; original within 1 point",
        "Places on the way from the unedited to the edited model. At the first the edit has put right a quarter of "
        "what the unedited model got wrong on its images, whatever the method, so that costs can be compared. The "
        "second is the best edit that costs the original task one point at most; it was chosen on the very images that "
        "it is reported on, which flatters it a little.",
    ),
    (
        "Mean corruption error",
        "Mean over corruptions of the error divided by AlexNet's error (on ImageNet-C, 15 corruptions at five "
        "severities), or divided by the unedited model's. Lower is better.",
    ),
    (
        "Images won / lost",
        "Of the original task's clean images, those that only the edited model gets right, and those that only the "
        "unedited one got right. p: how often chance alone flips images so unevenly (McNemar's exact test).",
    ),
    (
        "Intervals in brackets",
        "95 %, from drawing the images anew 2000 times, always the same ones for both models. They speak of other "
        "images, not of other requests or seeds.",
    ),
    (
        "Largest fall, largest rise",
        "From the unedited to the whole edit the edit's accuracy should only rise and the original task's only fall "
        "(monotone linear interpolation). This is the largest step the other way; p allows for all pairs of places.",
    ),
)
