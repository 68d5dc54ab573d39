"""The numbers of an edited language model in words: labels, units and moments for the columns of its summary."""

from __future__ import annotations

from edit_robust.core.data import Column
from edit_robust.evaluate.columns import END, UNEDITED, Summary, completed, edits, finite, resources, unlabelled
from edit_robust.evaluate.statistics.success import harmonic_mean

__all__ = ["answers", "describe", "drift", "edits", "forgetting", "perplexity", "resources"]

#: When the questions were asked: prefix of the summary's keys, and what to call it.
MOMENTS = (
    ("unedited_", UNEDITED),
    ("", "right after its edit"),
    ("retention_", "kept by all past edits"),
    ("final_", END),
)
SUCCESS = (
    ("ES", "the edit took (ES)"),
    ("PS", "it holds for rewordings (PS)"),
    ("NS", "neighbouring facts kept (NS)"),
    ("S", "all three together (S)"),
)
ACCURACY = (
    ("ES_acc", "right by itself: the edit's own question"),
    ("PS_acc", "right by itself: its rewordings"),
    ("NS_acc", "right by itself: neighbouring questions"),
)
HIDDEN = ("ES_token_acc", "PS_token_acc", "NS_token_acc", "ES_magnitude", "PS_magnitude", "NS_magnitude")
FORGETTING = (
    ("forgotten_pct", "edits forgotten", "forgotten"),
    ("forgotten_sticky_pct", "... at this or any earlier check", ""),
    ("recovered_pct", "... forgotten earlier, but back", ""),
)


def describe(summary: Summary) -> list[Column]:
    """All columns of a summary of a language run; numbers that none of the measures knows come last, unlabelled."""
    parts = (answers, forgetting, perplexity, drift, edits, resources)
    return completed(summary, [column for part in parts for column in part(summary)], summary)


def accuracy_only(summary: Summary) -> bool:
    """Whether the answers have accuracies but no success rates: a task without a rival answer, such as zsRE."""
    after = [prefix for prefix, _ in MOMENTS if prefix != "unedited_"]
    have = [any(finite(summary, prefix + name) is not None for prefix in after) for name in ("ES", "ES_acc")]
    return have == [False, True]


def answers(summary: Summary) -> list[Column]:
    """ES, PS, NS and S at every moment, in percent; accuracies beside them, or in their place where there are none.

    S is the harmonic mean of the three, computed here where the summary has only these.
    """
    swapped = accuracy_only(summary)
    names = [name for name, _ in (ACCURACY if swapped else SUCCESS)]
    newest = "" if any(finite(summary, name) is not None for name in names) else "final_"
    found = []
    for name, label in (*SUCCESS, *ACCURACY):
        brief = name in names
        for prefix, moment in MOMENTS:
            value = _score(summary, prefix, name)
            if value is None and prefix + name not in summary:
                continue
            short = name.replace("_acc", " tokens") if brief and prefix == newest else ""
            # What stands for S without success rates is made of token accuracies, which the table does not show.
            shown = "" if swapped and not brief else label
            found.append(Column(prefix + name, value, shown, moment, "percent", short=short, score=True, brief=brief))
    rest = [*(prefix + name for prefix, _ in MOMENTS for name in HIDDEN), *(["n_requests"] if found else [])]
    return completed(summary, found, rest)


def _score(summary: Summary, prefix: str, name: str) -> float | None:
    value = finite(summary, prefix + name)
    if value is None and name == "S":
        three = [finite(summary, prefix + part) for part in ("ES", "PS", "NS")]
        known = [part for part in three if part is not None]
        return harmonic_mean(known) if len(known) == len(three) else None
    return value


def forgetting(summary: Summary) -> list[Column]:
    """Shares of the past edits that the last check found forgotten, in percent."""
    found = [
        Column(key, finite(summary, key), label, unit="percent", short=short)
        for key, label, short in FORGETTING
        if key in summary
    ]
    return completed(summary, found, [key for key in summary if key.startswith(("forgotten_", "recovered_"))])


def perplexity(summary: Summary) -> list[Column]:
    """Perplexity on plain text of the unedited model and after the edits."""
    words = "perplexity on plain text"
    found = []
    if "unedited_perplexity" in summary:
        found.append(Column("unedited_perplexity", finite(summary, "unedited_perplexity"), words, UNEDITED))
    if "perplexity" in summary:
        found.append(Column("perplexity", finite(summary, "perplexity"), words, short="perplexity"))
    return found


def drift(summary: Summary) -> list[Column]:
    """The distance of the weights from the unedited ones: the Frobenius norm over all edited layers."""
    found = []
    if "drift" in summary:
        found.append(Column("drift", finite(summary, "drift"), "distance of the weights ‖W - W₀‖", short="drift"))
    return [*found, *unlabelled(summary, [key for key in summary if key.startswith("drift_")])]
