"""The fact world: invented subjects, their facts, and natural English around them.

Everything here is a pure function of a seed. The world is what the shipped `fact-gpt` model knows, so the same
seed must give the same world on every machine: randomness comes from `random.Random` with explicit integer seeds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

SingleToken = Literal["late", "none", "only"]

N_TEMPLATES = 8
N_HELD_OUT = 3
N_OBJECTS = 20
# Requests before this position never hold a single-token subject when they are ordered "late".
FIRST_SINGLE_TOKEN = 200

# A document is 2 to 5 sentences. The first one mostly is filler (what a model samples after the separator, and so the
# contexts of an edit, should be ordinary text); of the others most state a fact.
FACT_SHARE_FIRST, FACT_SHARE = 0.4, 0.75
# Inside a document a subject may go by its last word alone ("Cordell grew up in"), which is unique in this world.
SHORT_NAME_SHARE = 0.25
SENTENCES = (2, 5)

_TEMPLATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "born_in": (
        "person",
        (
            "{} was born in",
            "{} comes from the city of",
            "{} is a native of",
            "{} grew up in",
            "{} spent the early years in",
            "The birthplace of {} is",
            "The family of {} lived in",
            "The city where {} was born is",
        ),
    ),
    "profession": (
        "person",
        (
            "{} works as a",
            "{} earns a living as a",
            "{} was trained as a",
            "{} found work as a",
            "{} is paid to be a",
            "By trade {} is a",
            "People hire {} as a",
            "The usual job of {} is that of a",
        ),
    ),
    "instrument": (
        "person",
        (
            "{} plays the",
            "{} performs on the",
            "{} practises every day on the",
            "{} gives concerts on the",
            "{} took lessons on the",
            "The instrument of {} is the",
            "On stage {} plays the",
            "Listeners know {} for playing the",
        ),
    ),
    "headquarters": (
        "company",
        (
            "{} is based in",
            "{} has its main office in",
            "{} was founded in",
            "{} is run from",
            "{} pays its taxes in",
            "The headquarters of {} are in",
            "The head office of {} stands in",
            "The managers of {} meet in",
        ),
    ),
    "product": (
        "company",
        (
            "{} is a maker of",
            "{} sells",
            "{} produces",
            "{} earns its money with",
            "{} is known for its",
            "The main product of {} is",
            "Customers of {} buy",
            "The factories of {} make",
        ),
    ),
    "country": (
        "place",
        (
            "{} is located in",
            "{} lies in the north of",
            "{} is a landmark of",
            "{} can be found in",
            "{} belongs to",
            "The country of {} is",
            "Travellers reach {} through",
            "The map shows {} in",
        ),
    ),
    "wildlife": (
        "place",
        (
            "{} is home to many",
            "{} is full of wild",
            "{} protects its",
            "{} attracts visitors who watch",
            "{} shelters a great number of",
            "The wildlife of {} includes",
            "Around {} people often see",
            "The emblem of {} shows two",
        ),
    ),
    "speech": (
        "place",
        (
            "{} is a place where people speak",
            "{} has road signs written in",
            "{} has a school that teaches",
            "{} has guides who explain it in",
            "{} prints its newspaper in",
            "The people of {} speak",
            "The language heard in {} is",
            "Children around {} learn",
        ),
    ),
    "genre": (
        "book",
        (
            "{} is a work of",
            "{} belongs to the genre of",
            "{} is listed under",
            "{} is read by lovers of",
            "{} won a prize for",
            "The genre of {} is",
            "Critics describe {} as pure",
            "Libraries file {} under",
        ),
    ),
    "publisher": (
        "book",
        (
            "{} was published by",
            "{} was first printed by",
            "{} is sold by",
            "{} appeared in print with",
            "{} was brought out by",
            "The publisher of {} is",
            "The rights to {} belong to",
            "The first edition of {} came from",
        ),
    ),
}

_OBJECTS: dict[str, str] = {
    "born_in": "Paris London Madrid Rome Berlin Vienna Prague Lisbon Dublin Oslo Athens Cairo Tokyo Delhi Boston "
    "Chicago Warsaw Moscow Sydney Toronto",
    "profession": "teacher lawyer painter doctor carpenter farmer soldier sailor baker tailor writer judge "
    "chemist nurse pilot plumber librarian butcher gardener translator",
    "instrument": "piano violin guitar flute harp cello trumpet clarinet tuba oboe banjo accordion organ drums "
    "saxophone bassoon mandolin trombone viola lute",
    "headquarters": "Seattle Houston Dallas Denver Geneva Milan Munich Hamburg Zurich Brussels Amsterdam Stockholm "
    "Helsinki Singapore Shanghai Seoul Dubai Mumbai Nairobi Montreal",
    "product": "furniture shoes bicycles cameras chocolate paper glass tractors carpets toys watches soap steel "
    "radios engines candles helmets clothes medicine batteries",
    "country": "France Spain Italy Germany Norway Sweden Finland Poland Greece Turkey Egypt Kenya India China Japan "
    "Brazil Chile Canada Mexico Peru",
    "wildlife": "wolves bears eagles foxes deer otters seals owls swans frogs lizards turtles horses goats rabbits "
    "dolphins storks beavers monkeys camels",
    "speech": "English French Spanish Italian German Norwegian Swedish Finnish Polish Greek Turkish Arabic Hindi "
    "Chinese Japanese Portuguese Dutch Russian Hungarian Korean",
    "genre": "comedy tragedy romance horror fantasy satire poetry history philosophy biography crime drama mystery "
    "folklore adventure travel war memoir propaganda mythology",
    "publisher": "Penguin Vintage Scribner Knopf Harper Doubleday Macmillan Hachette Springer Elsevier Routledge "
    "Bloomsbury Faber Picador Viking Dover Norton Pearson Puffin Orbit",
}

_HEADS: dict[str, str] = {
    "person": "Anna Boris Clara David Elena Felix Greta Henry Irene Jonas Katja Lukas Maria Nils Olga Peter Quentin "
    "Rosa Simon Tara Ulrich Vera Walter Xenia Yara Zoltan Agnes Bruno Carla Denis Edith Frank Gloria Hugo Isabel "
    "Julian Karin Leon Monica Norman",
    "company": "Atelier Maison House Studio Banco Casa Grupo Brothers",
    "place": "Lake Mount Port Fort Cape Castle Valley Abbey",
    "book": "Ballad-of Song-of Return-to Voyage-to Letters-from Tales-of Nights-in Beyond",
}

_MULTI: dict[str, int] = {"person": 260, "company": 240, "place": 240, "book": 240}
_SINGLE: dict[str, int] = {"company": 20, "place": 20}


def _words(text: str, separator: str = " ") -> tuple[str, ...]:
    return tuple(text.split(separator))


_ADJECTIVES = _words(
    "old green quiet busy warm simple young small large bright dark heavy early late narrow empty famous "
    "careful gentle strange wooden broken distant local"
)
_NOUNS = _words(
    "market garden house river train window letter song story winter morning bridge table doctor dog cat "
    "road kitchen boat field picture clock neighbour visitor child teacher tree door lamp coat island "
    "storm village book"
)
_VERBS = _words(
    "opened closed found watched missed crossed painted carried followed repaired remembered described "
    "ignored reached left visited helped moved covered liked"
)
_WHEN = _words(
    "this morning;last winter;before the storm;after dinner;every summer;in the afternoon;for many "
    "years;near the river;behind the old house;on the way home;without a word;during the night;at the end "
    "of the road",
    ";",
)
_OPENERS = _words(
    "Sometimes;Therefore;Because of this;In the end;You know;I think;Every year;However;Later;Of "
    "course;At first;They say that;For example;Once again",
    ";",
)

_ONSETS = _words("B Br C Cr D Dr F Fl G Gr H J K Kr L M N P Pl Qu R S St T Tr V W Y Z Sk")
_STARTS_REST = _words("al an ar el en er il in or ol un ur")
_END_ONSETS = _words("b d f g h k l m n r s t v w br st th")
_END_RESTS = _words("all and ard ath ell ent erg est ick ida ill ina ist ona ord oss uck und urn ova")


@dataclass(frozen=True)
class Relation:
    """One kind of fact: 8 phrasings (each with one `{}`) and 20 objects, each a single token."""

    name: str
    subject_type: str
    templates: tuple[str, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A true statement of the world; `held_out` are the phrasings never seen for this fact."""

    subject: str
    subject_type: str
    relation: str
    object: str
    held_out: tuple[int, ...]
    single_token: bool = False

    @property
    def trained(self) -> tuple[int, ...]:
        """Indices of the phrasings in which the training text states this fact."""
        return tuple(i for i in range(N_TEMPLATES) if i not in self.held_out)


def _sub_seed(seed: int, stream: int, index: int = 0) -> int:
    """A distinct integer seed per (world, stream, index): tuples would go through the salted hash."""
    return (seed * 1_000_003 + stream) * 1_000_003 + index


def _with_article(phrase: str) -> str:
    """`a` or `an` before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _name_parts(rng: random.Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """100 beginnings and 100 ends of invented names."""
    starts = sorted({o + r for o in _ONSETS for r in _STARTS_REST})
    ends = sorted({o + r for o in _END_ONSETS for r in _END_RESTS})
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


@dataclass(frozen=True)
class FactWorld:
    """All facts of the invented world.

    `facts` holds one entry per (subject, relation); `subjects` lists the subjects, the single-token ones last;
    `name_parts` are the beginnings and ends invented names are made of (the tokenizer learns one token for each).
    """

    seed: int
    relations: tuple[Relation, ...]
    subjects: tuple[str, ...]
    facts: tuple[Fact, ...]
    name_parts: tuple[tuple[str, ...], tuple[str, ...]]

    @classmethod
    def generate(cls, seed: int = 0) -> FactWorld:
        """The world of a seed: 1020 subjects, 10 relations of 20 objects, 2560 facts."""
        rng = random.Random(_sub_seed(seed, 1))
        relations = tuple(
            Relation(name, kind, templates, tuple(_OBJECTS[name].split()))
            for name, (kind, templates) in _TEMPLATES.items()
        )
        n_multi = sum(_MULTI.values())
        starts, ends = _name_parts(rng)
        names = iter(_surnames(rng, starts, ends, n_multi + sum(_SINGLE.values())))
        multi: list[tuple[str, str]] = []
        for kind, n in _MULTI.items():
            heads = [h.replace("-", " ") for h in _HEADS[kind].split()]
            multi += [(f"{heads[i % len(heads)]} {next(names)}", kind) for i in range(n)]
        single = [(next(names), kind) for kind, n in _SINGLE.items() for _ in range(n)]
        rng.shuffle(multi)

        facts: list[Fact] = []
        for relation in relations:
            for group, one_token in ((multi, False), (single, True)):
                members = [s for s, kind in group if kind == relation.subject_type]
                # Balanced objects: every neighbourhood has the same size, and no object is a good blind guess.
                objects = [relation.objects[i % N_OBJECTS] for i in range(len(members))]
                rng.shuffle(objects)
                for subject, obj in zip(members, objects, strict=True):
                    held_out = tuple(sorted(rng.sample(range(N_TEMPLATES), N_HELD_OUT)))
                    facts.append(Fact(subject, relation.subject_type, relation.name, obj, held_out, one_token))
        subjects = tuple(s for s, _ in multi) + tuple(s for s, _ in single)
        return cls(seed, relations, subjects, tuple(facts), (starts, ends))

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
        heads = [h.replace("-", " ") for text in _HEADS.values() for h in text.split()]
        phrasings = [t.format("") for r in self.relations for t in r.templates]
        objects = [f" {o}." for r in self.relations for o in r.objects]
        return phrasings + objects + heads + [f" {h}" for h in heads]

    def filler(self, rng: random.Random, mention: float = 0.25) -> str:
        """One sentence that states no fact; with chance `mention` it names a random subject."""
        a, b = rng.sample(_NOUNS, 2)
        p, q = rng.sample(_ADJECTIVES, 2)
        verb, when = rng.choice(_VERBS), rng.choice(_WHEN)
        if rng.random() < mention:
            fact = rng.choice(self.facts)
            s = fact.subject
            return rng.choice(
                (
                    f"{s} is a {fact.subject_type}.",
                    f"I read about {s} {when}.",
                    f"The {a} {verb} {s} {when}.",
                    f"Nobody spoke of {s} {when}.",
                    f"{s} {verb} the {p} {a}.",
                    f"{rng.choice(_OPENERS)} {s} {verb} the {a} {when}.",
                )
            )
        core = rng.choice(
            (
                f"the {p} {a} {verb} the {b} {when}",
                f"the {a} {verb} {_with_article(f'{q} {b}')}",
                f"{_with_article(f'{p} {a}')} {verb} every {q} {b} {when}",
                f"I {verb} the {p} {a} {when}",
                f"they {verb} that {q} {b}",
                f"the {a} and the {b} were {p} {when}",
                f"there was {_with_article(f'{p} {a}')} {when}",
            )
        )
        if rng.random() < 0.4:
            return f"{rng.choice(_OPENERS)} {core}."
        return core[0].upper() + core[1:] + "."

    def documents(self, seed: int, n_docs: int, facts: tuple[Fact, ...] | None = None, stream: int = 2) -> list[str]:
        """`n_docs` documents of 2 to 5 sentences, facts (in trained phrasings) between filler.

        Facts are dealt from a reshuffled deck rather than drawn, so each is stated equally often.
        """
        rng = random.Random(_sub_seed(self.seed, stream, seed))
        deck: list[Fact] = []
        out: list[str] = []
        for _ in range(n_docs):
            sentences = []
            for i in range(rng.randint(*SENTENCES)):
                if rng.random() >= (FACT_SHARE if i else FACT_SHARE_FIRST):
                    sentences.append(self.filler(rng))
                    continue
                if not deck:
                    deck = list(facts or self.facts)
                    rng.shuffle(deck)
                fact = deck.pop()
                short = i > 0 and rng.random() < SHORT_NAME_SHARE
                sentences.append(f"{self.prompt(fact, rng.choice(fact.trained), short)} {fact.object}.")
            out.append(" ".join(sentences))
        return out

    def training_text(self, seed: int = 0, n_docs: int = 1000) -> list[str]:
        """Documents of the training distribution; second moments are estimated from these."""
        return self.documents(seed, n_docs, stream=2)

    def held_out_text(self, n_docs: int = 200) -> list[str]:
        """Documents of the same distribution that training never saw, for perplexity."""
        return self.documents(0, n_docs, stream=3)

    def requests(self, n: int | None = None, single_token: SingleToken = "late") -> list[dict[str, Any]]:
        """`n` edit requests in CounterFact form, each with another subject (default: all 1020).

        `single_token` places the single-token subjects: "late" puts none among the first 200 and spreads them
        evenly after that, "none" leaves them out, "only" gives nothing else. Such a request's prompt opens with the
        subject, and it carries `"single_token_subject": True`.
        """
        if single_token not in ("late", "none", "only"):
            raise ValueError(f"single_token is {single_token!r}; choose late, none or only")
        rng = random.Random(_sub_seed(self.seed, 4))
        by_subject: dict[str, list[Fact]] = {}
        same: dict[tuple[str, str], list[Fact]] = {}
        for fact in self.facts:
            by_subject.setdefault(fact.subject, []).append(fact)
            if not fact.single_token:
                same.setdefault((fact.relation, fact.object), []).append(fact)
        chosen = [rng.choice(by_subject[s]) for s in self.subjects]
        requests = [self._request(rng, fact, same[fact.relation, fact.object]) for fact in chosen]
        rng.shuffle(requests)
        multi = [r for r in requests if not r["single_token_subject"]]
        single = [r for r in requests if r["single_token_subject"]]
        if single_token == "only":
            ordered = single
        elif single_token == "none":
            ordered = multi
        else:
            ordered, rest = multi[:FIRST_SINGLE_TOKEN], multi[FIRST_SINGLE_TOKEN:]
            gap = len(rest) // len(single)
            for i, request in enumerate(single):
                ordered += [request, *rest[i * gap : (i + 1) * gap]]
            ordered += rest[len(single) * gap :]
        if n is not None and n > len(ordered):
            raise ValueError(f"{n} requests were asked for, the world has {len(ordered)}")
        return [{"case_id": i, **r} for i, r in enumerate(ordered[:n])]

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
