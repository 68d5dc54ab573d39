"""What a run on images came to, clause by clause: what the edit brought, what it cost, what corruptions take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edit_robust.report.numbers import difference, finite, share

#: Differences smaller than this (in accuracy) are called none.
SAME = 0.0005

Summary = Mapping[str, Any]
Config = Mapping[str, Any]


def of(summary: Summary, key: str) -> str:
    """` (n = 200)`, where it is known."""
    n = finite(summary, key)
    return f" (n = {n:,.0f})" if n else ""


def gained(summary: Summary, config: Config) -> str:
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


def cost(summary: Summary, config: Config) -> str:
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


def corrupted(summary: Summary, config: Config) -> str:
    """Both penalties in one clause; where neighbouring questions were answered, the shifts were of text."""
    asked = finite(summary, "edit_accuracy") is None and finite(summary, "unedited_NS_acc") is not None
    task, kind, of = ("neighbours", "shift", " of text") if asked else ("the original task", "corruption", "")
    first, second = finite(summary, "original_ood_penalty"), finite(summary, "editing_ood_penalty")
    clauses = []
    if first is not None:
        clauses.append(f"{task} {moved(first)} (eq. 1: {difference(first)})")
    if second is not None:
        own = finite(summary, "unedited_editing_ood_penalty")
        beside = "" if own is None else f"; the unedited model's own drop there is {abs(own):.3f}"
        if own is not None and own > SAME:
            beside = f"; the unedited model itself gains {own:.3f} there"
        clauses.append(f"the edit {moved(second)} (eq. 2: {difference(second)}{beside})")
    n = finite(summary, "n_variants")
    what = f"under {n:,.0f} {kind}{'' if n == 1 else 's'}{of}" if n else f"under {kind}s{of}"
    return f"{what} {' and '.join(clauses)}" if clauses else ""


def moved(value: float) -> str:
    """`lost 1.2 points`, `gained 0.3 points`, `lost nothing`."""
    if abs(value) < SAME:
        return "lost nothing"
    points = f"{100 * abs(value):.1f}".removesuffix(".0")
    return f"{'lost' if value < 0 else 'gained'} {points} {'point' if points == '1' else 'points'}"


def leaked(summary: Summary, config: Config) -> str:
    """The leak audit, where it found something."""
    n, part = finite(summary, "n_leaked"), finite(summary, "leaked_share")
    if not n or part is None:
        return ""
    return f"{n:,.0f} of the images it is judged by ({share(part)}) were trained on, too"


def untouched(summary: Summary, config: Config) -> str:
    """What is known before the first edit was measured."""
    before = finite(summary, "unedited_original_accuracy")
    if before is None:
        return ""
    return f"so far only the unedited model was measured: it gets {share(before)} of its own task right"


def harmed(summary: Summary) -> bool:
    """Whether the original task got worse, on clean images or under corruptions."""
    before, after = finite(summary, "unedited_original_accuracy"), finite(summary, "original_accuracy")
    fell = before is not None and after is not None and after < before - SAME
    return fell or (finite(summary, "original_ood_penalty") or 0.0) < -SAME
