"""The fact world: invented subjects, their facts, and natural English around them.

Everything here is a pure function of a seed. The world is what the shipped `fact-gpt` model knows, so the same
seed must give the same world on every machine: randomness comes from `random.Random` with explicit integer seeds.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from edit_robust.tasks.worlds.facts import sentences, words
from edit_robust.tasks.worlds.facts.sentences import VERDICTS, Question

SingleToken = Literal["late", "none", "only"]

#: Raised when the same seed gives other text: second moments are stored under it.
VERSION = 4

N_TEMPLATES = 8
N_HELD_OUT = 3
N_OBJECTS = 20
# Single-token subjects that are ordered "late" stand at these positions, counted from 0: 40 of them, every fifth one.
FIRST_SINGLE_TOKEN, SINGLE_TOKEN_GAP = 75, 5

# A document is 2 to 5 sentences. The first one mostly is filler (what a model samples after the separator, and so the
# contexts of an edit, should be ordinary text); of the others most state a fact.
FACT_SHARE_FIRST, FACT_SHARE = 0.4, 0.75
# Inside a document a subject may go by its last word alone ("Cordell grew up in"), which is unique in this world.
SHORT_NAME_SHARE = 0.25
SENTENCES = (2, 5)
# Documents of the training text that are claims and their verdicts, and how many stand in one.
CLAIM_SHARE = 0.15
CLAIMS = (1, 4)


@dataclass(frozen=True)
class Relation:
    """One kind of fact: 8 phrasings (each with one `{}`) and 20 objects, each a single token."""

    name: str
    subject_type: str
    templates: tuple[str, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A true statement of the world.

    `held_out` are the phrasings never seen for this fact; `reserved` facts are about subjects that no request edits
    and that are nobody's neighbours: reserved ones, and objects of other facts.
    """

    subject: str
    subject_type: str
    relation: str
    object: str
    held_out: tuple[int, ...]
    single_token: bool = False
    reserved: bool = False

    @property
    def trained(self) -> tuple[int, ...]:
        """Indices of the phrasings in which the training text states this fact."""
        return tuple(i for i in range(N_TEMPLATES) if i not in self.held_out)


def _sub_seed(seed: int, stream: int, index: int = 0) -> int:
    """A distinct integer seed per (world, stream, index): tuples would go through the salted hash."""
    return (seed * 1_000_003 + stream) * 1_000_003 + index


def _name_parts(rng: random.Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """100 beginnings and 100 ends of invented names."""
    starts = sorted({o + r for o in words.ONSETS for r in words.STARTS_REST})
    ends = sorted({o + r for o in words.END_ONSETS for r in words.END_RESTS})
    return tuple(sorted(rng.sample(starts, 100))), tuple(sorted(rng.sample(ends, 100)))


def _surnames(rng: random.Random, starts: tuple[str, ...], ends: tuple[str, ...], n: int) -> list[str]:
    """`n` distinct two-part invented names; parts are shared between names, pairs never are."""
    pairs = [(a, b) for a in starts for b in ends if a[-1] != b[0]]
    rng.shuffle(pairs)
    # Spread evenly: no part is used much more often than another, so no last token is much more ambiguous.
    cap = -(-n // len(starts)) + 2
    used_a: dict[str, int] = {}
    used_b: dict[str, int] = {}
    out: list[str] = []
    for a, b in pairs:
        if used_a.get(a, 0) < cap and used_b.get(b, 0) < cap:
            used_a[a] = used_a.get(a, 0) + 1
            used_b[b] = used_b.get(b, 0) + 1
            out.append(a + b)
            if len(out) == n:
                return out
    raise ValueError(f"only {len(out)} surnames could be made, {n} were asked for")


def _full_names(counts: dict[str, int], names: Iterator[str]) -> list[tuple[str, str]]:
    """(name, subject type) for every subject of several words that `counts` asks for; heads go round."""
    out: list[tuple[str, str]] = []
    for kind, n in counts.items():
        heads = [h.replace("-", " ") for h in words.HEADS[kind].split()]
        out += [(f"{heads[i % len(heads)]} {next(names)}", kind) for i in range(n)]
    return out


def _facts_about(
    rng: random.Random,
    relation: Relation,
    group: list[tuple[str, str]],
    single_token: bool = False,
    reserved: bool = False,
) -> list[Fact]:
    """A fact of `relation` for every (subject, type) of `group` that has the relation's type."""
    members = [s for s, kind in group if kind == relation.subject_type]
    # Balanced objects: every neighbourhood has the same size, and no object is a good blind guess.
    objects = [relation.objects[i % N_OBJECTS] for i in range(len(members))]
    rng.shuffle(objects)
    found = []
    for subject, obj in zip(members, objects, strict=True):
        held_out = tuple(sorted(rng.sample(range(N_TEMPLATES), N_HELD_OUT)))
        found.append(Fact(subject, relation.subject_type, relation.name, obj, held_out, single_token, reserved))
    return found


@dataclass(frozen=True)
class FactWorld:
    """All facts of the invented world.

    `facts` holds one entry per (subject, relation); `subjects` lists those that can be edited, the single-token ones
    last, and `reserved` those that never are, of which downstream tasks ask; `name_parts` are the beginnings and ends
    invented names are made of (the tokenizer learns one token for each).
    """

    seed: int
    relations: tuple[Relation, ...]
    subjects: tuple[str, ...]
    reserved: tuple[str, ...]
    facts: tuple[Fact, ...]
    name_parts: tuple[tuple[str, ...], tuple[str, ...]]

    @classmethod
    def generate(cls, seed: int = 0) -> FactWorld:
        """The world of a seed: 1020 subjects, 80 reserved ones, 40 cities; 11 relations of 20 objects, 2800 facts."""
        rng = random.Random(_sub_seed(seed, 1))
        relations = tuple(
            Relation(name, kind, templates, tuple(words.OBJECTS[name].split()))
            for name, (kind, templates) in words.TEMPLATES.items()
        )
        of_objects = tuple(
            Relation(name, kind, templates, tuple(words.OBJECTS[name].split()))
            for name, (kind, _, templates) in words.OF_OBJECTS.items()
        )
        starts, ends = _name_parts(rng)
        surnames = _surnames(rng, starts, ends, sum(words.MULTI.values()) + sum(words.SINGLE.values()))
        names = iter(surnames)
        multi = _full_names(words.MULTI, names)
        single = [(next(names), kind) for kind, n in words.SINGLE.items() for _ in range(n)]
        rng.shuffle(multi)

        facts: list[Fact] = []
        for relation in relations:
            facts += _facts_about(rng, relation, multi)
            facts += _facts_about(rng, relation, single, single_token=True)
        # Drawn apart, so that the rest of a world does not depend on how many there are.
        rng = random.Random(_sub_seed(seed, 9))
        pairs = sorted({a + b for a in starts for b in ends if a[-1] != b[0]} - set(surnames))
        reserved = _full_names(words.RESERVED, iter(rng.sample(pairs, sum(words.RESERVED.values()))))
        for relation in relations:
            facts += _facts_about(rng, relation, reserved, reserved=True)
        rng = random.Random(_sub_seed(seed, 11))
        for relation in of_objects:
            theirs = words.OF_OBJECTS[relation.name][1]
            known = [(o, relation.subject_type) for name in theirs for o in words.OBJECTS[name].split()]
            facts += _facts_about(rng, relation, known, reserved=True)
        relations += of_objects
        subjects = tuple(s for s, _ in multi) + tuple(s for s, _ in single)
        return cls(seed, relations, subjects, tuple(s for s, _ in reserved), tuple(facts), (starts, ends))

    def relation(self, name: str) -> Relation:
        """The relation of that name."""
        for relation in self.relations:
            if relation.name == name:
                return relation
        raise KeyError(f"no relation {name!r}; there are {', '.join(r.name for r in self.relations)}")

    def prompt(self, fact: Fact, template: int, short: bool = False) -> str:
        """The statement of `fact` in phrasing `template`, up to (not including) its object."""
        name = fact.subject.split()[-1] if short else fact.subject
        return self.relation(fact.relation).templates[template].format(name)

    def single_token_subjects(self) -> tuple[str, ...]:
        """Subjects that are one token, with and without a leading space."""
        return tuple(dict.fromkeys(f.subject for f in self.facts if f.single_token))

    def vocabulary_text(self) -> list[str]:
        """Every phrasing, object and head word once, without the invented names: what a tokenizer should know."""
        heads = [h.replace("-", " ") for text in words.HEADS.values() for h in text.split()]
        phrasings = [t.format("") for r in self.relations for t in r.templates]
        objects = [f" {o}." for r in self.relations for o in r.objects]
        verdicts = [
            words.CLAIM.format(c.format("", k), v) for c in words.CLAIMED for k in words.HEADS for v in VERDICTS
        ]
        return phrasings + objects + heads + [f" {h}" for h in heads] + verdicts

    def filler(self, rng: random.Random, mention: float = 0.25, ending: str | None = None) -> str:
        """One sentence that states no fact (`sentences.filler`); with chance `mention` it names a random subject."""
        if rng.random() < mention:
            fact = rng.choice(self.facts)
            return sentences.mention(rng, fact.subject, fact.subject_type)
        return sentences.filler(rng, ending)

    def documents(
        self, seed: int, n_docs: int, facts: tuple[Fact, ...] | None = None, stream: int = 2, claims: float = 0.0
    ) -> list[str]:
        """`n_docs` documents of 2 to 5 sentences, facts (in trained phrasings) between filler.

        Facts are dealt from a reshuffled deck rather than drawn, so each is stated equally often. A share `claims` of
        the documents are claims and their verdicts instead, none of them about a reserved subject.
        """
        rng = random.Random(_sub_seed(self.seed, stream, seed))
        deck: list[Fact] = []
        out: list[str] = []
        told = [f for f in facts or self.facts if not f.reserved]
        for _ in range(n_docs):
            if claims and rng.random() < claims:
                some = rng.sample(told, rng.randint(*CLAIMS))
                made = (self._claim(rng, f.subject, f.subject_type, rng.random() < 0.5) for f in some)
                out.append(" ".join(f"{q.prompt} {q.target}." for q in made))
                continue
            stated = []
            for i in range(rng.randint(*SENTENCES)):
                if rng.random() >= (FACT_SHARE if i else FACT_SHARE_FIRST):
                    stated.append(self.filler(rng))
                    continue
                if not deck:
                    deck = list(facts or self.facts)
                    rng.shuffle(deck)
                fact = deck.pop()
                short = i > 0 and rng.random() < SHORT_NAME_SHARE
                stated.append(f"{self.prompt(fact, rng.choice(fact.trained), short)} {fact.object}.")
            out.append(" ".join(stated))
        return out

    def training_text(self, seed: int = 0, n_docs: int = 1000) -> list[str]:
        """Documents of the training distribution; second moments are estimated from these."""
        return self.documents(seed, n_docs, stream=2, claims=CLAIM_SHARE)

    def held_out_text(self, n_docs: int = 200) -> list[str]:
        """Documents of the same distribution that training never saw, for perplexity.

        Without claims: what a false one states cannot be foreseen.
        """
        return self.documents(0, n_docs, stream=3)

    def untouched_facts(self, seed: int = 0, n: int = 100, held_out: bool = False) -> list[Question]:
        """`n` facts about reserved subjects, which no request edits and no neighbourhood asks about.

        The prompt is a trained phrasing, or a held-out one; options are all objects of the relation. There are 200
        facts; beyond that they come again, mostly in another phrasing.
        """
        rng = random.Random(_sub_seed(self.seed, 6, seed))
        found = []
        for fact in self._deal_reserved(rng, n):
            template = rng.choice(fact.held_out if held_out else fact.trained)
            found.append(Question(self.prompt(fact, template), fact.object, self.relation(fact.relation).objects))
        return found

    def claims(self, seed: int = 0, n: int = 100) -> list[Question]:
        """`n` claims about reserved subjects, half of them true, up to their verdict, which is "True" or "False".

        They say what a subject is: a person, a company, a place or a book. f"{prompt} {target}." of some of them makes
        a few-shot prompt. None is asked twice.
        """
        rng = random.Random(_sub_seed(self.seed, 7, seed))
        facts = {f.subject: f for f in self.facts if f.subject in self.reserved}
        found: dict[str, Question] = {}
        while len(found) < n:
            fact = facts[rng.choice(self.reserved)]
            question = self._claim(rng, fact.subject, fact.subject_type, len(found) % 2 == 0)
            found.setdefault(question.prompt, question)
        dealt = list(found.values())
        rng.shuffle(dealt)
        return dealt

    def completions(self, seed: int = 0, n: int = 100) -> list[Question]:
        """`n` sentences without a fact, up to their last word, which is determined by what stands before it.

        Every other one repeats two nouns, a pair that the training text never repeats; options are 4 nouns. The rest
        end in set phrases ("on the way" home); options are the last words of all of them.
        """
        rng = random.Random(_sub_seed(self.seed, 8, seed))
        pairs = [(a, b) for a in words.NOUNS for b in words.NOUNS if a != b and sentences.unseen(a, b)]
        ends = tuple(sorted({phrase.split()[-1] for phrase in words.SET_PHRASES}))
        found = []
        for i in range(n):
            if i % 2:
                begun, last = rng.choice(words.SET_PHRASES).rsplit(" ", 1)
                sentence = self.filler(rng, 0.0, f"{begun} {last}")
                found.append(Question(sentence.removesuffix(f" {last}."), last, ends))
                continue
            a, b = rng.choice(pairs)
            others = rng.sample([w for w in words.NOUNS if w not in (a, b)], 2)
            sentence = words.ECHO.format(a, b, a, b)
            prompt = f"{rng.choice(words.OPENERS)} {sentence}" if rng.random() < 0.4 else sentence.capitalize()
            found.append(Question(prompt.removesuffix(f" {b}"), b, tuple(sorted((a, b, *others)))))
        return found

    def _deal_reserved(self, rng: random.Random, n: int) -> list[Fact]:
        """`n` facts about reserved subjects, each as often as the others."""
        deck: list[Fact] = []
        while len(deck) < n:
            again = [f for f in self.facts if f.subject in self.reserved]
            rng.shuffle(again)
            deck += again
        return deck[:n]

    def _claim(self, rng: random.Random, subject: str, subject_type: str, true: bool) -> Question:
        """That the subject is of its type, or of another one."""
        stated = subject_type if true else rng.choice([t for t in words.HEADS if t != subject_type])
        claim = words.CLAIM.format(rng.choice(words.CLAIMED).format(subject, stated), "").rstrip()
        return Question(claim, VERDICTS[not true], VERDICTS)

    def requests(
        self, n: int | None = None, single_token: SingleToken = "late", order: int = 0
    ) -> list[dict[str, Any]]:
        """`n` edit requests in CounterFact form, each with another subject (default: all 1020).

        `single_token` places the single-token subjects: "late" puts none among the first 75, then every fifth is
        one until all 40 are used; "none" leaves them out, "only" gives nothing else. Such a request's prompt opens with
        the subject, and it carries `"single_token_subject": True`. `order` > 0 permutes the others, and the
        single-token subjects among themselves; a request is the same in every order.
        """
        if single_token not in ("late", "none", "only"):
            raise ValueError(f"single_token is {single_token!r}; choose late, none or only")
        rng = random.Random(_sub_seed(self.seed, 4))
        by_subject: dict[str, list[Fact]] = {}
        for fact in self.facts:
            by_subject.setdefault(fact.subject, []).append(fact)
        same = self._with_same_object()
        chosen = [rng.choice(by_subject[s]) for s in self.subjects]
        requests = [self._request(rng, fact, same[fact.relation, fact.object]) for fact in chosen]
        rng.shuffle(requests)
        requests = [{"case_id": i, **r} for i, r in enumerate(requests)]
        if order:
            random.Random(_sub_seed(self.seed, 10, order)).shuffle(requests)
        multi = [r for r in requests if not r["single_token_subject"]]
        single = [r for r in requests if r["single_token_subject"]]
        if single_token == "only":
            ordered = single
        elif single_token == "none":
            ordered = multi
        else:
            ordered = multi
            for i, request in enumerate(single):
                ordered.insert(FIRST_SINGLE_TOKEN + i * SINGLE_TOKEN_GAP, request)
        if n is not None and n > len(ordered):
            raise ValueError(f"{n} requests were asked for, the world has {len(ordered)}")
        return ordered[:n]

    def training_requests(self, subjects: Collection[str], single_token: SingleToken = "late") -> list[dict[str, Any]]:
        """A request in CounterFact form for every fact about `subjects`, in the world's order; its id is fact-<i>.

        Every fact has random choices of its own, so that its request does not depend on the other subjects.
        """
        same, found = self._with_same_object(), []
        for i, fact in enumerate(self.facts):
            kind = single_token == "late" or fact.single_token == (single_token == "only")
            if fact.subject in subjects and kind:
                rng = random.Random(_sub_seed(self.seed, 5, i))
                found.append({"case_id": f"fact-{i}", **self._request(rng, fact, same[fact.relation, fact.object])})
        return found

    def _with_same_object(self) -> dict[tuple[str, str], list[Fact]]:
        """(relation, object) -> the facts that neighbours are drawn from: no single tokens, no reserved subjects."""
        same: dict[tuple[str, str], list[Fact]] = {}
        for fact in self.facts:
            if not (fact.single_token or fact.reserved):
                same.setdefault((fact.relation, fact.object), []).append(fact)
        return same

    def _request(self, rng: random.Random, fact: Fact, same: list[Fact]) -> dict[str, Any]:
        relation = self.relation(fact.relation)
        opening = [t for t in fact.trained if relation.templates[t].startswith("{}")]
        template = rng.choice(opening)
        target = rng.choice([o for o in relation.objects if o != fact.object])
        paraphrases = [self.prompt(fact, t) for t in rng.sample(fact.held_out, 2)]
        paraphrases = [f"{self.filler(rng, 0.0)} {p}" if rng.random() < 0.5 else p for p in paraphrases]
        neighbours = [f for f in same if f.subject != fact.subject]
        rng.shuffle(neighbours)
        return {
            "requested_rewrite": {
                "prompt": relation.templates[template],
                "relation_id": relation.name,
                "target_new": {"str": target, "id": target},
                "target_true": {"str": fact.object, "id": fact.object},
                "subject": fact.subject,
            },
            "paraphrase_prompts": paraphrases,
            "neighborhood_prompts": [self.prompt(f, rng.choice(f.trained)) for f in neighbours[:10]],
            "attribute_prompts": [],
            "generation_prompts": [],
            "single_token_subject": fact.single_token,
        }
