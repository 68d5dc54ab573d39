"""How SST-2, MRPC, CoLA and RTE are asked: tables 4 to 7 of the scaling paper (arXiv 2401.07453).

Examples stand before the prompt with a blank line between them, their answers after a space. RTE comes in two ways: in
the paper's prompts entailment is answered "False" and its absence "True", against the meaning of the question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Protocol = Literal["gcf", "ume"]
RteLabels = Literal["paper", "correct"]
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Format:
    """A classification asked in words.

    template: the prompt, with a `{field}` for each field of an example.   marker: how it ends; the answer follows.
    words:    label of the data set -> its word.                           order: in which a text is searched for words.
    shots:    how many examples each protocol shows.                       data:  its name on the hub, with the config.
    """

    template: str
    marker: str
    words: Mapping[int, str]
    order: tuple[str, ...]
    shots: Mapping[str, int]
    data: str

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that the template shows."""
        names = ("sentence", "sentence1", "sentence2")
        return tuple(name for name in names if f"{{{name}}}" in self.template)

    def prompt(self, fields: Mapping[str, str]) -> str:
        """The template with an example's texts in it; braces in them are left alone."""
        text = self.template
        for i, name in enumerate(self.fields):
            text = text.replace(f"{{{name}}}", f"\0{i}\0")
        for i, name in enumerate(self.fields):
            text = text.replace(f"\0{i}\0", fields[name])
        return text


def _yes_no(template: str, marker: str, data: str) -> Format:
    return Format(template, marker, {1: "Yes", 0: "No"}, ("Yes", "No"), {"gcf": 6, "ume": 0}, data)


FORMATS: Mapping[str, Format] = {
    "sst2": Format(
        "Review : {sentence}\nSentiment :",
        "Sentiment :",
        {1: "positive", 0: "negative"},
        ("positive", "negative"),
        {"gcf": 4, "ume": 0},
        "nyu-mll/glue:sst2",
    ),
    "mrpc": _yes_no(
        "Are the sentences paraphrases of each other.\nSentence 1: {sentence1}\nSentence 2: {sentence2}\nAnswer:",
        "Answer:",
        "nyu-mll/glue:mrpc",
    ),
    "cola": _yes_no(
        "Is this sentence linguistically acceptable?\nSentence : {sentence}\nAnswer :",
        "Answer :",
        "nyu-mll/glue:cola",
    ),
    "rte": Format(
        "{sentence1}\nquestion: {sentence2} True or False?\nanswer:",
        "answer:",
        {0: "False", 1: "True"},
        ("False", "True"),
        {"gcf": 3, "ume": 0},
        "nyu-mll/glue:rte",
    ),
}
#: RTE as its question means it: label 0 is entailment.
RTE_CORRECT: Mapping[int, str] = {0: "True", 1: "False"}


def words_of(task: str, rte_labels: RteLabels) -> Mapping[int, str]:
    """Label of the data set -> the word that is right."""
    return RTE_CORRECT if task == "rte" and rte_labels == "correct" else FORMATS[task].words
