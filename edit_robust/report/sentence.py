"""One plain sentence on what the edits did and what they broke."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edit_robust.figures.frame import setting
from edit_robust.report import images
from edit_robust.report.numbers import amount, finite, number, uses_accuracy

#: Perplexity this many times the unedited model's counts as a collapse; below `STEADY` it counts as unchanged.
COLLAPSE = 10.0
STEADY = 1.01


def verdict(summary: dict[str, Any], config: dict[str, Any]) -> str:
    """What the edits did, whom else they touched, and how the model stood at the end; only of what was measured."""
    if images.is_image(summary):
        return images.verdict(summary)
    accuracy = uses_accuracy(summary)
    parts = [took_tokens(summary) if accuracy else took(summary, config)]
    parts.append(rewordings(summary, accuracy))
    parts.append(neighbours(summary, config, accuracy))
    parts.append(ending(summary, config))
    if collapsed(summary):
        parts.append("the model has collapsed")
    elif harmless(summary, accuracy):
        parts.append("nothing else that was measured broke")
    known = [part for part in parts if part]
    if not known:
        return "Nothing has been measured yet."
    text = "; ".join(known)
    return f"{text[0].upper()}{text[1:]}."


def pct(value: float) -> str:
    """A share in whole percent; with a decimal near the ends, so that only all is 100 % and only none is 0 %."""
    if 99.0 < value < 100.0:
        return f"{min(value, 99.9):.1f} %"
    if 0.0 < value < 1.0:
        return f"{max(value, 0.1):.1f} %"
    return f"{value:.0f} %"


def rate(summary: Mapping[str, Any], name: str) -> float | None:
    """A score right after the edit, else at the end."""
    value = finite(summary, name)
    return finite(summary, f"final_{name}") if value is None else value


def took(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """How many edits took, how, and how many were refused."""
    value, total, refused = rate(summary, "ES"), finite(summary, "n_requests"), finite(summary, "n_refused") or 0.0
    if value is None:
        return f"{refused:.0f} edits were refused" if refused else ""
    notes = []
    before = finite(summary, "unedited_ES")
    if total is None or total < 1:
        text = f"{pct(value)} of the edits took{manner(config)}"
        notes += [f"before: {pct(before)}"] if before is not None and before >= 5 else []
    else:
        count, all_of = round(value * total / 100), round(total)
        if all_of == 1:
            text = "the edit took" if count else "the edit did not take"
        elif count == 0:
            text = f"none of the {all_of:,} edits took"
        elif count == all_of:
            text = f"all {all_of:,} edits took{manner(config)}"
        else:
            text = f"{count:,} of {all_of:,} edits took{manner(config)}"
        if before is not None and before >= 5 and all_of > 1:
            notes.append(f"the unedited model already agreed with {round(before * total / 100):,}")
    if refused:
        single, everything = round(refused) == 1, total is not None and round(refused) >= round(total)
        all_words = "it was refused" if total is not None and round(total) == 1 else "all were refused"
        notes.append(all_words if everything else f"{refused:.0f} {'was' if single else 'were'} refused")
    return f"{text} ({', '.join(notes)})" if notes else text


def manner(config: Mapping[str, Any]) -> str:
    """How the edits were made, where that matters for reading the number."""
    name, batch = setting(config, "trajectory.name"), setting(config, "trajectory.batch_size")
    many = isinstance(batch, int) and batch > 1
    if name == "single":
        return ", each in the unedited model"
    if name == "batch" and many:
        return f", {batch} at a time in the unedited model"
    return f", {batch} at a time" if name == "sequential" and many else ""


def took_tokens(summary: Mapping[str, Any]) -> str:
    """The first clause where only accuracies exist: shares of the answers' tokens."""
    value, before = rate(summary, "ES_acc"), finite(summary, "unedited_ES_acc")
    if value is None:
        return ""
    notes = [] if before is None else [f"before: {pct(before)}"]
    if refused := finite(summary, "n_refused"):
        notes.append(f"{refused:.0f} {'edit' if round(refused) == 1 else 'edits'} refused")
    text = f"{pct(value)} of the new answers' tokens came out right"
    return f"{text} ({', '.join(notes)})" if notes else text


def rewordings(summary: Mapping[str, Any], accuracy: bool) -> str:
    """Whether the edits hold for other words."""
    value = rate(summary, "PS_acc" if accuracy else "PS")
    if value is None:
        return ""
    if accuracy:
        return f"{pct(value)} for reworded questions"
    if (rate(summary, "ES") or 0.0) <= 0:
        return f"reworded, {pct(value)} took" if value > 0 else ""
    subject = "it holds" if finite(summary, "n_requests") == 1 else "they hold"
    return f"{subject} for all rewordings" if value >= 100 else f"{subject} for rewordings in {pct(value)}"


def neighbours(summary: Mapping[str, Any], config: Mapping[str, Any], accuracy: bool) -> str:
    """What became of the facts that no edit was about."""
    name = "NS_acc" if accuracy else "NS"
    value, before = rate(summary, name), finite(summary, f"unedited_{name}")
    if value is None:
        return ""
    whom = "unrelated questions" if accuracy else "the neighbours' facts"
    end = finite(summary, f"final_{name}") if setting(config, "trajectory.name") == "sequential" else None
    verb = "still come out right in" if accuracy else "kept"
    later = end is not None and abs(end - value) >= 1.0
    if before is not None and abs(value - before) < 0.5 and not later:
        return f"{whom} {verb} {pct(value)}, as before"
    notes = ([] if before is None else [f"before: {pct(before)}"]) + ([f"at the end: {pct(end)}"] if later else [])  # type: ignore[arg-type]
    return f"{whom} {verb} {pct(value)}" + (f" ({', '.join(notes)})" if notes else "")


def ending(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Forgetting after the whole sequence, and perplexity."""
    clauses = []
    forgotten, kept = finite(summary, "forgotten_pct"), finite(summary, "final_ES")
    sequence = setting(config, "trajectory.name", "sequential") == "sequential" and finite(summary, "n_requests") != 1
    if sequence and forgotten is not None:
        share = "no edit" if forgotten <= 0 else "every edit" if forgotten >= 100 else f"{pct(forgotten)} of the edits"
        verb = "were" if share.endswith("edits") else "was"
        clauses.append(f"{share} {verb} forgotten")
    elif sequence and kept is not None and finite(summary, "ES") is not None:
        clauses.append(f"{pct(kept)} of the edits still hold")
    if text := perplexity(summary):
        clauses.append(text)
    when = "after the whole sequence " if sequence and len(clauses) > bool(perplexity(summary)) else ""
    return when + " and ".join(clauses) if clauses else ""


def perplexity(summary: Mapping[str, Any]) -> str:
    """Perplexity before and after."""
    before, after = number(summary, "unedited_perplexity"), number(summary, "perplexity")
    if after is None:
        return ""
    if before is None or not math.isfinite(before) or before <= 0:
        return f"perplexity is {amount(after)}"
    if not math.isfinite(after):
        return f"perplexity went from {amount(before)} to {amount(after)}"
    if 1 / STEADY < after / before < STEADY:
        return f"perplexity stayed at {amount(before)}"
    return f"perplexity {'rose' if after > before else 'fell'} from {two(before, after)}"


def two(before: float, after: float) -> str:
    """Two numbers that differ, with as many digits as it takes to see it."""
    for show in (amount, lambda value: f"{value:.2f}", lambda value: f"{value:.3f}"):
        first, second = show(before), show(after)
        if first != second:
            break
    return f"{first} to {second}"


def collapsed(summary: Mapping[str, Any]) -> bool:
    """Whether the model no longer reads plain text: perplexity not finite, or ten times what it was."""
    before, after = number(summary, "unedited_perplexity"), number(summary, "perplexity")
    if after is None:
        return False
    return not math.isfinite(after) or (before is not None and 0 < COLLAPSE * before <= after)


def harmless(summary: Mapping[str, Any], accuracy: bool) -> bool:
    """Whether nothing got worse: neighbours at the edit and later, past edits, perplexity. Unknown is not harmless."""
    name = "NS_acc" if accuracy else "NS"
    before = finite(summary, f"unedited_{name}")
    later = [finite(summary, f"{moment}{name}") for moment in ("", "retention_", "final_")]
    known = [value for value in later if value is not None]
    if before is None or not known or min(known) < before - 0.5:
        return False
    text, plain = number(summary, "perplexity"), number(summary, "unedited_perplexity")
    steady = text is None or (plain is not None and text < plain * STEADY)
    took_any = (rate(summary, "ES_acc" if accuracy else "ES") or 0.0) > 0
    return steady and took_any and (finite(summary, "forgotten_pct") or 0.0) <= 0
