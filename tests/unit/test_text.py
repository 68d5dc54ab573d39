"""Where a subject ends and where a continuation starts, against tokenising the parts apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.reference import Reference
from helpers.tiny import tiny_tokenizer

from edit_robust.core import Request, UserError
from edit_robust.editors.language.helpers.values import subject_rows
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.encoder import Encoder

TEMPLATES = [
    ("{} was born in", "Ada Valdoran"),
    ("{}'s instrument is the", "Boris Kestrin"),
    ("On stage {} plays the", "Greta Mavrost"),
    ("On stage, {}, who plays the", "Hugo"),
    ("The birthplace of {} is", "Zoë Müller-Å"),
    ("The birthplace of {} is", "Lidia Żółć"),
    ("{}, it is said, was born in", "Ada"),
    ("Today. {} works as a", "Clara O'Hara"),
    ("In 1921 {}", "Farid 7"),
    ("{} works as a", "Дмитрий"),
]


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen2", "gpt_neox"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return Encoder(tiny_tokenizer(request.param))


@pytest.mark.parametrize(("template", "subject"), TEMPLATES)
def test_last_token_of_the_subject(encoder: Encoder, template: str, subject: str) -> None:
    want, at = Reference.locate(_Apart(encoder), template, subject)  # type: ignore[arg-type]
    ((ids, spans),) = encoder.spans([template.replace("{}", subject)])
    assert ids[: at + 1] == want[: at + 1], "the parts apart are not the tokens of the whole: this test says nothing"
    end = template.index("{}") + len(subject)
    assert encoder.last_of(spans, end) == at


@pytest.mark.parametrize(("template", "subject"), TEMPLATES)
@pytest.mark.parametrize("target", [" London", " New Haven", " Ünïted"])
def test_continuations_start_where_the_prompt_ends(encoder: Encoder, template: str, subject: str, target: str) -> None:
    prompt = template.replace("{}", subject)
    alone = list(encoder.tokenizer(prompt)["input_ids"])
    goal = list(encoder.tokenizer(target, add_special_tokens=False)["input_ids"])
    ((ids, n),) = encoder.pairs([(prompt, target)])
    assert (ids, n) == ([*alone, *goal], len(alone))


class _Apart(Reference):
    """The plain implementation's way of finding subjects, without a model."""

    def __init__(self, encoder: Encoder) -> None:
        self.tok = encoder.tokenizer


def test_emoji_and_pieces_of_characters(encoder: Encoder) -> None:
    """A character that is several tokens belongs to the subject with all of them."""
    for text, end in (("Ada 🎻 plays", 5), ("Ada 🎻", 5), ("日本 plays", 2)):
        ((ids, spans),) = encoder.spans([text])
        begun = encoder.encode(text[:end])
        assert ids[: len(begun)] == begun
        assert encoder.last_of(spans, end) == len(begun) - 1
        ((whole, n),) = encoder.pairs([(text[:end], " plays")])
        assert n == len(begun) and whole[:n] == begun


def test_special_tokens_stand_in_front_only(encoder: Encoder) -> None:
    ids = encoder.encode("Ada")
    bos, eos = encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id
    assert ids[-1] != eos
    assert ids.count(bos) <= 1 if bos is not None else True
    assert encoder.decode(ids).strip() == "Ada"
    assert encoder.spans([]) == []


def test_begin_of_text_is_there_for_llama_and_not_for_gpt2() -> None:
    llama, gpt2 = Encoder(tiny_tokenizer("llama")), Encoder(tiny_tokenizer("gpt2"))
    assert llama.encode("") == [llama.tokenizer.bos_token_id] and gpt2.encode("") == []
    assert llama.encode("Ada")[0] == llama.begin
    ((ids, n),) = gpt2.pairs([("", "Ada plays")])
    assert n == 0 and ids == gpt2.encode("Ada plays")
    ((ids, n),) = llama.pairs([("", "Ada plays")])
    assert n == 1


def test_a_target_without_tokens_is_refused(encoder: Encoder) -> None:
    with pytest.raises(UserError, match="has no token after"):
        encoder.pairs([("Ada plays", "")])


def test_a_token_across_the_boundary_is_the_continuations() -> None:
    """Without a space prompt and continuation may melt together; then the melted token is scored."""
    gpt2 = Encoder(tiny_tokenizer("gpt2"))
    whole = gpt2.encode("Ada plays")
    ((ids, n),) = gpt2.pairs([("Ada pla", "ys")])
    assert ids == whole and 1 <= n < len(whole)


def test_subjects_in_templates(tiny_model: Callable[[str], CausalLM]) -> None:
    """The first place of the template is the prompt's, the subject's place is the prompt's own; a subject that
    occurs earlier by chance, or braces inside of it, change nothing."""
    model = tiny_model("gpt2")
    r = Request("0", "Ada knows {} and {}", "flute", "piano", "Ada")
    rows, at = subject_rows(model, [r], ["{}", "Ada, Ada. {}"])
    for ids, i, text in zip(rows, at, ("Ada knows Ada and {}", "Ada, Ada. Ada knows Ada and {}"), strict=True):
        assert ids == model.text.encode(text)
        assert model.text.decode(ids[: i + 1]) == text[: text.index(" and")]
    braces = Request("1", "{} plays the", "flute", "piano", "Ada {} Val")
    (ids,), (i,) = subject_rows(model, [braces], ["{}"])
    assert model.text.decode(ids) == "Ada {} Val plays the" and model.text.decode(ids[: i + 1]) == "Ada {} Val"
