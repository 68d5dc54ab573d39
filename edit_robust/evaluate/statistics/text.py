"""Statistics of generated text, from strings alone: n-gram entropy, TF-IDF similarity, exact match.

Words are runs of letters and digits; for entropy every mark of punctuation is a word of its own, and case counts.
(ROME's code splits with NLTK, which also cuts "don't" in two.)
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_WORDS_AND_MARKS = re.compile(r"\w+|[^\w\s]")
_WORDS = re.compile(r"\b\w\w+\b")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
#: n -> weight of H_n in GE.
ENTROPY_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def ngram_entropy(text: str, n: int) -> float:
    """H_n = -sum f log2 f over the frequencies f of the text's n-grams of words, in bits; 0 for fewer than n words."""
    words = _WORDS_AND_MARKS.findall(text)
    counts = np.array(list(Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)).values()), dtype=float)
    if not len(counts):
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # never -0


def generation_entropy(text: str) -> float:
    """GE = mean(2/3 H_2, 4/3 H_3) in bits (Meng et al. 2022, arXiv 2202.05262): low for text that repeats itself."""
    return float(np.mean([weight * ngram_entropy(text, n) for n, weight in ENTROPY_WEIGHTS.items()]))


@dataclass(frozen=True)
class TfIdf:
    """Texts as vectors of word counts times ln((1 + documents) / (1 + documents with the word)) + 1.

    Words have two letters or more, and case does not count; words that no document has are left out.
    """

    idf: dict[str, float]

    @classmethod
    def of(cls, documents: Iterable[str]) -> TfIdf:
        """The weights that some documents give."""
        having: Counter[str] = Counter()
        n = 0
        for document in documents:
            having.update(set(_WORDS.findall(document.lower())))
            n += 1
        return cls({word: float(np.log((1 + n) / (1 + m)) + 1) for word, m in having.items()})

    def cosine(self, first: str, second: str) -> float:
        """Cosine of two texts' vectors, in [0, 1]; 0 where one of them has no known word."""
        a, b = self._vector(first), self._vector(second)
        size = np.linalg.norm(list(a.values())) * np.linalg.norm(list(b.values()))
        return float(sum(a[word] * b[word] for word in a.keys() & b.keys()) / size) if size else 0.0

    def _vector(self, text: str) -> dict[str, float]:
        counts = Counter(_WORDS.findall(text.lower()))
        return {word: n * self.idf[word] for word, n in sorted(counts.items()) if word in self.idf}


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces, as answers to questions are compared (SQuAD)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(text: str, answer: str) -> bool:
    """Whether a text is the answer and nothing else, after normalising; nothing matches an empty text."""
    return bool(normalised(text)) and normalised(text) == normalised(answer)


def contains_answer(text: str, answer: str) -> bool:
    """Whether the answer stands in a text as whole words, after normalising."""
    wanted = normalised(answer)
    return bool(wanted) and f" {wanted} " in f" {normalised(text)} "
