"""CounterFact (Meng et al. 2022): counterfactual statements with paraphrases and neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edit_robust.core.data import TextRequest
from edit_robust.core.options import Aside, DataFile
from edit_robust.tasks.fetch import fetch
from edit_robust.tasks.language import extras
from edit_robust.tasks.language.documents import as_document
from edit_robust.tasks.language.questions import FileTask, read_template
from edit_robust.tasks.reading import Row, json_rows, kind_of
from edit_robust.tasks.selection import Count

URL = "https://rome.baulab.info/data/dsets/counterfact.json"
#: Of the published file (21,919 records, 45,108,470 bytes).
SHA256 = "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f"

FIELDS = (
    "case_id",
    "pararel_idx",
    "requested_rewrite",
    "prompt",
    "relation_id",
    "subject",
    "target_new",
    "target_true",
    "str",
    "id",
    "paraphrase_prompts",
    "neighborhood_prompts",
    "attribute_prompts",
    "single_token_subject",
    *extras.FIELDS,
)


def read_record(row: Row) -> tuple[TextRequest, str]:
    """One record in ROME's format as a request, and its statements that are true as one document.

    Spaces around subjects and targets and at the end of prompts are dropped: the space before an answer belongs to
    the answer. Texts to compare generated text with are the record's `references`, else its attribute prompts with the
    new answer. Raises UserError with the record's number and the field.
    """
    case = row.get("case_id")
    if not isinstance(case, int | str) or isinstance(case, bool):
        raise row.error("case_id", f"must be a number or text, not {kind_of(case)}")
    subject = row.text("requested_rewrite.subject")
    template = read_template(row, "requested_rewrite.prompt", subject)
    new = row.text("requested_rewrite.target_new.str")
    true = row.text("requested_rewrite.target_true.str")
    if new == true:
        raise row.error("requested_rewrite.target_new.str", f'is the same as target_true: "{new}"')
    paraphrases, neighbours = row.texts("paraphrase_prompts"), row.texts("neighborhood_prompts")
    attributes = row.texts("attribute_prompts") if "attribute_prompts" in row.data else ()
    more = extras.read_extras(row, subject)
    # Attribute prompts are about subjects for which the new answer is the true one.
    true_of_others = tuple(f"{p} {new}" for p in attributes)
    more["references"] = more["references"] or true_of_others
    relation = row.get("requested_rewrite").get("relation_id")
    request = TextRequest(
        str(case),
        template,
        new,
        true,
        subject,
        paraphrases=paraphrases,
        neighbours=tuple((prompt, None) for prompt in neighbours),
        relation=None if relation is None else str(relation),
        single_token_subject=row.data.get("single_token_subject"),
        **more,
    )
    true_statements = [f"{p} {true}" for p in (request.prompt, *paraphrases, *neighbours)]
    return request, as_document([*true_statements, *true_of_others, *more["generation"]])


class Counterfact(FileTask):
    """CounterFact, judged by success, magnitude and accuracy of the new against the true answer.

    path:            a local file in ROME's JSON format; without it the public file is downloaded once to `cache_dir`.
    n_requests:      how many requests to make, cut after ordering: a number, which must be there; `up-to-100` for at
                     most 100; None for all.
    order:           0 for the file's order, k > 0 for the permutation seeded by k.
    unique_subjects: keep only the first request of every subject (the scaling paper's protocol).
    corpus_path, held_out_path: documents (see `language.documents`); without them the records' own prompts, of which
                     the last 10 % are held out.
    n_corpus, n_held_out: documents at most.
    """

    protocol = "counterfact"
    needs: ClassVar[str] = (
        "counterfact.json in ROME's format (case_id, requested_rewrite, paraphrase_prompts, neighborhood_prompts): "
        f"task.path=FILE, or downloaded from {URL}"
    )

    def __init__(
        self,
        name: str = "counterfact",
        path: DataFile | None = None,
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
        self.cache_dir = cache_dir

    def _source(self) -> Path:
        return Path(self.path) if self.path else fetch(URL, Path(self.cache_dir) / "counterfact.json", SHA256)

    def _read(self) -> list[tuple[TextRequest, str]]:
        return [read_record(row) for row in json_rows(self._source(), FIELDS)]
