"""SST-2, MRPC, CoLA or RTE, asked as the scaling paper (arXiv 2401.07453) asks them; see `downstream`."""

from __future__ import annotations

from typing import Literal

from edit_robust.core.errors import UserError
from edit_robust.core.options import DataFile
from edit_robust.core.question_sets import QuestionSet
from edit_robust.evaluate.base import Setting
from edit_robust.evaluate.downstream import AsksSets
from edit_robust.tasks.language.downstream.formats import Protocol, RteLabels
from edit_robust.tasks.language.downstream.glue import Glue


class GlueTask(AsksSets):
    """One of the four tasks.

    path, shots: .jsonl files, or hf:NAME[:config[:split]][@REVISION]; null: GLUE's validation split, and the training
                 split as `protocol` has it.
    protocol:    gcf: shots of the training split, answers searched with their case; ume: no shots unless `n_shots` asks
                 for some, which are then the first of the file, and answers searched whatever the case.
    n_shots:     null: as the protocol has it (SST-2 4, MRPC 6, CoLA 6, RTE 3; 0 with ume).
    shot_seed:   draws the shots, balanced; null: the first of the file, as they stand.
    n:           questions, as many of each label (fewer where there are not so many); null: all.
    sample_seed: draws them where there are more.
    rte_labels:  paper: entailment is answered "False", as in the paper's prompts; correct: "True".
    every, tokens: see `AsksSets`.
    """

    def __init__(
        self,
        task: Literal["sst2", "mrpc", "cola", "rte"],
        path: DataFile | None = None,
        shots: DataFile | None = None,
        protocol: Protocol = "gcf",
        n_shots: int | None = None,
        n: int | None = 200,
        every: int = 10,
        tokens: int = 3,
        shot_seed: int | None = 0,
        sample_seed: int = 37,
        rte_labels: RteLabels = "paper",
    ) -> None:
        super().__init__(every, tokens)
        if n is not None and n < 2:
            raise UserError(f"measure.{task}.n={n} must be at least 2: one question of each label")
        if n_shots is not None and n_shots < 0:
            raise UserError(f"measure.{task}.n_shots={n_shots} must be 0 or more")
        self.glue = Glue(
            task=task,
            path=path,
            shots=shots,
            protocol=protocol,
            n_shots=n_shots,
            n=n,
            rte_labels=rte_labels,
            sample_seed=sample_seed,
            shot_seed=shot_seed,
            option=f"measure.{task}",
        )
        self.glue.check()

    def sets(self, setting: Setting) -> list[QuestionSet]:
        return [self.glue.question_set()]
