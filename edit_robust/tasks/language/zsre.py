"""zsRE question answering (Levy et al. 2017) in the evaluation format of MEND (Mitchell et al. 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from edit_robust.core.data import Ripple, TextRequest
from edit_robust.core.options import Aside, DataFile
from edit_robust.tasks.fetch import fetch
from edit_robust.tasks.language.documents import as_document
from edit_robust.tasks.language.questions import FileTask, read_template
from edit_robust.tasks.reading import Row, json_rows
from edit_robust.tasks.selection import Count

URL = "https://rome.baulab.info/data/dsets/zsre_mend_eval.json"
#: Of the published file (19,086 records, 8,091,864 bytes).
SHA256 = "8a371d512f8a6ab175db4ef672181d5c0e52da23298cb51e5a2eeea2f89aa9cd"

FIELDS = ("subject", "src", "pred", "rephrase", "alt", "answers", "loc", "loc_ans", "cond", "portability")


def read_record(row: Row, target: Literal["answers", "alt"], id: str) -> tuple[TextRequest, str] | None:
    """One record as a request, and its questions with their true answers as one document.

    The neighbourhood question is `loc` as it stands ("nq question: ...") followed by "?", with `loc_ans` as its
    right answer, as in ROME's evaluation. A question under `portability` (as EasyEdit's files have it) follows from
    `alt`, and is asked where that is the target. None if the record has no `alt` and that was asked for.
    """
    subject = row.text("subject")
    template = read_template(row, "src", subject)
    answers = row.texts("answers")
    if not answers:
        raise row.error("answers", "is empty")
    true = answers[0].strip()
    if target == "alt" and row.get("alt") == "":
        return None
    new, old = (true, None) if target == "answers" else (row.text("alt"), true)
    rephrase = row.as_text("rephrase", row.get("rephrase")).rstrip()
    loc, loc_answer = row.as_text("loc", row.get("loc")).rstrip() + "?", row.text("loc_ans")
    request = TextRequest(
        id,
        template,
        new,
        old,
        subject,
        paraphrases=(rephrase,),
        neighbours=((loc, loc_answer),),
        ripple=_portability(row) if target == "alt" else (),
    )
    statements = [f"{request.prompt} {true}", f"{rephrase} {true}", f"{loc} {loc_answer}"]
    return request, as_document(statements)


def _portability(row: Row) -> tuple[Ripple, ...]:
    """The question that follows from the alternative answer, where the record has one."""
    if not row.data.get("portability"):
        return ()
    prompt, answer = row.text("portability.New Question"), row.text("portability.New Answer")
    return (Ripple("reasoning", prompt, answer),)


class Zsre(FileTask):
    """zsRE, judged by the share of the right answer's tokens that the model itself would say.

    target: what the edit writes. "answers": the true answer `answers[0]`, as ROME's and MEMIT's evaluation does;
        "alt": the alternative answer `alt`, as MEND's does (records with an empty `alt` are left out).

    The other arguments are those of `Counterfact`. A request's id is its position in the file, from 0.
    """

    protocol = "zsre"
    contrast: ClassVar[bool] = False
    needs: ClassVar[str] = (
        "zsre_mend_eval.json in MEND's evaluation format (subject, src, answers, alt, rephrase, loc, loc_ans): "
        f"task.path=FILE, or downloaded from {URL}"
    )

    def __init__(
        self,
        name: str = "zsre",
        path: DataFile | None = None,
        target: Literal["answers", "alt"] = "answers",
        n_requests: Count = None,
        order: int = 0,
        unique_subjects: bool = True,
        corpus_path: DataFile | None = None,
        held_out_path: DataFile | None = None,
        n_corpus: int = 100_000,
        n_held_out: int = 1000,
        cache_dir: Aside[str] = "outputs/cache/data",
    ) -> None:
        super().__init__(
            name, path, n_requests, order, unique_subjects, corpus_path, held_out_path, n_corpus, n_held_out
        )
        self.target, self.cache_dir = target, cache_dir

    def _source(self) -> Path:
        return Path(self.path) if self.path else fetch(URL, Path(self.cache_dir) / "zsre_mend_eval.json", SHA256)

    def _read(self) -> list[tuple[TextRequest, str]]:
        rows = enumerate(json_rows(self._source(), FIELDS))
        return [pair for i, row in rows if (pair := read_record(row, self.target, str(i))) is not None]

    def _text_options(self) -> dict[str, Any]:
        return {"target": self.target}  # records without an `alt` are left out where that is the target
