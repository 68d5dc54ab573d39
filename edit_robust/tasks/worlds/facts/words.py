"""The words of the fact world: phrasings of its relations, their objects, and what names and filler are made of.

The shipped `fact-gpt` model was trained on exactly these: another word, or another order, is another world.
"""

from __future__ import annotations

#: relation -> the type of its subjects, and its 8 phrasings
TEMPLATES: dict[str, tuple[str, tuple[str, ...]]] = {
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
#: The same for what is known about objects themselves: their type, the relations whose objects they are, and phrasings.
OF_OBJECTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "city_country": (
        "city",
        ("born_in", "headquarters"),
        (
            "{} is a city in",
            "{} pays its mayor in the money of",
            "{} flies the flag of",
            "{} is under the laws of",
            "{} sends its envoys to",
            "The country around {} is",
            "The soldiers of {} serve",
            "The roads from {} lead through",
        ),
    ),
}

#: relation -> its 20 objects
OBJECTS: dict[str, str] = {
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

OBJECTS["city_country"] = OBJECTS["country"]
#: subject type -> first words of names; a hyphen stands for a space
HEADS: dict[str, str] = {
    "person": "Anna Boris Clara David Elena Felix Greta Henry Irene Jonas Katja Lukas Maria Nils Olga Peter Quentin "
    "Rosa Simon Tara Ulrich Vera Walter Xenia Yara Zoltan Agnes Bruno Carla Denis Edith Frank Gloria Hugo Isabel "
    "Julian Karin Leon Monica Norman",
    "company": "Atelier Maison House Studio Banco Casa Grupo Brothers",
    "place": "Lake Mount Port Fort Cape Castle Valley Abbey",
    "book": "Ballad-of Song-of Return-to Voyage-to Letters-from Tales-of Nights-in Beyond",
}

#: subject type -> how many subjects of several tokens, and of one
MULTI: dict[str, int] = {"person": 260, "company": 240, "place": 240, "book": 240}
SINGLE: dict[str, int] = {"company": 20, "place": 20}
#: how many are kept out of all requests, for downstream tasks
RESERVED: dict[str, int] = {"person": 20, "company": 20, "place": 20, "book": 20}


def _words(text: str, separator: str = " ") -> tuple[str, ...]:
    return tuple(text.split(separator))


# -- filler: sentences that state no fact

ADJECTIVES = _words(
    "old green quiet busy warm simple young small large bright dark heavy early late narrow empty famous "
    "careful gentle strange wooden broken distant local"
)
NOUNS = _words(
    "market garden house river train window letter song story winter morning bridge table doctor dog cat "
    "road kitchen boat field picture clock neighbour visitor child teacher tree door lamp coat island "
    "storm village book"
)
VERBS = _words(
    "opened closed found watched missed crossed painted carried followed repaired remembered described "
    "ignored reached left visited helped moved covered liked"
)
WHEN = _words(
    "this morning;last winter;before the storm;after dinner;every summer;in the afternoon;for many "
    "years;near the river;behind the old house;on the way home;without a word;during the night;at the end "
    "of the road",
    ";",
)
OPENERS = _words(
    "Sometimes;Therefore;Because of this;In the end;You know;I think;Every year;However;Later;Of "
    "course;At first;They say that;For example;Once again",
    ";",
)

#: endings whose last word follows from the words before it
SET_PHRASES = tuple(phrase for phrase in WHEN if phrase != "every summer")
#: a sentence whose last word follows from its beginning
ECHO = "they spoke of the {} and the {}, then again of the {} and the {}"
#: a statement and its verdict
CLAIM = "Claim: {}? {}"
#: what is claimed: a subject and its type
CLAIMED = ("{} is a {}", "{} was always a {}", "the name {} means a {}", "I know {} as a {}")

# -- invented names: beginnings (onset + rest) and ends

ONSETS = _words("B Br C Cr D Dr F Fl G Gr H J K Kr L M N P Pl Qu R S St T Tr V W Y Z Sk")
STARTS_REST = _words("al an ar el en er il in or ol un ur")
END_ONSETS = _words("b d f g h k l m n r s t v w br st th")
END_RESTS = _words("all and ard ath ell ent erg est ick ida ill ina ist ona ord oss uck und urn ova")
