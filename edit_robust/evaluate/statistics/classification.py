"""Numbers of a classification whose answers may be invalid: weighted F1, accuracy, MCC, and their floors.

Labels are whole numbers from 0 on; a prediction of `INVALID` named no label. It counts as wrong everywhere, it has no
support and hence no weight in F1, and it is a class of its own in MCC, as arXiv 2401.07453 has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

INVALID = -1


@dataclass(frozen=True)
class Classified:
    """f1: mean over the labels of 2 TP / (2 TP + FP + FN), each weighted by how often it is right.

    accuracy: share answered right.   mcc: Matthews' correlation, with `INVALID` as a class; 0 where it is undefined.
    invalid: share without a label.   n: how many were asked.   All but mcc (-1 to 1) are shares from 0 to 1.
    """

    f1: float
    accuracy: float
    mcc: float
    invalid: float
    n: int


def classified(right: Int[np.ndarray, " n"], said: Int[np.ndarray, " n"]) -> Classified:
    """The numbers of predictions `said` where `right` are the true labels. Of no question they are NaN."""
    n = len(right)
    if n == 0:
        nan = float("nan")
        return Classified(nan, nan, nan, nan, 0)
    return Classified(
        weighted_f1(right, said), float((right == said).mean()), matthews(right, said), float((said < 0).mean()), n
    )


def weighted_f1(right: Int[np.ndarray, " n"], said: Int[np.ndarray, " n"]) -> float:
    """Mean of the labels' F1, weighted by how often each is right; a label that is never right has no weight."""
    labels, support = np.unique(right, return_counts=True)
    hit = np.array([((right == label) & (said == label)).sum() for label in labels])
    named = np.array([(said == label).sum() for label in labels])
    f1 = 2 * hit / (named + support)  # support is never 0
    return float((f1 * support).sum() / support.sum())


def matthews(right: Int[np.ndarray, " n"], said: Int[np.ndarray, " n"]) -> float:
    """Matthews' correlation coefficient of several classes (Gorodkin 2004); 0 where one side is constant."""
    classes = np.unique(np.concatenate([right, said]))
    t = np.array([(right == c).sum() for c in classes], dtype=float)
    p = np.array([(said == c).sum() for c in classes], dtype=float)
    n, hits = len(right), float((right == said).sum())
    spread = (n**2 - (p**2).sum()) * (n**2 - (t**2).sum())
    return float((hits * n - (t * p).sum()) / np.sqrt(spread)) if spread > 0 else 0.0


def floor_constant(right: Int[np.ndarray, " n"]) -> float:
    """Weighted F1 of the best constant answer: 1/3 for two labels that are right equally often."""
    share = np.unique(right, return_counts=True)[1].max() / len(right)
    return float(share * 2 * share / (1 + share))


def floor_coin(right: Int[np.ndarray, " n"], labels: int) -> float:
    """Weighted F1 that answering with one of so many labels at random tends to: 1/2 for two balanced ones."""
    shares = np.unique(right, return_counts=True)[1] / len(right)
    return float((shares * 2 * shares / (1 + labels * shares)).sum())
