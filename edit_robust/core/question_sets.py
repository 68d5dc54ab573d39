"""Questions about something else than the edits: a downstream task, and the examples that stand before each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

#: How a generated text names an answer. "contains": the first of the options, in their order, that occurs in it;
#: "contains-lower": the same, whatever the case; "begins": the text begins with the option as a whole word.
Find = Literal["contains", "contains-lower", "begins"]


class Asked(NamedTuple):
    """A prompt, the option that is right, and all options in the order in which a text is searched for them."""

    prompt: str
    right: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class QuestionSet:
    """Questions of one task, asked in one way.

    name:      of the task: "sst2".             questions: what is asked; an answer stands after a space.
    how:       the protocol but for the number of shots: "gcf". Numbers of other protocols are not comparable.
    shots:     texts that stand before every prompt, in this order, each with what separates it from the next one.
    marker:    of a generated text only what stands behind this text's last occurrence counts; "": all of it.
    find:      how an option is found there.    cut: prompts that were shortened to fit into the model's window.
    """

    name: str
    how: str
    questions: tuple[Asked, ...]
    shots: tuple[str, ...] = ()
    marker: str = ""
    find: Find = "contains"
    cut: int = 0

    @property
    def protocol(self) -> str:
        """How it is asked, the number of shots included: "gcf-4"."""
        return f"{self.how}-{len(self.shots)}"

    @property
    def prefix(self) -> str:
        """What stands before every prompt."""
        return "".join(self.shots)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every option of any question, once, in the order in which they come up."""
        return tuple(dict.fromkeys(option for q in self.questions for option in q.options))

    def without_first_shot(self) -> QuestionSet:
        """The same with one example less."""
        return replace(self, shots=self.shots[1:])

    def answer(self, question: int, text: str) -> str | None:
        """The option that a generated text names after a question, or None."""
        options = self.questions[question].options
        if self.marker:
            text = text.rpartition(self.marker)[2]
        text = text.strip()
        if self.find == "begins":
            found = (o for o in options if text.startswith(o) and not text[len(o) : len(o) + 1].isalnum())
            return max(found, key=len, default=None)
        if self.find == "contains-lower":
            return next((o for o in options if o.lower() in text.lower()), None)
        return next((o for o in options if o in text), None)
