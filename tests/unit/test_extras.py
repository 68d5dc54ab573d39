"""What records say beyond the edit: questions that follow from it, prompts to write on, texts to compare with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.real import real
from helpers.tiny import tiny_facts, write_json

from edit_robust.core import Ripple, TextRequest, UserError
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.facts import Facts
from edit_robust.tasks.language.zsre import Zsre

RIPPLE = [
    {"kind": "alias", "prompt": "The musician {} plays the", "target": "harp", "target_true": "lute"},
    {"kind": "Logical generalisation", "prompt": "Harps are played by", "target": "Ada"},
]
MORE = {"question": "What does {} play?", "generation_prompts": ["{} often "], "references": ["A harp has strings."]}


def own(tmp_path: Path, **more: Any) -> TextRequest:
    record = {"prompt": "{} plays the", "subject": "Ada Lovel", "target_new": "harp", "target_true": "lute", **more}
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(record) + "\n")
    return Facts(str(path)).requests()[0]


def test_ones_own_facts_bring_them(tmp_path: Path) -> None:
    request = own(tmp_path, ripple=RIPPLE, **MORE)
    assert request.ripple == (
        Ripple("alias", "The musician Ada Lovel plays the", "harp", "lute"),
        Ripple("logical-generalisation", "Harps are played by", "Ada", None),
    )
    assert (request.question, request.generation) == ("What does Ada Lovel play?", ("Ada Lovel often",))
    assert request.references == ("A harp has strings.",)


def test_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    head = "prompt,subject,target_new,question,generation_prompts,references"
    path.write_text(f"{head}\n{{}} plays the,Ada,harp,What does {{}} play?,{{}} often|{{}} never,A harp.\n")
    request = Facts(str(path)).requests()[0]
    assert request.question == "What does Ada play?"
    assert request.generation == ("Ada often", "Ada never") and request.references == ("A harp.",)


def test_counterfact_brings_them(tmp_path: Path) -> None:
    plain, full, other = tiny_facts(3)
    full |= {"ripple": RIPPLE, **MORE}
    other["attribute_prompts"] = ["Ben grew up in", "Eva lives in"]
    found = Counterfact(path=str(write_json(tmp_path / "c.json", [plain, full, other]))).requests()
    assert (found[0].question, found[0].generation, found[0].references, found[0].ripple) == (None, (), (), ())
    assert [q.kind for q in found[1].ripple] == ["alias", "logical-generalisation"]
    assert found[1].references == ("A harp has strings.",) and found[1].generation
    new = other["requested_rewrite"]["target_new"]["str"]
    assert found[2].references == (f"Ben grew up in {new}", f"Eva lives in {new}")


def test_real_records() -> None:
    found = Counterfact(path=str(real("counterfact/counterfact_120.json"))).requests()
    assert all(r.generation and r.references and not r.ripple for r in found)
    path = str(real("zsre/zsre_mend_eval_200.json"))
    asked = [r.ripple for r in Zsre(path=path, target="alt").requests()]
    assert any(asked) and {q.kind for some in asked for q in some} == {"reasoning"}
    assert not any(r.ripple for r in Zsre(path=path).requests()), "the questions follow from the alternative answer"


@pytest.mark.parametrize(
    "given, says",
    [
        ({"ripple": "alias"}, '"ripple" must be a list, not text'),
        ({"ripple": ["alias"]}, r'"ripple\[0\]" must be an object'),
        ({"ripple": [{**RIPPLE[0], "targets": "x"}]}, 'is unknown; did you mean "target"'),
        ({"ripple": [{"kind": "alias", "prompt": "x"}]}, r'"ripple\[0\].target" is missing'),
        ({"ripple": [{**RIPPLE[0], "kind": "¿?"}]}, "must be a word of letters and digits"),
        ({"ripple": [{**RIPPLE[0], "target": "lute"}]}, "is the same as target_true"),
        ({"references": "A harp."}, '"references" must be a list of texts'),
        ({"question": " "}, '"question" is empty'),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        own(tmp_path, **given)
    assert "facts.jsonl, line 1" in str(error.value)
