"""Entropy, TF-IDF and exact match of texts: by hand, at their limits, and against scikit-learn where it is there."""

from __future__ import annotations

import numpy as np
import pytest

from edit_robust.evaluate.statistics.text import (
    TfIdf,
    contains_answer,
    exact_match,
    generation_entropy,
    ngram_entropy,
    normalised,
)

DOCUMENTS = ["Harps have strings.", "A lute has strings, too; harps are larger.", "Paris lies on the Seine."]


def test_entropy_by_hand() -> None:
    text = "the cat saw the cat ."  # bigrams: the-cat twice, cat-saw, saw-the, cat-.
    shares = np.array([2, 1, 1, 1]) / 5
    assert ngram_entropy(text, 2) == pytest.approx(-(shares * np.log2(shares)).sum())
    assert ngram_entropy(text, 3) == pytest.approx(2.0)  # four different trigrams
    assert generation_entropy(text) == pytest.approx((2 / 3 * ngram_entropy(text, 2) + 4 / 3 * 2.0) / 2)


def test_entropy_at_its_limits() -> None:
    words = [f"w{i}" for i in range(65)]
    assert ngram_entropy(" ".join(words), 2) == pytest.approx(6.0), "64 different bigrams: log2(64)"
    assert generation_entropy("no " * 50) == ngram_entropy("one", 2) == generation_entropy("") == 0.0
    assert generation_entropy("The end. The end.") < generation_entropy("The end. An end!")


def test_words_weigh_by_their_rarity() -> None:
    weights = TfIdf.of(DOCUMENTS)
    assert weights.idf["harps"] == pytest.approx(np.log(4 / 3) + 1)
    assert weights.idf["paris"] == pytest.approx(np.log(4 / 2) + 1)
    assert "a" not in weights.idf and "unknown" not in weights.idf
    assert weights.cosine(DOCUMENTS[0], DOCUMENTS[0]) == pytest.approx(1.0)
    assert weights.cosine("HARPS! have; strings?", DOCUMENTS[0]) == pytest.approx(1.0)
    assert weights.cosine(DOCUMENTS[0], DOCUMENTS[2]) == 0.0
    assert weights.cosine("", DOCUMENTS[0]) == weights.cosine("quartz", DOCUMENTS[0]) == TfIdf.of([]).cosine("a", "b")
    assert 0 < weights.cosine("harps", DOCUMENTS[1]) < weights.cosine("harps are larger", DOCUMENTS[1]) < 1


def test_the_same_as_scikit_learns() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    vectors = text.TfidfVectorizer().fit(DOCUMENTS)
    weights = TfIdf.of(DOCUMENTS)
    for a in (*DOCUMENTS, "Strings, strings and more strings on the Seine: harps?"):
        for b in DOCUMENTS:
            theirs = float((vectors.transform([a]) @ vectors.transform([b]).T).toarray()[0, 0])
            assert weights.cosine(a, b) == pytest.approx(theirs, abs=1e-12)


def test_answers_are_compared_without_what_does_not_count() -> None:
    assert normalised(" The  U.S. Army,\n") == "us army"
    assert exact_match(" the Harp.", "harp") and exact_match("New Haven", " new haven ")
    assert not exact_match("harp player", "harp") and not exact_match("", "") and not exact_match(" . ", "the")
    assert contains_answer("It is the harp, I think.", " harp") and contains_answer("New Haven.", "New Haven")
    assert not contains_answer("harpist", "harp") and not contains_answer("New, old Haven", "New Haven")
    assert not contains_answer("anything", "The")
