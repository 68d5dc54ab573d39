"""What a language run came to, clause by clause: which edits took, whom else they touched, how the model ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edit_robust.evaluate.columns_language import accuracy_only
from edit_robust.report.numbers import amount, finite, number

#: Perplexity this many times the unedited model's counts as a collapse; below `STEADY` it counts as unchanged.
COLLAPSE = 10.0
STEADY = 1.01

Summary = Mapping[str, Any]
Config = Mapping[str, Any]


def pct(value: float) -> str:
    """A share in whole percent; with a decimal near the ends, so that only all is 100 % and only none is 0 %."""
    if 99.0 < value < 100.0:
        return f"{min(value, 99.9):.1f} %"
    if 0.0 < value < 1.0:
        return f"{max(value, 0.1):.1f} %"
    return f"{value:.0f} %"


def rate(summary: Summary, name: str) -> float | None:
    """A score right after the edit, else at the end."""
    value = finite(summary, name)
    return finite(summary, f"final_{name}") if value is None else value


def trajectory(config: Config, name: str, default: Any = None) -> Any:
    """One of the settings of the walk, such as its name."""
    found = config.get("trajectory")
    return found.get(name, default) if isinstance(found, Mapping) else default


def tells_refused(summary: Summary) -> bool:
    """Whether the first clause says how many edits were refused, too."""
    return rate(summary, "ES") is not None or (accuracy_only(summary) and rate(summary, "ES_acc") is not None)


def took(summary: Summary, config: Config) -> str:
    """How many edits took, how, and how many were refused."""
    if accuracy_only(summary):
        return took_tokens(summary)
    value, total, refused = rate(summary, "ES"), finite(summary, "n_requests"), finite(summary, "n_refused") or 0.0
    if value is None:
        return ""
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


def manner(config: Config) -> str:
    """How the edits were made, where that matters for reading the number."""
    name, batch = trajectory(config, "name"), trajectory(config, "batch_size")
    many = isinstance(batch, int) and batch > 1
    if name == "single":
        return ", each in the unedited model"
    if name == "batch" and many:
        return f", {batch} at a time in the unedited model"
    return f", {batch} at a time" if name == "sequential" and many else ""


def took_tokens(summary: Summary) -> str:
    """The first clause where only accuracies exist: shares of the answers' tokens."""
    value, before = rate(summary, "ES_acc"), finite(summary, "unedited_ES_acc")
    if value is None:
        return ""
    notes = [] if before is None else [f"before: {pct(before)}"]
    if refused := finite(summary, "n_refused"):
        notes.append(f"{refused:.0f} {'edit' if round(refused) == 1 else 'edits'} refused")
    text = f"{pct(value)} of the new answers' tokens came out right"
    return f"{text} ({', '.join(notes)})" if notes else text


def rewordings(summary: Summary, config: Config) -> str:
    """Whether the edits hold for other words."""
    accuracy = accuracy_only(summary)
    value = rate(summary, "PS_acc" if accuracy else "PS")
    if value is None:
        return ""
    if accuracy:
        return f"{pct(value)} for reworded questions"
    if (rate(summary, "ES") or 0.0) <= 0:
        return f"reworded, {pct(value)} took" if value > 0 else ""
    subject = "it holds" if finite(summary, "n_requests") == 1 else "they hold"
    return f"{subject} for all rewordings" if value >= 100 else f"{subject} for rewordings in {pct(value)}"


def neighbours(summary: Summary, config: Config) -> str:
    """What became of the facts that no edit was about."""
    accuracy = accuracy_only(summary)
    name = "NS_acc" if accuracy else "NS"
    value, before = rate(summary, name), finite(summary, f"unedited_{name}")
    if value is None:
        return ""
    whom = "unrelated questions" if accuracy else "the neighbours' facts"
    end = finite(summary, f"final_{name}") if trajectory(config, "name") == "sequential" else None
    verb = "still come out right in" if accuracy else "kept"
    later = end is not None and abs(end - value) >= 1.0
    if before is not None and abs(value - before) < 0.5 and not later:
        return f"{whom} {verb} {pct(value)}, as before"
    notes = ([] if before is None else [f"before: {pct(before)}"]) + ([f"at the end: {pct(end)}"] if later else [])  # type: ignore[arg-type]
    return f"{whom} {verb} {pct(value)}" + (f" ({', '.join(notes)})" if notes else "")


def ending(summary: Summary, config: Config) -> str:
    """Forgetting after the whole sequence, and perplexity."""
    clauses = []
    forgotten, kept = finite(summary, "forgotten_pct"), finite(summary, "final_ES")
    sequence = trajectory(config, "name", "sequential") == "sequential" and finite(summary, "n_requests") != 1
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


def perplexity(summary: Summary) -> str:
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


def collapsed(summary: Summary) -> bool:
    """Whether the model no longer reads plain text: perplexity not finite, or ten times what it was."""
    before, after = number(summary, "unedited_perplexity"), number(summary, "perplexity")
    if after is None:
        return False
    return not math.isfinite(after) or (before is not None and 0 < COLLAPSE * before <= after)


def harmless(summary: Summary) -> bool:
    """Whether nothing got worse: neighbours at the edit and later, past edits, perplexity. Unknown is not harmless."""
    accuracy = accuracy_only(summary)
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
