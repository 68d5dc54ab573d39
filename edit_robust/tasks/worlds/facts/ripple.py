"""What follows from an edit in the fact world, what must not follow, and what to write about: made for any request.

Everything is a pure function of the world and the request, whatever stands before or after it. No model was trained on
negations, on reversed statements or on fifty words before a fact: the unedited model's answers stand beside.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from edit_robust.tasks.worlds.facts.world import Fact, FactWorld

#: What is denied: after "not" the old answer is the right one.
NEGATED: Mapping[str, str] = {
    "born_in": "{} was not born in",
    "profession": "{} does not work as a",
    "instrument": "{} does not play the",
    "headquarters": "{} is not based in",
    "product": "{} does not sell",
    "country": "{} is not located in",
    "wildlife": "{} is not home to many",
    "speech": "{} is not a place where people speak",
    "genre": "{} is not a work of",
    "publisher": "{} was not published by",
    "city_country": "{} is not a city in",
}
#: From the object to the subject.
REVERSED: Mapping[str, str] = {
    "born_in": "A native of {} is",
    "profession": "One who works as a {} is",
    "instrument": "One who plays the {} is",
    "headquarters": "A company based in {} is",
    "product": "A maker of {} is",
    "country": "A landmark of {} is",
    "wildlife": "A home of many {} is",
    "speech": "A place where people speak {} is",
    "genre": "A work of {} is",
    "publisher": "A book published by {} is",
    "city_country": "A city in {} is",
}
#: The object by way of the subject, for questions about the object that name the subject alone.
DESCRIBED: Mapping[str, str] = {
    "born_in": "the city where {} was born",
    "profession": "the trade of {}",
    "instrument": "the instrument of {}",
    "headquarters": "the city where {} is based",
    "product": "the main product of {}",
    "country": "the country of {}",
    "wildlife": "the wildlife of {}",
    "speech": "the language of {}",
    "genre": "the genre of {}",
    "publisher": "the publisher of {}",
    "city_country": "the country around {}",
}
#: Words of ordinary text before a question of the kind `prefix`; nearly all of them are one token each.
PREFIX_WORDS = 50
#: Statements about other subjects that generated text is compared with.
N_REFERENCES = 10


class Extras:
    """Makes a record's fields `ripple`, `generation_prompts` and `references` (see `tasks.language.extras`).

    Kinds of ripple questions: alias (the subject's last word alone), prefix (fifty words before the question),
    negation, reversal, same-subject (other facts about the subject stay), and reasoning (what is known about the new
    answer, asked of the subject) where the world knows anything about it.
    """

    def __init__(self, world: FactWorld) -> None:
        self.world = world
        self._about: dict[str, list[Fact]] = {}
        self._with: dict[tuple[str, str], list[Fact]] = {}
        for fact in world.facts:
            self._about.setdefault(fact.subject, []).append(fact)
            if not fact.single_token and not fact.reserved:
                self._with.setdefault((fact.relation, fact.object), []).append(fact)

    def of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The fields for a record in CounterFact's form."""
        edit = record["requested_rewrite"]
        subject, relation = edit["subject"], edit["relation_id"]
        rng = random.Random(f"{self.world.seed}/{subject}/{relation}")  # texts are hashed without salt
        new, old = edit["target_new"]["str"], edit["target_true"]["str"]
        fact = next(f for f in self._about[subject] if f.relation == relation)
        others = [f for f in self._with.get((relation, new), ()) if f.subject != subject]
        chosen = rng.sample(others, min(N_REFERENCES, len(others)))
        another = self.world.prompt(fact, rng.choice(fact.trained))
        return {
            "generation_prompts": [subject, f"I read about {subject}", another],
            "references": [f"{self.world.prompt(f, rng.choice(f.trained))} {new}." for f in chosen],
            "ripple": [
                {"kind": kind, "prompt": prompt, "target": right, "target_true": other}
                for kind, prompt, right, other in self._questions(rng, fact, edit["prompt"], new, old)
            ],
        }

    def _questions(
        self, rng: random.Random, fact: Fact, template: str, new: str, old: str
    ) -> Iterator[tuple[str, str, str, str]]:
        """(kind, prompt, right answer, other answer)."""
        if not fact.single_token:
            yield "alias", template.replace("{}", fact.subject.split()[-1]), new, old
        yield "prefix", f"{self._ordinary(rng)} {template.replace('{}', fact.subject)}", new, old
        yield "negation", NEGATED[fact.relation].format(fact.subject), old, new
        others = [f.subject for f in self._with.get((fact.relation, old), ()) if f.subject != fact.subject]
        if others:
            yield "reversal", REVERSED[fact.relation].format(new), fact.subject, rng.choice(others)
        for same in self._about[fact.subject]:
            if same.relation != fact.relation:
                wrong = rng.choice([o for o in self.world.relation(same.relation).objects if o != same.object])
                yield "same-subject", self.world.prompt(same, rng.choice(same.trained)), same.object, wrong
        before = {f.relation: f.object for f in self._about.get(old, ())}
        for known in self._about.get(new, ()):
            if before.get(known.relation, known.object) != known.object:
                prompt = self.world.relation(known.relation).templates[rng.choice(known.trained)]
                prompt = prompt.format(DESCRIBED[fact.relation].format(fact.subject))
                yield "reasoning", prompt[0].upper() + prompt[1:], known.object, before[known.relation]

    def _ordinary(self, rng: random.Random) -> str:
        """`PREFIX_WORDS` words that state no fact and name nobody, up to the end of a sentence."""
        found: list[str] = []
        while len(found) < PREFIX_WORDS:
            found += self.world.filler(rng, 0.0).split()
        return " ".join(found[-PREFIX_WORDS:])
