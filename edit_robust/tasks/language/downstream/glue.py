"""SST-2, MRPC, CoLA and RTE as question sets, in one of two published ways of asking.

gcf: examples from the training split (the paper shows fixed ones), answers searched with their case; what the scaling
     paper (arXiv 2401.07453) ran.
ume: no examples unless asked for, then the first of the file's first ten, which are never asked about; answers are
     searched whatever the case. What its successors' code (unified-model-editing) runs, without its faults.
"""

from __future__ import annotations

from dataclasses import dataclass

from edit_robust.core.errors import UserError
from edit_robust.core.question_sets import Asked, QuestionSet
from edit_robust.tasks.language.downstream.formats import FORMATS, SEPARATOR, Protocol, RteLabels, words_of
from edit_robust.tasks.language.downstream.sources import Labelled, balanced, draw_shots, read_examples

#: Examples at a file's beginning that `ume` keeps for shots.
_RESERVED = 10


@dataclass(frozen=True)
class Glue:
    """Options of one task, see `evaluate.downstream_glue`. option: the config's path to them, for errors."""

    task: str
    path: str | None = None
    shots: str | None = None
    protocol: Protocol = "gcf"
    n_shots: int | None = None
    n: int | None = 200
    rte_labels: RteLabels = "paper"
    sample_seed: int = 37
    shot_seed: int | None = 0
    option: str = "measure"

    def question_set(self) -> QuestionSet:
        """The questions with their examples. Reads the files; raises UserError for what does not fit."""
        form, words = FORMATS[self.task], words_of(self.task, self.rte_labels)
        source = self.path or f"hf:{form.data}:validation"
        wanted = form.shots[self.protocol] if self.n_shots is None else self.n_shots
        where = f"{self.option}.path={source}"
        examples = read_examples(source, f"{self.option}.path", form.fields, words)
        own = self.protocol == "ume" and self.shots is None
        asked = balanced(examples[_RESERVED:] if own else examples, self.n, self.sample_seed, words, where)
        if own and wanted > _RESERVED:
            raise UserError(f"{self.option}.n_shots={wanted}: protocol ume keeps {_RESERVED} examples for shots")
        shown = draw_shots(examples[:_RESERVED], wanted, None, words, where) if own else self._drawn(asked, wanted)
        how = f"{self.protocol}-{self.rte_labels}" if self.task == "rte" else self.protocol
        return QuestionSet(
            name=self.task,
            how=how,
            questions=tuple(Asked(form.prompt(e.texts), words[e.label], form.order) for e in asked),
            shots=tuple(f"{form.prompt(e.texts)} {words[e.label]}{SEPARATOR}" for e in shown),
            marker=form.marker,
            find="contains-lower" if self.protocol == "ume" else "contains",
        )

    def _drawn(self, asked: list[Labelled], wanted: int) -> list[Labelled]:
        """Examples of the training split, or of the file of shots."""
        if wanted == 0:
            return []
        form, words = FORMATS[self.task], words_of(self.task, self.rte_labels)
        source = self.shots or f"hf:{form.data}:train"
        found = read_examples(source, f"{self.option}.shots", form.fields, words)
        where = f"{self.option}.shots={source}"
        return draw_shots(found, wanted, self.shot_seed, words, where, {e.key for e in asked})

    def check(self) -> None:
        """Read what lies in local files: UserError for what does not fit, before a run begins."""
        form, words = FORMATS[self.task], words_of(self.task, self.rte_labels)
        needs_shots = self.n_shots != 0 and not (self.protocol == "ume" and self.shots is None)
        sources = {"path": self.path or "hf:"} | ({"shots": self.shots or "hf:"} if needs_shots else {})
        here = {name: s for name, s in sources.items() if not s.startswith("hf:")}
        if len(here) == len(sources):
            self.question_set()
        else:
            for name, source in here.items():
                read_examples(source, f"{self.option}.{name}", form.fields, words)
