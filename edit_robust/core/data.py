"""What to change, what to ask, and what came back: plain data without any model in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from edit_robust.core.images import ImageSet, Triples
from edit_robust.core.vocabulary import Vocabulary

#: A prompt about another subject and its right answer; None stands for the request's old answer.
Neighbour = tuple[str, str | None]


@dataclass(frozen=True)
class Request:
    """One change to a model: what every editor knows of it. `TextRequest` and `ImageRequest` say more.

    `x` is what the edit is made on: for language a prompt template with one `{}` for the subject, for vision
    the image pairs (`Triples`). `target` is what the model shall answer afterwards, `old` what it answered before
    (None: unknown).
    """

    about: ClassVar[str] = "requests"  # what this kind is called in messages

    id: str
    x: Any
    target: Any
    old: Any = None
    subject: str | None = None
    mask: Any = None

    @property
    def prompt(self) -> str:
        """The template with the subject filled in."""
        return str(self.x).replace("{}", str(self.subject), 1)


@dataclass(frozen=True)
class Ripple:
    """A question about what follows from an edit, or must not follow from it.

    kind:  what it tries (alias, reasoning, reversal, negation, prefix, same-subject, ...): numbers are means a kind.
    right: the answer that is right once the edit is made.   other: a wrong one to compare it with; None: there is none.
    """

    kind: str
    prompt: str
    right: str
    other: str | None = None


@dataclass(frozen=True)
class TextRequest(Request):
    """A change of what a language model says, with the questions that tell what the change did.

    paraphrases: other prompts for the same fact, whose right answer is `target`.
    neighbours:  prompts about other subjects, each with its right answer.
    relation:    the data set's name of the relation; None: it gives none.
    single_token_subject: whether the subject is one token of the world's own tokenizer; None: not known.
    question:    the fact asked as a question; None: there is no other way to ask than the prompt.
    generation:  prompts about the subject for a text to begin with.
    references:  texts about things for which the new answer is true: what generated text is compared with.
    ripple:      questions about what follows from the edit.
    """

    about: ClassVar[str] = "requests in words"

    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    relation: str | None = None
    single_token_subject: bool | None = None
    question: str | None = None
    generation: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    ripple: tuple[Ripple, ...] = ()


@dataclass(frozen=True)
class ImageRequest(Request):
    """A change of what a classifier answers: `x` holds the pairs to edit with.

    search:         pairs by which a learning rate is chosen; no picture of them is in the other splits. None: there
                    are none; an empty set: the data leave none.
    validation:     makes the images that the edit is judged on. None: there are none.
    concept, style: what the edit is about, in words.
    words:          the classes that labels are positions in, in words; None: the model's own.
    """

    about: ClassVar[str] = "requests with images"

    search: Triples | None = None
    validation: Callable[[], ImageSet] | None = None
    concept: str = ""
    style: str = ""
    words: Vocabulary | None = None


@dataclass(frozen=True)
class Example:
    """One question. `choices` are continuations, classes or prompts; `target` is the index of the right one.

    `group` names the request that the question belongs to: metrics average within a group, then over groups.
    """

    id: str
    x: Any
    choices: tuple[Any, ...]
    target: int = 0
    group: str = ""


@dataclass(frozen=True)
class Probe:
    """A named set of questions: edit, paraphrase, neighbourhood, original, downstream, text."""

    name: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Scores:
    """What a model answered to n examples with k choices each; absent choices are NaN.

    logp:   mean log-probability per token of each choice (nats); for classes, the log-softmax.
    hits:   share of the choice's tokens that are the argmax under teacher forcing (1: the model says it by itself).
    tokens: number of tokens of each choice.
    target: index of the right choice.
    """

    logp: Float[np.ndarray, "n k"]
    hits: Float[np.ndarray, "n k"]
    tokens: Int[np.ndarray, "n k"]
    target: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Sequence[int] | Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> Scores:
        """The same answers for some of the examples, in the order of `rows`."""
        i = np.asarray(rows)
        return Scores(self.logp[i], self.hits[i], self.tokens[i], self.target[i])


@dataclass(frozen=True)
class Record:
    """One measured number, as it stands in records.jsonl. Tidy: one row, one value.

    run:      the run's id.                        step:     trajectory step; 0 is the unedited model.
    alpha:    interpolation coefficient (1: the whole edit).
    n_edits:  edits in the model at this step.     scope:    whom the number is about (see `SCOPES`).
    probe:    edit, paraphrase, neighbourhood, ... or "" for numbers of the weights.
    shift, severity: the distribution shift; "none" and 0 without one.
    layer:    parameter the number is about, or "".
    metric, value, n: what was measured, and over how many examples (or requests) it is a mean.
    request:  the request that the number is about, where several stand side by side; "" otherwise.
    """

    run: str
    step: int
    alpha: float
    n_edits: int
    scope: str
    probe: str
    shift: str
    severity: int
    layer: str
    metric: str
    value: float
    n: int
    request: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


#: unedited: all requests on the untouched model; at-edit: the newest edit right after it was made;
#: retention: every edit made so far, at this later moment; final: all requests after the last edit;
#: model: the model as a whole (drift, perplexity).
SCOPES = ("unedited", "at-edit", "retention", "final", "model")

#: How a column's value is written: a rate in percent (0 to 100) or as a share (0 to 1, shown in percent); a signed
#: difference of shares (-0.012); a number; a count; seconds; a p value; a text.
Unit = Literal["percent", "share", "difference", "number", "count", "seconds", "p", "text"]


@dataclass(frozen=True)
class Column:
    """One number of a run's summary, and how tables show it. A measure gives its columns from a run's records.

    key:     its name in summary.json.             value:  None where it is not finite.
    label:   what it is, in words: the row of a run's table ("the edit took (ES)").
    moment:  when it was measured: the column of a run's table ("unedited", "at the end"); "": of the whole run.
    unit:    how it is written.                    low, high: 95 % interval, where there is one.
    short:   heading in tables of many runs ("ES"); "" leaves it out there.
    score:   whether it stands in the upper part of a run's table, with what edits are judged by.
    brief:   whether it stands in the short table of the terminal, too.
    note:    written behind the value ("p = 0.03").
    """

    key: str
    value: float | int | str | None
    label: str = ""
    moment: str = ""
    unit: Unit = "number"
    low: float | None = None
    high: float | None = None
    short: str = ""
    score: bool = False
    brief: bool = True
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
