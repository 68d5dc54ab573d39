"""The field's numbers for edited language models, from log-probabilities alone.

CounterFact: success is strict, p(right choice) > p(other), so ties and NaN fail; on edit, paraphrase and neighbourhood
prompts it is ES, PS and NS. Magnitude is the difference of the two exp(mean log-probability): EM, PM, NM. Accuracy asks
more: every token of the right choice must be the argmax. All are means within a request, then over requests.
S is the harmonic mean of ES, PS and NS. zsRE's metric is the share of right tokens (token accuracy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from edit_robust.core.data import Scores


def _right(scores: Scores, values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return values[np.arange(len(scores)), scores.target]


def _other(scores: Scores) -> Float[np.ndarray, " n"]:
    """Log-probability of the best choice that is not the right one; NaN where there is none or one of them is NaN."""
    present = scores.tokens > 0
    present[np.arange(len(scores)), scores.target] = False
    best = np.where(present, scores.logp, -np.inf).max(axis=1)
    return np.where(present.any(axis=1), best, np.nan)


def success(scores: Scores) -> Bool[np.ndarray, " n"]:
    """Is the right choice strictly more likely than any other? Ties and NaN fail."""
    return _right(scores, scores.logp) > _other(scores)


def magnitude(scores: Scores) -> Float[np.ndarray, " n"]:
    """exp(mean log-probability) of the right choice less the best other's."""
    return np.exp(_right(scores, scores.logp)) - np.exp(_other(scores))


def accuracy(scores: Scores) -> Bool[np.ndarray, " n"]:
    """Is every token of the right choice the argmax under teacher forcing?"""
    return _right(scores, scores.hits) == 1


def token_accuracy(scores: Scores) -> Float[np.ndarray, " n"]:
    """Share of the right choice's tokens that are the argmax under teacher forcing."""
    return _right(scores, scores.hits)


def over_groups(values: np.ndarray, groups: Sequence[str]) -> tuple[float, int]:
    """Mean within each group, then over groups; and the number of groups."""
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(which, weights=np.asarray(values, dtype=float), minlength=len(names))
    return float((sums / np.bincount(which, minlength=len(names))).mean()), len(names)


def harmonic_mean(values: Sequence[float]) -> float:
    """0 as soon as one of them is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / v for v in values)


def probe_metrics(scores: Scores, groups: Sequence[str]) -> dict[str, tuple[float, int]]:
    """metric -> (value, number of requests). Success and magnitude only where there is a choice to be made."""
    found = {
        "accuracy": over_groups(accuracy(scores), groups),
        "token_accuracy": over_groups(token_accuracy(scores), groups),
    }
    if not np.isnan(scores.logp).all():
        contested = (scores.tokens > 0).sum(axis=1) > 1
        if contested.any():
            some = scores.take(np.flatnonzero(contested))
            theirs = [g for g, c in zip(groups, contested, strict=True) if c]
            found["success"] = over_groups(success(some), theirs)
            found["magnitude"] = over_groups(magnitude(some), theirs)
    return found


def overall(by_probe: dict[str, dict[str, tuple[float, int]]]) -> tuple[float, int] | None:
    """S: the harmonic mean over edit, paraphrase and neighbourhood of success, or of token accuracy without choices."""
    if not {"edit", "paraphrase", "neighbourhood"} <= set(by_probe):
        return None
    three = [by_probe[p] for p in ("edit", "paraphrase", "neighbourhood")]
    metric = "success" if all("success" in m for m in three) else "token_accuracy"
    return harmonic_mean([m[metric][0] for m in three]), three[0][metric][1]


def perplexity(scores: Scores) -> tuple[float, int]:
    """exp of the mean negative log-probability per token over all texts, and the number of tokens."""
    tokens = scores.tokens[:, 0]
    total = int(tokens.sum())
    nll = -float(np.where(tokens > 0, scores.logp[:, 0] * tokens, 0).sum()) / max(total, 1)
    return float(np.exp(np.minimum(nll, 700.0))), total


@dataclass(frozen=True)
class Forgetting:
    """Shares of the facts that were right after their own edit (n of them).

    momentary: wrong now.  sticky: wrong now or at any check before.  recovered: right now, wrong at a check before.
    """

    momentary: float
    sticky: float
    recovered: float
    n: int


def forgetting(at_edit: Bool[np.ndarray, " n"], checks: Sequence[Bool[np.ndarray, " _"]]) -> Forgetting:
    """What became of edits 0..n-1. `checks` are the earlier retention checks (each of the m <= n edits made by then)
    and, last, the present one (of all n)."""
    n = len(at_edit)
    now = np.asarray(checks[-1], dtype=bool)
    ever_wrong = np.zeros(n, dtype=bool)
    before = np.zeros(n, dtype=bool)
    for i, check in enumerate(checks):
        wrong = ~np.asarray(check, dtype=bool)
        ever_wrong[: len(wrong)] |= wrong
        if i < len(checks) - 1:
            before[: len(wrong)] |= wrong
    right = np.asarray(at_edit, dtype=bool)
    total = int(right.sum())
    if total == 0:
        return Forgetting(float("nan"), float("nan"), float("nan"), 0)
    return Forgetting(
        float((right & ~now).sum() / total),
        float((right & ever_wrong).sum() / total),
        float((right & now & before).sum() / total),
        total,
    )
