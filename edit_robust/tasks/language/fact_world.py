"""The built-in fact world as a task: it needs no file, and `fact-gpt` knows its facts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from edit_robust.core.data import Probe, Request, TextRequest
from edit_robust.core.question_sets import Asked, QuestionSet
from edit_robust.tasks.language.counterfact import FIELDS, read_record
from edit_robust.tasks.language.questions import ask
from edit_robust.tasks.reading import Row
from edit_robust.tasks.selection import Count, at_most, check_counts, select
from edit_robust.tasks.worlds.facts.ripple import Extras
from edit_robust.tasks.worlds.facts.world import VERSION, FactWorld, Question

#: Questions of each downstream task, and claims that are shown before one is to be judged.
_DOWNSTREAM, _CLAIMS_SHOWN = 200, 2


def _own(name: str, questions: Sequence[Question], shots: tuple[str, ...] = ()) -> QuestionSet:
    """The world's questions as a set; an answer is the word that a generated text begins with."""
    asked = tuple(Asked(q.prompt, q.target, q.options) for q in questions)
    return QuestionSet(name, "world", asked, shots, find="begins")


class FactWorldTask:
    """Requests about invented subjects, one a subject, in CounterFact's form and judged by its protocol.

    world_seed:   the world; the shipped model knows world 0.
    n_requests:   how many requests to make, cut after ordering: a number, which must be there; `up-to-100` for at most
                  100; None for all.
    order:        0 for the world's order, k > 0 for the permutation seeded by k.
    single_token: "late": subjects of one token come after the first 75, in every order; "none": without them;
                  "only": they alone.
    n_corpus, n_held_out: documents of `corpus()` and of `held_out()`.
    """

    protocol = "counterfact"
    gives: ClassVar[type[Request]] = TextRequest
    needs: ClassVar[str] = "nothing: the world is built in (models of other data do not know its facts)"
    corpus_source = "training text of the fact world"
    held_out_source = "unseen text of the fact world"

    def __init__(
        self,
        name: str = "fact-world",
        world_seed: int = 0,
        n_requests: Count = None,
        order: int = 0,
        single_token: Literal["late", "none", "only"] = "late",
        n_corpus: int = 2000,
        n_held_out: int = 200,
    ) -> None:
        check_counts(order, n_requests=n_requests, n_corpus=n_corpus, n_held_out=n_held_out)
        self.name, self.world_seed = name, world_seed
        self.n_requests, self.order, self.single_token = n_requests, order, single_token
        self.n_corpus, self.n_held_out = n_corpus, n_held_out

    @cached_property
    def world(self) -> FactWorld:
        """The world behind the requests."""
        return FactWorld.generate(seed=self.world_seed)

    @cached_property
    def _selected(self) -> list[TextRequest]:
        records = self.world.requests(None, single_token=self.single_token, order=self.order)
        # the world has ordered them: only those that are taken need to be made
        return select(self._as_requests(records[: at_most(self.n_requests)]), 0, False, self.n_requests, self.name)

    def _as_requests(self, records: Sequence[dict[str, Any]]) -> list[TextRequest]:
        """Records in CounterFact's form as requests, with what follows from them and what to write about."""
        more = Extras(self.world)
        full = enumerate(({**record, **more.of(record)} for record in records), start=1)
        return [read_record(Row(f"{self.name}, record {i}", r, FIELDS))[0] for i, r in full]

    def requests(self) -> list[TextRequest]:
        """The changes to make, ordered and cut to `n_requests`."""
        return list(self._selected)

    def training_requests(self) -> list[TextRequest]:
        """A request for every fact about a subject that `requests()` leave out, in the world's order.

        There are none where `n_requests` is None, for every subject has a request then. `single_token` holds here, too.
        """
        others = set(self.world.subjects) - {request.subject for request in self._selected}
        return self._as_requests(self.world.training_requests(others, single_token=self.single_token))

    def probes(self, requests: Sequence[Request]) -> list[Probe]:
        """edit, paraphrase and neighbourhood questions about `requests` (see `questions.ask`)."""
        return ask(requests)

    def downstream(self) -> list[QuestionSet]:
        """Three tasks about subjects that no request edits, 200 questions each.

        untouched-facts: facts in phrasings that training did not state them in; 20 objects to choose from.
        completions:     the last word of a sentence without a fact.
        claims:          "True" or "False" after a statement, with two examples before it, as the training text has it.
        """
        world, n, shown = self.world, _DOWNSTREAM, _CLAIMS_SHOWN
        claims = world.claims(n=n + shown)
        return [
            _own("untouched-facts", world.untouched_facts(n=n, held_out=True)),
            _own("completions", world.completions(n=n)),
            _own("claims", claims[shown:], tuple(f"{q.prompt} {q.target}. " for q in claims[:shown])),
        ]

    def corpus(self) -> list[str]:
        """`n_corpus` documents of the training distribution."""
        return self.world.training_text(seed=0, n_docs=self.n_corpus)

    def corpus_key(self) -> dict[str, Any]:
        """What `corpus()` depends on, told without making it."""
        return {"world": "facts", "version": VERSION, "seed": self.world_seed, "n": self.n_corpus}

    def held_out(self) -> list[str]:
        """`n_held_out` documents of the same distribution that training never saw."""
        return self.world.held_out_text(n_docs=self.n_held_out)
