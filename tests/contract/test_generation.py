"""Generated text: the fast path is the plain one token by token, and no prompt's text depends on the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.plain import plain_logits
from helpers.small import left_as_found

from edit_robust.core import UserError
from edit_robust.models.language import generation
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow

Get = Callable[[str], CausalLM]
KINDS = ["gpt2", "gptj", "llama", "qwen2", "mistral"]
SHOTS = "Ada Valdoran plays the piano.\nBoris Kestrin plays the violin.\n"
PROMPTS = [
    "Clara Moreth plays the",
    "Hugo",
    "On stage, as they say in New Haven, Greta Mavrost plays the",
    "By trade Ada is",
]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny_model: Get) -> CausalLM:
    return tiny_model(request.param)


def by_hand(model: CausalLM, prompt: str, n: int) -> str:
    """Greedy, one sequence at a time, the whole network for every token."""
    ids = model.text.encode(prompt) or [model.text.begin]
    start = len(ids)
    for _ in range(n):
        token = int(plain_logits(model, ids)[-1].argmax())
        if token == model.text.tokenizer.eos_token_id:
            break
        ids.append(token)
    return model.text.decode(ids)[len(model.text.decode(ids[:start])) :]


@pytest.mark.parametrize("prefix", ["", SHOTS])
def test_greedy_text_is_that_of_whole_forward_passes(model: CausalLM, prefix: str) -> None:
    want = [by_hand(model, f"{prefix}{p}", 12) for p in PROMPTS]
    assert len(set(want)) == len(PROMPTS), "the texts are all the same: this test says little"
    with left_as_found(model):
        assert model.generate(PROMPTS, 12, prefix=prefix) == want
    assert [model.generate([p], 12, prefix=prefix)[0] for p in PROMPTS] == want
    assert model.generate(PROMPTS, 12, prefix=prefix, batch_size=2) == want
    model.fast = False
    try:
        assert model.generate(PROMPTS, 12, prefix=prefix) == want
    finally:
        model.fast = True


def test_the_prefix_is_read_once(tiny_model: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    read: list[int] = []
    inner = CausalLM.hidden

    def hidden(self: CausalLM, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        read.append(ids.numel())
        return inner(self, ids, **kwargs)

    monkeypatch.setattr(CausalLM, "hidden", hidden)
    model.generate(PROMPTS, 1, prefix=SHOTS, batch_size=1)
    shots = len(model.text.encode(SHOTS))
    alone = sum(len(model.text.encode(f"{SHOTS}{p}")) for p in PROMPTS)
    assert sum(read) <= alone - (len(PROMPTS) - 1) * (shots - 1)


def test_a_prompt_that_begins_unlike_the_prefix_tokens(tiny_model: Get) -> None:
    """The last token of the prefix may join the prompt's first letters: only tokens that all texts share are shared."""
    model = tiny_model("gpt2")
    word = next(w for w in ("violin", "London", "piano") if len(model.text.encode(f" {w}")) == 1)
    prefix, prompts = f"Ada plays {word[:3]}", [f"{word[3:]} and", "", f"{word[3:]}"]
    assert model.text.encode(prefix + prompts[0])[: len(model.text.encode(prefix))] != model.text.encode(prefix)
    assert model.generate(prompts, 8, prefix=prefix) == [by_hand(model, prefix + p, 8) for p in prompts]


def test_sampled_text_does_not_depend_on_the_batch(model: CausalLM) -> None:
    def sampled(prompts: list[str], seed: int = 1, **more: Any) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(prompts, 10, sample=True, top_k=5, temperature=0.8, generator=generator, **more)

    texts = sampled(PROMPTS)
    assert sampled(PROMPTS) == texts != sampled(PROMPTS, seed=2)
    assert sampled(PROMPTS, batch_size=1) == texts
    assert sampled(PROMPTS[::-1])[::-1] == texts
    assert [sampled([p])[0] for p in PROMPTS] == texts
    three = sampled([PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]])
    assert three[0] == texts[0] and three[1] == texts[1] and len({three[0], three[2], three[3]}) > 1
    model.fast = False
    try:
        assert sampled(PROMPTS) == texts
    finally:
        model.fast = True


def test_sampling_draws_from_the_models_distribution(tiny_model: Get) -> None:
    model, n = tiny_model("llama"), 400
    ids = model.text.encode("Ada plays")
    generator = torch.Generator().manual_seed(0)
    first = model.generate(["Ada plays"] * n, 1, sample=True, top_k=3, generator=generator)
    top = plain_logits(model, ids)[-1].topk(3)
    start = len(model.text.decode(ids))
    likely: dict[str, float] = {}
    for p, token in zip(top.values.softmax(-1).tolist(), top.indices.tolist(), strict=True):
        text = model.text.decode([*ids, token])[start:]
        likely[text] = likely.get(text, 0.0) + p
    assert len(likely) > 1 and set(first) == set(likely)
    for text, p in likely.items():
        assert abs(first.count(text) / n - p) < 4 * (p * (1 - p) / n) ** 0.5, (text, p)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model.generate(PROMPTS, 3, sample=True, generator=generator)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    coldest = model.generate(PROMPTS, 8, sample=True, temperature=1e-4, generator=generator)
    assert coldest == model.generate(PROMPTS, 8), "at no temperature the likeliest token is drawn"


def test_text_ends_at_an_end_of_text_token(tiny_model: Get) -> None:
    """A row that ends leaves the others as they are; the token itself is not part of the text."""
    model = tiny_model("gpt2")
    whole = [by_hand(model, p, 12) for p in PROMPTS]
    ids = model.text.encode(PROMPTS[0])
    for _ in range(4):
        ids.append(int(plain_logits(model, ids)[-1].argmax()))
    kept = model.config.eos_token_id
    model.config.eos_token_id = [kept, ids[-1]]
    try:
        assert ids[-1] in generation.end_tokens(model)
        for batch_size in (None, 1):
            found = model.generate(PROMPTS, 12, batch_size=batch_size)
            stop = ids.index(ids[-1], len(model.text.encode(PROMPTS[0])))
            assert found[0] == model.text.decode(ids[:stop])[len(PROMPTS[0]) :]
            for short, long in zip(found, whole, strict=True):
                assert long.startswith(short)
    finally:
        model.config.eos_token_id = kept


def test_stop_texts(tiny_model: Get) -> None:
    model = tiny_model("gpt2")
    whole = model.generate(PROMPTS, 12)
    letters = {c for t in whole for c in t}
    stop = [sorted(letters - {" "})[3], sorted(letters - {" "})[-1]]
    found = model.generate(PROMPTS, 12, stop=stop)
    cut = [t[: min([t.index(s) for s in stop if s in t] or [len(t)])] for t in whole]
    assert found == cut != whole
    assert model.generate(PROMPTS, 12, stop=[]) == model.generate(PROMPTS, 12, stop=[""]) == whole


def test_text_ends_at_the_window(tiny_model: Get) -> None:
    model = tiny_model("llama")
    prompt = "Ada plays the flute. " * 40
    prompt = model.text.decode(model.text.encode(prompt)[: model.max_tokens - 3]).strip()
    room = model.max_tokens - len(model.text.encode(prompt))
    assert 1 <= room < 8
    long, short = model.generate([prompt, "Ada"], 20)
    assert long == by_hand(model, prompt, room) and short == by_hand(model, "Ada", 20)
    with pytest.raises(UserError, match="leaves no room"):
        model.generate(["Ada plays the flute. " * 60], 5)


def test_text_ends_where_prompt_and_text_are_long_enough(model: CausalLM) -> None:
    """Prompts of different lengths get different room; one that fills it alone is followed by nothing."""
    lengths = [len(model.text.encode(p)) for p in PROMPTS]
    total = sorted(lengths)[-2]
    assert max(lengths) > total > min(lengths)
    want = [by_hand(model, p, total - n) if total > n else "" for p, n in zip(PROMPTS, lengths, strict=True)]
    assert model.generate(PROMPTS, total, max_length=total) == want
    assert model.generate(PROMPTS, total, max_length=total, batch_size=1) == want


def test_attention_that_sees_a_window(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Rows with a gap would see too little; they stand together only with rows of their own length."""
    folder = Path(shutil.copytree(checkpoint("mistral"), tmp_path / "window"))
    config = transformers.AutoConfig.from_pretrained(folder)
    config.sliding_window = 6
    config.save_pretrained(folder)
    model = CausalLM(str(folder), device="cpu")
    assert model.window == 6
    prompts = [*PROMPTS, "Clara Moreth plays the"]
    for prefix in ("", SHOTS):
        assert model.generate(prompts, 10, prefix=prefix) == [by_hand(model, f"{prefix}{p}", 10) for p in prompts]


def test_models_whose_keys_and_values_cannot_be_kept(tiny_model: Get) -> None:
    """Whole texts are read again for every token, side by side."""
    model = tiny_model("bloom")
    wanted = [by_hand(model, SHOTS + p, 6) for p in PROMPTS]
    assert model.generate(PROMPTS, 6, prefix=SHOTS) == wanted
    able, model.abilities = model.abilities, replace(model.abilities, tails=False)
    forwards: list[int] = []
    hook = model.anatomy.owner.register_forward_hook(lambda m, a, o: forwards.append(1))
    try:
        assert model.generate(PROMPTS, 6, prefix=SHOTS) == wanted
    finally:
        hook.remove()
        model.abilities = able
    assert len(forwards) == 6, "a forward pass a token, whatever the number of prompts"


def test_what_cannot_be_generated(tiny_model: Get) -> None:
    model = tiny_model("gpt2")
    assert model.generate([], 5) == []
    assert model.generate([""], 3) == [by_hand(model, "", 3)]
    for wrong, says in (
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"sample": True}, "needs a generator"),
        ({"temperature": 0.0}, "temperature=0.0"),
    ):
        with pytest.raises(UserError, match=says):
            model.generate(["Ada"], **{"max_new_tokens": 2, **wrong})  # type: ignore[arg-type]
