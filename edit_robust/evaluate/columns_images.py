"""The numbers of an edited image classifier in words: labels, units and moments for the columns of its summary."""

from __future__ import annotations

from collections.abc import Iterator

from edit_robust.core.data import Column
from edit_robust.evaluate.columns import UNEDITED, Summary, completed, edits, finite, resources

__all__ = ["answers", "describe", "edits", "resources"]

WHOLE = "the whole edit"
#: Places on the way from the unedited to the edited model: prefix of the summary's keys, and what to call it.
MOMENTS = (
    ("unedited_", UNEDITED),
    ("", WHOLE),
    ("matched_", "a quarter of errors gone"),
    ("constrained_", "original within 1 point"),
    ("chosen_", "original within 1 point, on held-out images"),
    ("chosen_robust_", "corrupted original within 1 point, on held-out images"),
)
RATES = (
    ("edit_accuracy", "images of the edit", "edit"),
    ("original_accuracy", "original task", "original"),
)
PENALTIES = (
    ("original_ood_penalty", "original task under corruptions (eq. 1)", "eq. 1"),
    ("editing_ood_penalty", "edit under corruptions (eq. 2)", "eq. 2"),
)
COUNTS = (
    ("n_requests", "requests"),
    ("n_edit_images", "images of the edit"),
    ("n_original_images", "images of the original task"),
    ("n_variants", "corruptions times severities"),
    ("n_leaked", "images trained on and judged by"),
)
SHARES = ("leaked_share",)
P_VALUES = ("edit_mcnemar_p", "original_mcnemar_p", "monotone_edit_p", "monotone_original_p")
#: Ends of the keys of one severity, and of an interval.
ENDS = ("_1", "_2", "_3", "_4", "_5", "_low", "_high")


def describe(summary: Summary) -> list[Column]:
    """All columns of a summary of an image run; numbers that no measure knows come last, unlabelled."""
    parts = (answers, edits, resources)
    return completed(summary, [column for part in parts for column in part(summary)], summary)


def answers(summary: Summary) -> list[Column]:
    """Accuracies (shares) and penalties (differences of shares) at every moment, and what statistics say of them."""
    found = [*_scores(summary), *_errors(summary), *_alphas(summary), *_paired(summary)]
    found += _counts(summary) if found or "n_edit_images" in summary else ()
    named = [name for name, *_ in (*RATES, *PENALTIES)]
    rest = [key for key in summary if any(name in key for name in named) or key in (*SHARES, *P_VALUES)]
    rest += [key for key in summary if key.endswith(ENDS) and key.startswith(("edit_gain", "original_change"))]
    rest += [key for key in ("original_lost",) if key in summary]
    return completed(summary, found, rest)


def natural(summary: Summary) -> list[str]:
    """The natural shifts of the original task that were measured, as names of their accuracies."""
    known = {f"{prefix}{name}" for prefix, _ in MOMENTS for name, *_ in RATES}
    names = [key.removeprefix("unedited_") for key in summary if key.endswith("_accuracy") and key not in known]
    return list(dict.fromkeys(names))


def _scores(summary: Summary) -> Iterator[Column]:
    """Accuracies and penalties of both tasks, then accuracies under natural shifts."""
    for name, label, short in RATES:
        for prefix, moment in MOMENTS:
            if (key := prefix + name) in summary:
                heading = "" if prefix else short
                yield Column(key, finite(summary, key), label, moment, "share", short=heading, score=True)
    for name, label, short in PENALTIES:
        for prefix, moment in MOMENTS:
            if (key := prefix + name) in summary:
                low, high = (None, None) if prefix else _interval(summary, name)
                value, heading = finite(summary, key), "" if prefix else short
                yield Column(key, value, label, moment, "difference", low, high, heading, score=True)
    for name in natural(summary):
        label = f"original task, {name.removesuffix('_accuracy').replace('_', ' ')}"
        for prefix, moment in MOMENTS[:2]:
            if (key := prefix + name) in summary:
                yield Column(key, finite(summary, key), label, moment, "share", score=True)


def _interval(summary: Summary, key: str) -> tuple[float | None, float | None]:
    low, high = finite(summary, f"{key}_low"), finite(summary, f"{key}_high")
    return (None, None) if low is None or high is None else (low, high)


def _errors(summary: Summary) -> Iterator[Column]:
    """Mean corruption errors: fractions of the baseline's."""
    alexnet = "mean corruption error, AlexNet = 1"
    for key, label, moment in (
        ("unedited_mce", alexnet, UNEDITED),
        ("mce", alexnet, WHOLE),
        ("relative_mce", "mean corruption error, unedited = 1", WHOLE),
    ):
        if key in summary:
            yield Column(key, finite(summary, key), label, moment)


def _alphas(summary: Summary) -> Iterator[Column]:
    """Where on the way to the whole edit its moments lie, and for how many requests there is such a place."""
    for end, label in (("alpha", "part of the edit (alpha)"), ("n_requests", "requests that get there")):
        for prefix, moment in MOMENTS[2:]:
            if (key := prefix + end) in summary:
                yield Column(key, finite(summary, key), label, moment, "number" if end == "alpha" else "count")


def _paired(summary: Summary) -> Iterator[Column]:
    """Images won and lost, intervals over images, and steps against the direction that interpolation should have."""
    gained, lost = finite(summary, "original_gained"), finite(summary, "original_lost")
    if "original_gained" in summary:
        note = f"/ {lost or 0:.0f} {_chance(summary, 'original_mcnemar_p')}".rstrip()
        label = "" if lost is None else "original images won / lost by the edit"
        yield Column("original_gained", gained, label, WHOLE, "count", note=note)
    for key, label in (
        ("edit_gain", "gain on images of the edit, 95 % interval"),
        ("original_change", "change of the original task, 95 % interval"),
    ):
        if key in summary:
            yield Column(key, finite(summary, key), label, WHOLE, "difference", *_interval(summary, key))
    for probe, label in (
        ("edit", "largest fall of the edit along alpha"),
        ("original", "largest rise of the original task"),
    ):
        if (key := f"monotone_{probe}_violation") in summary:
            size = finite(summary, key)
            yield Column(key, size, label, WHOLE, note=_chance(summary, f"monotone_{probe}_p") if size else "")


def _chance(summary: Summary, key: str) -> str:
    """`(p = 0.03)`, `(p < 0.001)`, or nothing."""
    p = finite(summary, key)
    return "" if p is None else "(p < 0.001)" if p < 0.001 else f"(p = {p:.2g})"


def _counts(summary: Summary) -> Iterator[Column]:
    """How many requests, images and corruptions the numbers are means over; nothing is shown of what there is none."""
    for key, label in COUNTS:
        if key in summary:
            n = finite(summary, key)
            yield Column(key, n, label if n else "", WHOLE, "count")
